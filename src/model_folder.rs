//! Folders as exporters write them: a model, its tokenizer and its configuration, that of onnxruntime-genai among them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use zqc_formats::FUNCTION_DOMAIN;
use zqc_ir::Model;
use zqc_ir::onnx::{self, FolderError, StagedFolder, Storage, WriteError};

use crate::error::Error;
use crate::target::Writer;

/// What onnxruntime-genai reads first.
const GENAI_CONFIG: &str = "genai_config.json";
/// The model of a folder, unless its configuration names another.
const MODELS: [&str; 2] = ["model.onnx", "onnx/model.onnx"];
/// Other forms of the weights, by the ends of their names; they stay behind.
const WEIGHTS: [&str; 11] = [
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".gguf",
    ".pt",
    ".pth",
    ".msgpack",
    ".h5",
    ".ot",
    ".tflite",
];
/// What runs the layers of a result in ONNX Runtime, which takes it from the model's folder only.
const LIBRARY: &str = "libzqc_ort.so";
/// Deeper folders are not looked into.
const DEPTH: usize = 8;

/// The model that `path` names: the file itself, or the one in the folder.
///
/// # Errors
/// When it is a folder that holds no model, or several of which none stands out.
pub fn find_model(path: &Path) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    Ok(path.join(model_in(path)?))
}

/// Where the model of a folder lies in it.
fn model_in(folder: &Path) -> Result<PathBuf, Error> {
    let wrong = |reason: String| Error::Model(format!("{}: {reason}", folder.display()));
    if let Some(named) = named_by_config(folder)? {
        return match folder.join(&named).is_file() {
            true => Ok(named),
            false => Err(wrong(format!("{GENAI_CONFIG} names the decoder {named:?}, which is not there"))),
        };
    }
    if let Some(model) = MODELS.iter().find(|model| folder.join(model).is_file()) {
        return Ok(model.into());
    }
    let files = files(folder).map_err(|error| wrong(error.to_string()))?;
    let models: Vec<PathBuf> = files.into_iter().filter(|file| is_model(file)).collect();
    match &models[..] {
        [model] => Ok(model.clone()),
        [] => Err(wrong("it is a folder without an ONNX model".to_string())),
        [..] => {
            let names: Vec<String> = models.iter().map(|model| model.display().to_string()).collect();
            Err(wrong(format!("it is a folder with several models; name one: {}", names.join(", "))))
        }
    }
}

/// The decoder that the configuration of onnxruntime-genai names; `None` without a configuration.
fn named_by_config(folder: &Path) -> Result<Option<PathBuf>, Error> {
    let path = folder.join(GENAI_CONFIG);
    let wrong = |reason: String| Error::Model(format!("{}: {reason}", path.display()));
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| wrong(error.to_string()))?,
    };
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text); // a byte-order mark, as editors of Windows write it
    let config: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| wrong(format!("it is no JSON: {error}")))?;
    let named = config["model"]["decoder"]["filename"].as_str().map(PathBuf::from);
    let inside = |path: &PathBuf| {
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    };
    let plain = |path: PathBuf| path.components().filter(|part| *part != Component::CurDir).collect();
    let no_decoder = "model.decoder.filename names no file in the folder; name the ONNX file itself";
    named.filter(inside).map(plain).map(Some).ok_or_else(|| wrong(no_decoder.to_string()))
}

fn is_model(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "onnx")
}

/// The files in a folder and in those below, by their path in it; those whose names begin with a dot are hidden.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut walk = Walk { folder, above: vec![folder.canonicalize()?], found: Vec::new() };
    walk.enter(Path::new(""))?;
    walk.found.sort();
    Ok(walk.found)
}

/// A walk through a folder and those below.
struct Walk<'a> {
    folder: &'a Path,
    /// The real places of the folders that it is in.
    above: Vec<PathBuf>,
    found: Vec<PathBuf>,
}

