//! State beside the output, from which a run that was stopped goes on: solved stages, and the text that a model wrote.
//!
//! A file of the state holds the hash of all that its content follows from (model, options, calibration data, the program)
//! and of the content itself. One that does not match is left out with a note, and written anew.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use zqc_ir::Model;
use zqc_ir::onnx::{Content, WriteError};
use zqc_passes::{Checkpoints, Solution};
use zqc_runtime::{Array, ArrayData};

use crate::options::Options;
use crate::pipeline::Pipeline;

const MAGIC: &[u8] = b"zqc state 1\n";

/// A number that follows from what was hashed.
type Key = [u8; 32];

/// The state of one compilation.
pub(crate) struct State {
    folder: PathBuf,
    /// Follows from the model, the options and the program.
    text: Key,
    /// Follows from the samples too; `None` before they are known.
    stages: Cell<Option<Key>>,
    restored: Cell<usize>,
    notes: RefCell<Vec<String>>,
    stored: Cell<bool>,
    /// Whether a file could not be stored: the rest is not tried.
    full: Cell<bool>,
}

impl State {
    /// Where the state of the compilation to `output` lies.
    pub(crate) fn folder(output: &Path) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(output.file_name().unwrap_or_default());
        name.push(".zqc-resume");
        output.with_file_name(name)
    }

    /// The state of a compilation of `model` to `output`; nothing is written yet. The names of its passes count.
    pub(crate) fn new(
        output: &Path,
        model: &Model,
        options: &Options,
        pipeline: &Pipeline,
    ) -> Result<Self, WriteError> {
        let mut hash = Sha256::new();
        hash.update(Content::of(model)?.sha256());
        let passes: Vec<&str> = pipeline.names().collect();
        let stop = pipeline.stop();
        hash.update(format!("{:?} {passes:?} {stop:?} {}", decisive(options), program()));
        Ok(Self {
            folder: Self::folder(output),
            text: hash.finalize().into(),
            stages: Cell::default(),
            restored: Cell::default(),
            notes: RefCell::default(),
            stored: Cell::default(),
            full: Cell::default(),
        })
    }

    /// The samples that stages are solved on.
    pub(crate) fn set_samples(&self, samples: &[Vec<(String, Array)>]) {
        let mut hash = Sha256::new();
        hash.update(self.text);
        for (name, array) in samples.iter().flatten() {
            hash.update(format!("{name:?} {:?} {:?} ", array.shape, array.data.data_type()));
            hash_elements(&array.data, &mut hash);
        }
        self.stages.set(Some(hash.finalize().into()));
    }

    /// The text that the model wrote, as token ids.
    pub(crate) fn text(&self) -> Option<Vec<Vec<i64>>> {
        self.read("text", self.text)
    }

    /// Stores the text that the model wrote.
    pub(crate) fn store_text(&self, sequences: &[Vec<i64>]) {
        self.write("text", self.text, &sequences);
    }

    /// How many stages an earlier run had solved, and what a user should know.
    pub(crate) fn outcome(&self) -> (usize, Vec<String>) {
        (self.restored.get(), self.notes.take())
    }

    /// Whether this run has stored anything.
    pub(crate) fn has_stored(&self) -> bool {
        self.stored.get()
    }

    /// Removes the state.
    pub(crate) fn remove(output: &Path) {
        let _ = std::fs::remove_dir_all(Self::folder(output)); // there may be none; a next run takes care of what stays
    }

    fn read<T: DeserializeOwned>(&self, name: &str, key: Key) -> Option<T> {
        let path = self.folder.join(name);
        let bytes = std::fs::read(&path).ok()?;
        let content = match unseal(&bytes, key) {
            Ok(content) => postcard::from_bytes(content).map_err(|_| "damaged"),
            Err(reason) => Err(reason),
        };
        let note = |reason: &&str| {
            self.notes.borrow_mut().push(format!("{}: {reason}, so it is not used", path.display()));
        };
        content.inspect_err(note).ok()
    }

    fn write(&self, name: &str, key: Key, content: &impl Serialize) {
        if self.full.get() {
            return;
        }
        let write = || {
            let content = postcard::to_stdvec(content).map_err(std::io::Error::other)?;
            // The output's own folder is not made: where it vanished, what comes there is not on its device.
            match std::fs::create_dir(&self.folder) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            std::fs::write(self.folder.join(name), seal(&content, key))
        };
        self.stored.set(true);
        if let Err(error) = write() {
            let note = format!("cannot keep state in {:?}: {error}; a stopped run starts anew", self.folder);
            self.notes.borrow_mut().push(note);
            self.full.set(true);
        }
    }
}

