//! Calibration files, sound and hostile, made on the fly.

mod arrays;
mod failures;
mod text;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_runtime::{
    Array, CalibrationSample, DataError, Dimension, InputError, InputSpec, SampleOptions, Tokenizer,
    TokenizerError, load_calibration, make_inputs,
};

/// Words `w0` to `w9` separated by spaces; the file asks for truncation, which must not happen.
const TOKENIZER: &str = r#"{
    "version": "1.0", "padding": null, "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
    "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "unk_token": "w0", "vocab": {
        "w0": 0, "w1": 1, "w2": 2, "w3": 3, "w4": 4, "w5": 5, "w6": 6, "w7": 7, "w8": 8, "w9": 9}}
}"#;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn tokenizer(&self) -> Arc<Tokenizer> {
        Arc::new(Tokenizer::load(&self.file("tokenizer.json", TOKENIZER)).unwrap())
    }

    fn npz(&self, name: &str, arrays: &[(&str, Vec<u8>)]) -> PathBuf {
        let path = self.0.path().join(name);
        let mut archive = zip::ZipWriter::new(fs::File::create(&path).unwrap());
        for (array, content) in arrays {
            archive.start_file(format!("{array}.npy"), SimpleFileOptions::default()).unwrap();
            archive.write_all(content).unwrap();
        }
        archive.finish().unwrap();
        path
    }
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

fn le_bytes(tokens: &[i64]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

fn specs() -> Vec<InputSpec> {
    let shape = Some(["batch", "seq"].map(|symbol| Dimension::Symbolic(symbol.into())).to_vec());
    ["input_ids", "attention_mask"]
        .map(|name| InputSpec { name: name.into(), data_type: DataType::Int64, shape: shape.clone() })
        .to_vec()
}

fn load(
    path: &Path,
    tokenizer: Option<&Arc<Tokenizer>>,
    bos: Option<i64>,
) -> Result<Vec<CalibrationSample>, DataError> {
    load_for(&[path.into()], tokenizer, &specs(), bos)
}

/// Two samples at most, of three tokens at most.
fn load_for(
    files: &[PathBuf],
    tokenizer: Option<&Arc<Tokenizer>>,
    specs: &[InputSpec],
    bos: Option<i64>,
) -> Result<Vec<CalibrationSample>, DataError> {
    let tokenizer = &|| Ok(tokenizer.cloned());
    load_calibration(
        files,
        &SampleOptions { specs, vocabulary: Some(10), tokenizer, samples: 2, seq_len: 3, bos },
    )
}

fn tokens(samples: &[CalibrationSample]) -> Vec<Vec<i64>> {
    samples.iter().map(|loaded| loaded.sample["input_ids"].to_i64().unwrap()).collect()
}

fn places(samples: &[CalibrationSample], folder: &Folder) -> Vec<String> {
    let prefix = format!("{}/", folder.0.path().display());
    samples.iter().map(|loaded| loaded.place.replace(&prefix, "")).collect()
}

/// An input with this many dimensions.
fn spec(name: &str, data_type: DataType, rank: usize) -> InputSpec {
    let shape = vec![Dimension::Symbolic(String::new()); rank];
    InputSpec { name: name.into(), data_type, shape: Some(shape) }
}
