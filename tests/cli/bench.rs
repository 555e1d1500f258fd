//! A folder for one run of the command line.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use prost::Message;
use tempfile::TempDir;
use zqc::ir::onnx::proto::ModelProto;

use crate::support::zqc;

/// A folder with the input in it, and an empty one inside for the output.
pub struct Bench {
    folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("out")).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the output goes unless a test says otherwise.
    pub fn output(&self) -> PathBuf {
        self.path("out/model.onnx")
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn model(&self, proto: &ModelProto) -> PathBuf {
        self.write("model.onnx", proto.encode_to_vec())
    }

    /// Runs `zqc MODEL OPTIONS`, which must end with `code`, write nothing, and name each of `words` as the reason.
    pub fn refuse<A: AsRef<OsStr>>(&self, code: i32, model: &Path, options: &[A], words: &[&str]) {
        let before = self.files();
        let options = options.iter().map(|option| option.as_ref().to_os_string());
        let output = zqc(std::iter::once(OsString::from(model)).chain(options));
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{message}");
        words.iter().for_each(|word| assert!(message.contains(word), "no {word:?} in: {message}"));
        assert_eq!(output.stdout, b"");
        assert_eq!(self.files(), before);
    }

    /// As [`Bench::refuse`], with the usual output.
    pub fn refuse_to_compile(&self, code: i32, model: &Path, options: &[&str], words: &[&str]) {
        let output = self.output();
        let all: Vec<&OsStr> =
            options.iter().map(|o| o.as_ref()).chain(["-o".as_ref(), output.as_os_str()]).collect();
        self.refuse(code, model, &all, words);
    }

    /// Runs `zqc MODEL -o OUTPUT OPTIONS`, which must succeed; standard output and standard error.
    pub fn compile(&self, model: &Path, output: &Path, options: &[&str]) -> (String, String) {
        let paths = [model.as_os_str(), "-o".as_ref(), output.as_os_str()];
        let output = zqc(paths.into_iter().chain(options.iter().map(|option| option.as_ref())));
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        (stdout, stderr)
    }

    /// The names in a folder inside, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Everything in the folder with its content.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut folders, mut files) = (vec![self.folder.path().to_path_buf()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push((path.clone(), std::fs::read(path).unwrap())),
                }
            }
        }
        files.sort();
        files
    }
}