impl Walk<'_> {
    fn enter(&mut self, below: &Path) -> io::Result<()> {
        let place = self.folder.join(below);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", place.display()));
        for entry in fs::read_dir(&place).map_err(named)? {
            let name = entry?.file_name();
            let path = below.join(&name);
            let hidden = name.as_encoded_bytes().first() == Some(&b'.');
            // A link leads to a file, as in the cache of the Hugging Face hub; one that leads nowhere is no file.
            match fs::metadata(self.folder.join(&path)) {
                Ok(metadata) if metadata.is_file() && !hidden => self.found.push(path),
                Ok(metadata) if metadata.is_dir() && !hidden && self.above.len() <= DEPTH => {
                    let real = self.folder.join(&path).canonicalize()?;
                    // A link to where the walk is, or to what that lies in, would lead it in a cycle.
                    if !self.above.iter().any(|above| above.starts_with(&real)) {
                        self.above.push(real);
                        self.enter(&path)?;
                        self.above.pop();
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Where a compiled ONNX model goes.
pub(crate) enum Destination {
    /// A file of its own.
    File(PathBuf, Storage),
    /// A folder, with all that lies beside the source.
    Folder(ModelFolder),
}

/// The folder that a model is compiled from, and the one that takes the result.
pub(crate) struct ModelFolder {
    source: PathBuf,
    target: PathBuf,
    /// The model, by its path in the folder.
    model: PathBuf,
    /// What goes along.
    companions: Vec<PathBuf>,
    storage: Storage,
}

impl Destination {
    /// Of the model that `input` names, when the user asks for `output`: a folder becomes a folder, unless the name of the output is
    /// that of a model; compiled to where it is, only its model is replaced. Its weights lie in a data file where those of the folder
    /// do, and where `external_data` asks for it.
    ///
    /// # Errors
    /// As [`find_model`], when the folder cannot be read, and when the model to replace is a link out of it, as in a cache: many
    /// folders share what lies there.
    pub fn of(input: &Path, output: &Path, external_data: bool) -> Result<Self, Error> {
        let storage = if external_data { Storage::External } else { Storage::Auto };
        if !input.is_dir() || is_model(output) && !output.is_dir() {
            return Ok(Self::File(output.to_path_buf(), storage));
        }
        let model = model_in(input)?;
        let data = onnx::data_files(&input.join(&model));
        let storage = if data.is_empty() { storage } else { Storage::External };
        let unreadable = |error: io::Error| Error::Model(format!("{}: {error}", input.display()));
        let (source, target) = (input.canonicalize().map_err(unreadable)?, output.canonicalize().ok());
        if target.as_ref() == Some(&source) {
            let path = input.join(model);
            let real = path.canonicalize().map_err(unreadable)?;
            if !real.starts_with(&source) {
                let real = real.display();
                let reason = format!(
                    "it is a link to {real}, which others may read; name another folder for the output"
                );
                return Err(FolderError::Occupied { path, reason }.into());
            }
            return Ok(Self::File(path, storage));
        }
        let mut all = files(input).map_err(unreadable)?;
        // An earlier result in the folder that it was made of is no part of that.
        if let Some(earlier) = target.as_ref().and_then(|target| target.strip_prefix(&source).ok()) {
            all.retain(|file| !file.starts_with(earlier));
        }
        let mut stays: BTreeSet<PathBuf> = data;
        let models = all.iter().filter(|file| is_model(file) && **file != model).map(|file| input.join(file));
        if input.join(GENAI_CONFIG).is_file() {
            // Other parts, which may read a file of weights that the model reads too.
            models.for_each(|part| stays.retain(|file| !onnx::data_files(&part).contains(file)));
        } else {
            // Other forms of the same model: quantized, merged, in halves.
            stays.extend(models.flat_map(|model| onnx::data_files(&model).into_iter().chain([model])));
        }
        stays.insert(input.join(&model));
        let is_weights = |file: &Path| {
            let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
            WEIGHTS.iter().any(|ending| name.ends_with(ending))
        };
        let goes = |file: &PathBuf| !is_weights(file) && !stays.contains(&input.join(file));
        Ok(Self::Folder(ModelFolder {
            source: input.to_path_buf(),
            target: output.to_path_buf(),
            companions: all.into_iter().filter(goes).collect(),
            model,
            storage,
        }))
    }

    /// The destination, once it is found out that the result can be written there, and read what goes along.
    ///
    /// # Errors
    /// When it cannot.
    pub fn checked(self) -> Result<Self, Error> {
        match &self {
            Self::File(path, _) => onnx::check_writable(path).map_err(|error| match error {
                WriteError::Directory { path } => Error::Directory { path },
                other => other.into(),
            })?,
            Self::Folder(folder) => folder.check_readable().and_then(|()| folder.stage()).map(drop)?,
        }
        Ok(self)
    }
}

impl Writer for Destination {
    fn write(&self, model: &Model, check: &mut dyn FnMut(&Path) -> Result<(), Error>) -> Result<u64, Error> {
        match self {
            Self::File(path, storage) => {
                let staged = onnx::stage(model, path, *storage)?;
                check(&staged.path())?;
                Ok(staged.persist()?)
            }
            Self::Folder(folder) => {
                let staged = folder.stage()?;
                let path = staged.path().join(&folder.model);
                for file in folder.companions.iter().chain([&folder.model]) {
                    let parent = staged.path().join(file.parent().unwrap_or(Path::new("")));
                    fs::create_dir_all(&parent).map_err(|source| folder.io(file, source))?;
                }
                // Before the model, whose data file has a name that none of them has.
                for file in &folder.companions {
                    let copied = copy(&folder.source.join(file), &staged.path().join(file));
                    copied.map_err(|source| folder.io(file, source))?;
                }
                let size = onnx::write(model, &path, folder.storage)?;
                check(&path)?;
                staged.commit()?;
                Ok(size)
            }
        }
    }

    fn companions(&self) -> &[PathBuf] {
        match self {
            Self::File(..) => &[],
            Self::Folder(folder) => &folder.companions,
        }
    }
}

impl ModelFolder {
    fn check_readable(&self) -> Result<(), Error> {
        self.companions.iter().try_for_each(|file| {
            let path = self.source.join(file);
            let wrong = |error: io::Error| {
                let reason = "it goes along with the model, and cannot be read";
                Error::Model(format!(
                    "{}: {reason}: {error}; move it elsewhere, or name the ONNX file itself",
                    path.display()
                ))
            };
            fs::File::open(&path).map(drop).map_err(wrong)
        })
    }

    /// An empty folder beside the target, which may replace an earlier result of the same files and nothing else.
    fn stage(&self) -> Result<StagedFolder, Error> {
        Ok(StagedFolder::new(&self.target, |folder, _| {
            let found = files(folder).unwrap_or_default();
            let other = found.iter().find(|file| !self.is_ours(file));
            let what = match other.cloned().or_else(|| hidden(folder)) {
                Some(other) => format!("{other:?} in it, which is not of this model"),
                None if !is_result(&folder.join(&self.model)) => {
                    format!("{:?} in it, which zqc has not quantized", self.model)
                }
                None => return None,
            };
            let way_out = "name one that does not exist yet, is empty, or holds an earlier result";
            Some(format!("it is a folder with {what}; {way_out}"))
        })?)
    }

    fn is_ours(&self, file: &Path) -> bool {
        let is_companion = || self.companions.iter().any(|companion| companion == file);
        let is_model = file == self.model || onnx::is_data_file(file, &self.model);
        is_model || file == Path::new(LIBRARY) || is_companion()
    }

    fn io(&self, file: &Path, source: io::Error) -> Error {
        FolderError::Io { path: self.target.join(file), source }.into()
    }
}

/// Whether the model at `path` is missing, or calls functions of ours, as a portable result does.
fn is_result(path: &Path) -> bool {
    let calls_ours =
        |model: Model| model.header.opset_import.iter().any(|opset| opset.domain() == FUNCTION_DOMAIN);
    !path.exists() || onnx::read(path).is_ok_and(calls_ours)
}

/// Something in the folder that [`files`] does not see.
fn hidden(folder: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.file_name());
    names.into_iter().find(|name| name.as_encoded_bytes().first() == Some(&b'.')).map(PathBuf::from)
}

/// Copies a file, and waits until it is on the disk.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    fs::File::open(to)?.sync_all()
}
