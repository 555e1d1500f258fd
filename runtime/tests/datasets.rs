//! Calibration files, sound and hostile, made on the fly.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zqc_ir::onnx::proto::tensor_proto::DataType;
use zqc_runtime::{
    Array, DataError, Dimension, InputSpec, Sample, Tokenizer, TokenizerError, load_calibration,
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

    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::load(&self.file("tokenizer.json", TOKENIZER)).unwrap()
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

fn load(path: &Path, tokenizer: Option<&Tokenizer>, bos: Option<i64>) -> Result<Vec<Sample>, DataError> {
    load_calibration(&[path.into()], tokenizer, &specs(), 2, 3, bos)
}

fn tokens(samples: &[Sample]) -> Vec<Vec<i64>> {
    samples.iter().map(|sample| sample["input_ids"].to_i64().unwrap()).collect()
}

#[test]
fn text_is_cut_into_consecutive_windows() {
    let folder = Folder::new();
    let tokenizer = folder.tokenizer();
    let text = folder.file("a.txt", "w1 w2 w3 w4 w5\n\nw6 w7 w8 w9");
    let windows = |bos| tokens(&load(&text, Some(&tokenizer), bos).unwrap());
    assert_eq!(windows(None), [[1, 2, 3], [4, 5, 6]]);
    assert_eq!(windows(Some(0)), [[0, 1, 2], [0, 3, 4]]);
    let short = folder.file("b.txt", "w1 w2");
    assert_eq!(tokens(&load(&short, Some(&tokenizer), None).unwrap()), [[1, 2]]);
}

#[test]
fn files_follow_each_other_until_there_are_samples_enough() {
    let folder = Folder::new();
    let tokenizer = folder.tokenizer();
    let files = [folder.file("a.txt", "w1 w2 w3"), folder.file("b.txt", "w4 w5 w6"), "absent.txt".into()];
    let samples = load_calibration(&files, Some(&tokenizer), &specs(), 2, 3, None).unwrap();
    assert_eq!(tokens(&samples), [[1, 2, 3], [4, 5, 6]]);
}

#[test]
fn json_lines_are_texts_or_arrays() {
    let folder = Folder::new();
    let tokenizer = folder.tokenizer();
    let path = folder.file("a.jsonl", "{\"text\": \"w1 w2 w3 w4\"}\n\n{\"input_ids\": [[5]], \"id\": 7}\n");
    assert_eq!(tokens(&load(&path, Some(&tokenizer), None).unwrap()), [vec![1, 2, 3], vec![5]]);
    let flat = folder.file("b.jsonl", r#"{"input_ids": [5, 6], "attention_mask": [true, false]}"#);
    let samples = load(&flat, None, None).unwrap();
    assert_eq!(samples[0]["input_ids"], Array::sequence(vec![5, 6]));
    assert_eq!(samples[0]["attention_mask"], Array::new(vec![1, 2], vec![true, false]).unwrap());
}

#[test]
fn bad_lines_are_named() {
    let folder = Folder::new();
    let tokenizer = folder.tokenizer();
    for (line, expected) in [
        ("{\"text\": ", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("{\"text\": \"\"}", "empty"),
        ("{\"label\": 1}", "neither"),
        ("{\"input_ids\": [[1, 2], [3]]}", "\"input_ids\": its rows differ"),
        ("{\"input_ids\": [1, [2]]}", "\"input_ids\": its rows differ"),
        ("{\"input_ids\": [\"w1\"]}", "neither a number"),
        (&"[".repeat(100_000), "not a JSON object"),
    ] {
        let path = folder.file("a.jsonl", format!("{{\"text\": \"w1\"}}\n{line}\n"));
        let error = load(&path, Some(&tokenizer), None).unwrap_err();
        assert!(matches!(error, DataError::Line { line: 2, .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn rows_of_arrays_are_samples() {
    let folder = Folder::new();
    let rows = le_bytes(&[1, 2, 3, 4]);
    let npz = folder.npz(
        "a.npz",
        &[("input_ids", npy("<i8", "(2, 2)", &rows)), ("labels", npy("|O", "(2,)", b"pickle"))],
    );
    assert_eq!(tokens(&load(&npz, None, None).unwrap()), [[1, 2], [3, 4]]);

    let path = folder.0.path().join("a.safetensors");
    let view = TensorView::new(Dtype::I64, vec![2, 2], &rows).unwrap();
    safetensors::serialize_to_file([("input_ids", view)], None, &path).unwrap();
    assert_eq!(tokens(&load(&path, None, None).unwrap()), [[1, 2], [3, 4]]);
}

#[test]
fn hostile_arrays_are_refused_with_the_file_and_the_array() {
    let folder = Folder::new();
    let good = npy("<i8", "(1, 1)", &le_bytes(&[1]));
    for (array, expected) in [
        (npy("<i8", "(1, 2)", &le_bytes(&[1])), "does not hold"),
        (npy("<i8", "(4611686018427387904, 4)", &[]), "does not hold"),
        (npy("<i8", "(99999999999999999999,)", &[]), "header"),
        (npy("<i8", "(-1,)", &[]), "header"),
        (npy(">i8", "(1, 1)", &le_bytes(&[1])), "\">i8\" is not supported"),
        (npy("|O", "(1, 1)", b"pickle"), "\"|O\" is not supported"),
        (npy("<f4", "(1, 1)", &[0; 4]), "FLOAT cannot become INT64"),
        (good[..20].to_vec(), "cut short"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "cut short"),
        (b"\x93NUMPY\x09\x00".to_vec(), "version 9"),
        (b"PK".to_vec(), "not a NumPy array"),
        (Vec::new(), "not a NumPy array"),
    ] {
        let path = folder.npz("a.npz", &[("input_ids", array)]);
        let error = load(&path, None, None).unwrap_err().to_string();
        assert!(
            error.contains("a.npz") && error.contains("input_ids") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn arrays_of_nothing_make_as_many_samples_as_are_wanted() {
    let folder = Folder::new();
    let path = folder.npz("a.npz", &[("input_ids", npy("<i8", "(1152921504606846976, 0)", &[]))]);
    assert_eq!(tokens(&load(&path, None, None).unwrap()), [[0i64; 0]; 2]);
}

#[test]
fn an_archive_that_unpacks_to_far_more_is_refused() {
    let folder = Folder::new();
    let array = npy("<i8", "(1, 10485760)", &vec![0; 80 << 20]);
    let path = folder.npz("a.npz", &[("input_ids", array)]);
    let error = load(&path, None, None).unwrap_err().to_string();
    let unpacked = error.contains("unpack to more than") && error.contains("numpy.savez");
    assert!(unpacked || fs::metadata(&path).unwrap().len() > 80 << 10, "{error}");
}

#[test]
fn hostile_files_are_refused_with_their_name() {
    let folder = Folder::new();
    let tokenizer = folder.tokenizer();
    let npz = fs::read(folder.npz("a.npz", &[("input_ids", npy("<i8", "(1, 1)", &le_bytes(&[1])))])).unwrap();
    fs::create_dir(folder.0.path().join("folder.txt")).unwrap();
    for (path, expected) in [
        (folder.file("cut.npz", &npz[..npz.len() / 2]), "cut.npz"),
        (folder.npz("other.npz", &[("x", Vec::new())]), "input_ids, attention_mask"),
        (folder.npz("none.npz", &[("input_ids", npy("<i8", "(0, 4)", &[]))]), "no sample"),
        (
            folder.npz("mask.npz", &[("attention_mask", npy("<i8", "(1, 1)", &le_bytes(&[1])))]),
            "\"input_ids\"",
        ),
        (folder.file("cut.safetensors", [255; 12]), "cut.safetensors"),
        (folder.file("empty.safetensors", []), "empty.safetensors"),
        (folder.file("a.csv", "1,2"), ".txt, .jsonl, .npz or .safetensors"),
        (folder.file("empty.txt", ""), "no sample"),
        (folder.file("latin1.txt", [b'w', 0xe9]), "UTF-8"),
        (folder.file("empty.jsonl", "\n"), "no sample"),
        (folder.0.path().join("folder.txt"), "folder.txt"),
        (folder.0.path().join("absent.npz"), "absent.npz"),
    ] {
        let error = load(&path, Some(&tokenizer), None).unwrap_err().to_string();
        assert!(error.contains(expected), "{}: {error}", path.display());
    }
    let unequal = folder.npz(
        "unequal.npz",
        &[
            ("input_ids", npy("<i8", "(2, 1)", &le_bytes(&[1, 2]))),
            ("attention_mask", npy("<i8", "(1, 1)", &le_bytes(&[1]))),
        ],
    );
    assert!(matches!(load(&unequal, None, None), Err(DataError::Malformed { .. })));
    let text = folder.file("a.txt", "w1");
    assert!(matches!(load(&text, None, None), Err(DataError::NoTokenizer { .. })));
}

#[test]
fn a_tokenizer_of_another_model_is_told() {
    let folder = Folder::new();
    let tokenizer = folder.tokenizer();
    assert_eq!(tokenizer.vocab_size(), 10);
    assert!(tokenizer.check_vocabulary(10).is_ok());
    let error = tokenizer.check_vocabulary(9).unwrap_err();
    assert!(matches!(error, TokenizerError::OtherModel { largest: 9, vocabulary: 9, .. }));
    let broken = folder.file("broken.json", "{}");
    assert!(matches!(Tokenizer::load(&broken), Err(TokenizerError::Load { .. })));
}
