//! The data file beside a written model.
//!
//! People and tools expect `MODEL.onnx.data`. A second name, which follows from the content, serves while one model replaces
//! another that reads a file of the first: no moment may find a model beside the weights of another.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use memchr::memmem;
use prost::Message;
use sha2::{Digest, Sha256};

use super::external::map_file;
use super::place::Place;
use super::proto::{ModelProto, StringStringEntryProto, tensor_proto::DataLocation};
use super::temporary::TemporaryFolder;
use super::write::WriteError;
use crate::tensor::is_external;
use crate::text::parse::{Parser, is_text};

/// Smaller tensors stay inline, so that shape constants can be read without the data file.
const EXTERNAL_FLOOR: usize = 1024;
/// Offsets are multiples of this, so that a reader can map tensors one by one.
const ALIGNMENT: u64 = 4096;
/// Hexadecimal digits in the second name of a data file.
const DIGITS: usize = 16;

/// Whether the graph has constants that go to the data file of a model that has one.
pub(crate) fn has_large(model: &ModelProto) -> bool {
    let mut constants = model.graph.iter().flat_map(|graph| &graph.initializer);
    constants.any(|tensor| tensor.raw_data.as_ref().is_some_and(is_large))
}

fn is_large(raw: &Bytes) -> bool {
    raw.len() >= EXTERNAL_FLOOR
}

/// A data file in a temporary folder, on its way to its place.
pub(super) struct StagedData {
    /// `MODEL.onnx.data`.
    plain: Place,
    /// `MODEL.onnx.HASH.data`.
    hashed: Place,
    pub size: u64,
}

impl StagedData {
    /// Moves payloads of `proto` into a data file in `folder`, for a model that is to be at `model`.
    pub fn write(proto: &mut ModelProto, model: &Path, folder: &TemporaryFolder) -> Result<Self, WriteError> {
        let io = |source| WriteError::Io { path: model.to_path_buf(), source };
        let model_name = model.file_name().and_then(|name| name.to_str());
        let no_name = "its weights go to a file beside it that it names, so its own name must be UTF-8";
        let model_name = model_name.ok_or_else(|| io(std::io::Error::other(no_name)))?;
        let plain = format!("{model_name}.data");
        let mut file = BufWriter::new(File::create_new(folder.join(&plain)).map_err(io)?);
        let mut hash = Sha256::new();
        let mut offset = 0u64;
        for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
            let Some(raw) = tensor.raw_data.take_if(|raw| is_large(raw)) else { continue };
            let padding = offset.next_multiple_of(ALIGNMENT) - offset;
            std::io::copy(&mut std::io::repeat(0).take(padding), &mut file).map_err(io)?;
            file.write_all(&raw).map_err(io)?;
            let start = offset + padding;
            offset = start + raw.len() as u64;
            hash.update(start.to_le_bytes());
            hash.update(&raw);
            let entry = |key: &str, value: String| StringStringEntryProto {
                key: Some(key.to_string()),
                value: Some(value),
            };
            tensor.external_data = vec![
                entry("location", plain.clone()),
                entry("offset", start.to_string()),
                entry("length", raw.len().to_string()),
            ];
            tensor.data_location = Some(DataLocation::External as i32);
        }
        let file = file.into_inner().map_err(|error| io(error.into_error()))?;
        file.sync_all().map_err(io)?;
        let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let hashed = format!("{model_name}.{}.data", &digits[..DIGITS]);
        let place = |name: &str| Place::of(&model.with_file_name(name));
        Ok(Self { plain: place(&plain)?, hashed: place(&hashed)?, size: offset })
    }

    /// Makes the model name the file by its second name.
    pub fn name_by_hash(&self, proto: &mut ModelProto) {
        let entries = external_entries(proto).filter(|entry| entry.key() == "location");
        entries.for_each(|entry| entry.value = self.hashed.file_name().to_str().map(str::to_string));
    }

    /// Moves the file from `folder` to its place and the model after it: `model` names it plainly, `by_hash` by its second name.
    /// The name that it has now.
    ///
    /// # Errors
    /// When the operating system refuses; what was there is then still whole.
    pub fn take(
        &self,
        folder: &TemporaryFolder,
        place: &Place,
        model: &Path,
        by_hash: &Path,
    ) -> Result<&OsStr, WriteError> {
        let (new, occupant) = (folder.join(self.plain.file_name()), place.occupant());
        let occupant = occupant.as_ref();
        if self.plain.occupant().is_none() {
            self.plain.take(&new, occupant)?;
            place.take(model, occupant)?;
            return Ok(self.plain.file_name());
        }
        let replaceable = old_data(place.path()).contains(self.plain.path());
        let second = folder.join("second");
        let linked = replaceable && fs::hard_link(&new, &second).is_ok();
        self.hashed.take(if linked { &second } else { &new }, occupant)?;
        place.take(by_hash, occupant)?;
        // From here on the new model is in its place, and only its data file may get a better name.
        let renamed =
            linked && self.plain.take(&new, occupant).is_ok() && place.take(model, occupant).is_ok();
        if !renamed {
            return Ok(self.hashed.file_name());
        }
        let _ = fs::remove_file(self.hashed.path()); // the next model that is written here removes what stays
        Ok(self.plain.file_name())
    }
}