impl Checkpoints for State {
    fn load(&self, stage: usize) -> Option<Vec<Solution>> {
        let solutions = self.read(&file_name(stage), self.stages.get()?)?;
        self.restored.set(self.restored.get() + 1);
        Some(solutions)
    }

    fn store(&self, stage: usize, solutions: &[&Solution]) {
        if let Some(key) = self.stages.get() {
            self.write(&file_name(stage), key, &solutions);
        }
    }
}

/// The options without those that no solution follows from. Of the calibration data the content counts, see
/// [`State::set_samples`].
fn decisive(options: &Options) -> Options {
    Options {
        calibration: Vec::new(),
        tokenizer: None,
        threads: None,
        tune: 0,
        verify: true,
        external_data: false,
        ..options.clone()
    }
}

fn file_name(stage: usize) -> String {
    format!("stage-{stage:05}")
}

/// Magic, key and hash in front of the content.
fn seal(content: &[u8], key: Key) -> Vec<u8> {
    [MAGIC, &key, &Sha256::digest(content), content].concat()
}

/// The content of a file that was sealed with this key, or what is wrong.
fn unseal(bytes: &[u8], key: Key) -> Result<&[u8], &'static str> {
    let head = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk::<32>());
    let Some((found, rest)) = head else { return Err("damaged") };
    if *found != key {
        return Err("of another model, option or program");
    }
    match rest.split_first_chunk::<32>() {
        Some((hash, content)) if Sha256::digest(content)[..] == hash[..] => Ok(content),
        _ => Err("damaged"),
    }
}

/// What tells this build of the program from others.
fn program() -> String {
    let file = std::env::current_exe().and_then(std::fs::metadata);
    let file = file.map(|file| (file.len(), file.modified().ok())).ok();
    format!("{} {file:?}", env!("CARGO_PKG_VERSION"))
}

fn hash_elements(data: &ArrayData, hash: &mut Sha256) {
    fn each<T: Copy, const N: usize>(elements: &[T], bytes: impl Fn(T) -> [u8; N], hash: &mut Sha256) {
        elements.iter().for_each(|&element| hash.update(bytes(element)));
    }
    match data {
        ArrayData::F32(elements) => each(elements, f32::to_le_bytes, hash),
        ArrayData::I64(elements) => each(elements, i64::to_le_bytes, hash),
        ArrayData::I32(elements) => each(elements, i32::to_le_bytes, hash),
        ArrayData::I8(elements) => each(elements, i8::to_le_bytes, hash),
        ArrayData::U8(elements) => hash.update(elements.as_slice()),
        ArrayData::Bool(elements) => each(elements, |element| [u8::from(element)], hash),
    }
}

#[cfg(test)]
mod tests {
    use super::{MAGIC, seal, unseal};

    #[test]
    fn only_what_was_sealed_with_the_key_is_unsealed() {
        let (key, other) = ([1; 32], [2; 32]);
        let sealed = seal(b"content", key);
        assert_eq!(unseal(&sealed, key), Ok(&b"content"[..]));
        assert_eq!(unseal(&sealed, other), Err("of another model, option or program"));
        for end in 0..sealed.len() {
            assert!(unseal(&sealed[..end], key).is_err(), "{end} bytes");
        }
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone();
            bytes[at] ^= 1;
            assert!(unseal(&bytes, key).is_err(), "byte {at}");
        }
        assert!(unseal(MAGIC, key).is_err());
    }
}