/// The data files that only the model at `path` reads and that are named after it, and those of a killed process.
pub(super) fn old_data(path: &Path) -> BTreeSet<PathBuf> {
    let (Some(name), Some(folder)) = (path.file_name().and_then(OsStr::to_str), path.parent()) else {
        return BTreeSet::new();
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let files = || fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours =
        |path: &PathBuf| path.file_name().and_then(OsStr::to_str).is_some_and(|file| is_hashed(file, name));
    let name_of = |path: &Path| path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_string();
    let beside = data_files(path).into_iter().filter(|file| file.parent() == path.parent());
    let mut old: BTreeSet<String> = beside.map(|file| name_of(&file)).collect();
    old.retain(|file| file.starts_with(name));
    let is_model = |path: &PathBuf| is_text(path) || path.extension().is_some_and(|ending| ending == "onnx");
    for other in files().filter(|other| is_model(other) && other.file_name() != path.file_name()) {
        if old.is_empty() {
            break;
        }
        let bytes = map_file(&other).unwrap_or_default();
        old.retain(|file| memmem::find(&bytes, file.as_bytes()).is_none());
    }
    old.into_iter().map(|file| path.with_file_name(file)).chain(files().filter(ours)).collect()
}

/// Removes data files but for the one called `kept`; the new model is in its place and whole without them.
pub(super) fn remove(files: BTreeSet<PathBuf>, kept: Option<&OsStr>) {
    for file in files.into_iter().filter(|file| file.file_name() != kept) {
        let _ = fs::remove_file(file); // what stays does no harm
    }
}

/// Whether `file` is a second name of a data file of the model `name`.
fn is_hashed(file: &str, name: &str) -> bool {
    let digits = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".data"));
    digits
        .is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Whether `file` has a name under which [`write`](super::write()) puts the weights of a model beside it that is at `model`.
pub fn is_data_file(file: &Path, model: &Path) -> bool {
    let name = |path: &Path| path.file_name().and_then(OsStr::to_str).map(str::to_string);
    let (Some(file_name), Some(model_name)) = (name(file), name(model)) else { return false };
    file.parent() == model.parent()
        && (file_name == format!("{model_name}.data") || is_hashed(&file_name, &model_name))
}

/// The files in the folder of the model at `path`, and in those below, that hold its weights; none where there is no model.
pub fn data_files(path: &Path) -> BTreeSet<PathBuf> {
    let Some(mut proto) = map_file(path).ok().and_then(message) else {
        return BTreeSet::new();
    };
    let entries = external_entries(&mut proto).filter(|entry| entry.key() == "location");
    entries.filter_map(|entry| inside(entry.value())).map(|file| path.with_file_name(file)).collect()
}

/// The model that a file says, as ONNX or as text, with its constants where they lie.
fn message(bytes: Bytes) -> Option<ModelProto> {
    let text = || Some(Parser::new(std::str::from_utf8(&bytes).ok()?).model().ok()?.0);
    ModelProto::decode(bytes.clone()).ok().or_else(text)
}

/// The path of a data file in the folder of its model, without `.`; `None` where it leads out of it.
fn inside(location: &str) -> Option<PathBuf> {
    let parts = Path::new(location).components().filter(|part| *part != Component::CurDir);
    let plain: Option<PathBuf> = parts
        .map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    plain.filter(|path| !path.as_os_str().is_empty())
}

fn external_entries(proto: &mut ModelProto) -> impl Iterator<Item = &mut StringStringEntryProto> {
    let tensors = proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    tensors.filter(|tensor| is_external(tensor)).flat_map(|tensor| &mut tensor.external_data)
}
