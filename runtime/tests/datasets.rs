//! Calibration files, sound and hostile, made on the fly.

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
    let samples = load_for(&files, Some(&tokenizer), &specs(), None).unwrap();
    assert_eq!(tokens(&samples), [[1, 2, 3], [4, 5, 6]]);
    assert_eq!(places(&samples, &folder), ["a.txt: sample 0", "b.txt: sample 0"]);
}

#[test]
fn json_lines_are_texts_or_arrays() {
    let folder = Folder::new();
    let tokenizer = folder.tokenizer();
    let path = folder.file("a.jsonl", "{\"text\": \"w1 w2 w3 w4\"}\n\n{\"input_ids\": [[5]], \"id\": 7}\n");
    let samples = load(&path, Some(&tokenizer), None).unwrap();
    assert_eq!(tokens(&samples), [vec![1, 2, 3], vec![5]]);
    assert_eq!(places(&samples, &folder), ["a.jsonl:1", "a.jsonl:3"]);
    let flat = folder.file("b.jsonl", r#"{"input_ids": [5, 6], "attention_mask": [true, false]}"#);
    let samples = load(&flat, None, None).unwrap();
    assert_eq!(samples[0].sample["input_ids"], Array::sequence(vec![5, 6]));
    assert_eq!(samples[0].sample["attention_mask"], Array::new(vec![1, 2], vec![true, false]).unwrap());
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
        (npy("=i8", "(1, 1)", &le_bytes(&[1])), "\"=i8\" is not supported"),
        (npy(">U3", "(1, 1)", &[0; 12]), "\">U3\" is not supported"),
        (npy("é", "(1, 1)", &[0; 8]), "\"é\" is not supported"),
        (npy("", "(1, 1)", &[0; 8]), "\"\" is not supported"),
        (fortran(npy(">i8", "(2, 2)", &le_bytes(&[1, 2, 3]))), "does not hold"),
        (fortran(npy("<i8", "(4611686018427387904, 4)", &[])), "does not hold"),
        (fortran(npy("<i8", "(0, 4611686018427387904, 4)", &[1])), "does not hold"),
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
fn a_token_that_the_model_does_not_know_is_told_where_a_text_has_it() {
    let folder = Folder::new();
    let tokenizer = folder.tokenizer();
    assert_eq!(tokenizer.vocab_size(), 10);
    assert_eq!(tokenizer.encode("w9 w1", Some(10)).unwrap(), [9, 1]);
    assert_eq!(tokenizer.encode("w8 w1", Some(9)).unwrap(), [8, 1], "w9 is not in the text");
    let error = tokenizer.encode("w1 w9 w8", Some(8)).unwrap_err();
    assert!(matches!(error, TokenizerError::UnknownToken { id: 9, vocabulary: 8, .. }), "{error}");
    assert!(error.to_string().contains("\"w9\""), "{error}");
    assert_eq!(tokenizer.encode("w9", None).unwrap(), [9]);
    let broken = folder.file("broken.json", "{}");
    assert!(matches!(Tokenizer::load(&broken), Err(TokenizerError::Load { .. })));
}

#[test]
fn the_tokenizer_is_asked_for_when_text_is_read() {
    let folder = Folder::new();
    let tokenizer = &|| -> Result<_, _> { panic!("no text is read") };
    let specs = specs();
    let options =
        SampleOptions { specs: &specs, vocabulary: None, tokenizer, samples: 2, seq_len: 3, bos: None };
    let arrays = folder.file("a.jsonl", r#"{"input_ids": [5, 6]}"#);
    assert_eq!(tokens(&load_calibration(&[arrays], &options).unwrap()), [[5, 6]]);
}

/// An array that numpy saved in the order of Fortran.
fn fortran(array: Vec<u8>) -> Vec<u8> {
    let at = array.windows(5).position(|window| window == b"False").unwrap();
    [&array[..at], b"True ", &array[at + 5..]].concat()
}

#[test]
fn arrays_of_any_byte_order_and_layout_are_read() {
    let folder = Folder::new();
    let shape = Some(["batch", "a", "b"].map(|symbol| Dimension::Symbolic(symbol.into())).to_vec());
    let read = |array: Vec<u8>, data_type| {
        let specs = [InputSpec { name: "x".into(), data_type, shape: shape.clone() }];
        let path = folder.npz("a.npz", &[("x", array)]);
        let samples = load_for(&[path], None, &specs, None).unwrap();
        samples.into_iter().map(|loaded| loaded.sample["x"].clone()).collect::<Vec<_>>()
    };
    // Element [i, j, k] of [2, 3, 4] is 100 i + 10 j + k.
    let indices: Vec<[usize; 3]> = (0..24).map(|n| [n / 12, n / 4 % 3, n % 4]).collect();
    let value = |[i, j, k]: [usize; 3]| (100 * i + 10 * j + k) as i64;
    let sample = |i| {
        let values: Vec<i64> =
            indices.iter().filter(|index| index[0] == i).map(|&index| value(index)).collect();
        Array::new(vec![1, 3, 4], values).unwrap()
    };
    let expected = [sample(0), sample(1)];
    let row_major: Vec<i64> = indices.iter().map(|&index| value(index)).collect();
    let mut by_last = indices.clone();
    by_last.sort_by_key(|&[i, j, k]| [k, j, i]);
    let column_major: Vec<i64> = by_last.into_iter().map(value).collect();
    let big = |values: &[i64]| values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<u8>>();
    for array in [
        npy("<i8", "(2, 3, 4)", &le_bytes(&row_major)),
        npy(">i8", "(2, 3, 4)", &big(&row_major)),
        fortran(npy("<i8", "(2, 3, 4)", &le_bytes(&column_major))),
        fortran(npy(">i8", "(2, 3, 4)", &big(&column_major))),
    ] {
        assert_eq!(read(array, DataType::Int64), expected);
    }
    let halves: Vec<u8> = (0..4).flat_map(|n| half::f16::from_f32(n as f32).to_be_bytes()).collect();
    let floats = read(fortran(npy(">f2", "(1, 2, 2)", &halves)), DataType::Float);
    assert_eq!(floats, [Array::new(vec![1, 2, 2], vec![0f32, 2.0, 1.0, 3.0]).unwrap()]);
    assert_eq!(read(fortran(npy("|b1", "(1, 1, 0)", &[])), DataType::Bool)[0].shape, [1, 1, 0]);
}

/// An input with this many dimensions.
fn spec(name: &str, data_type: DataType, rank: usize) -> InputSpec {
    let shape = vec![Dimension::Symbolic(String::new()); rank];
    InputSpec { name: name.into(), data_type, shape: Some(shape) }
}

#[test]
fn inputs_without_a_batch_have_the_samples_in_front() {
    let folder = Folder::new();
    let specs = [
        spec("input_ids", DataType::Int64, 2),
        spec("keep", DataType::Int64, 0),
        spec("v", DataType::Float, 1),
    ];
    let floats = |count: u8| (0..count).flat_map(|n| f32::from(n).to_le_bytes()).collect::<Vec<u8>>();
    let ids = npy("<i8", "(2, 3)", &le_bytes(&[1, 2, 3, 4, 5, 6]));
    let npz = folder.npz(
        "a.npz",
        &[
            ("input_ids", ids.clone()),
            ("keep", npy("<i8", "(2,)", &le_bytes(&[7, 8]))),
            ("v", npy("<f4", "(2, 2)", &floats(4))),
        ],
    );
    let path = folder.0.path().join("a.safetensors");
    let (rows, keep, v) = (le_bytes(&[1, 2, 3, 4, 5, 6]), le_bytes(&[7, 8]), floats(4));
    let views = [
        ("input_ids", TensorView::new(Dtype::I64, vec![2, 3], &rows).unwrap()),
        ("keep", TensorView::new(Dtype::I64, vec![2], &keep).unwrap()),
        ("v", TensorView::new(Dtype::F32, vec![2, 2], &v).unwrap()),
    ];
    safetensors::serialize_to_file(views, None, &path).unwrap();
    for file in [npz, path] {
        let samples = load_for(&[file], None, &specs, None).unwrap();
        assert_eq!(tokens(&samples), [[1, 2, 3], [4, 5, 6]]);
        let scalar = |value: i64| Array::new(vec![], vec![value]).unwrap();
        assert_eq!([&samples[0].sample["keep"], &samples[1].sample["keep"]], [&scalar(7), &scalar(8)]);
        assert_eq!(samples[1].sample["v"], Array::new(vec![2], vec![2f32, 3.0]).unwrap());
    }
    let same = folder.npz(
        "b.npz",
        &[
            ("input_ids", ids),
            ("keep", npy("<i8", "()", &le_bytes(&[9]))),
            ("v", npy("<f4", "(2, 2)", &floats(4))),
        ],
    );
    let samples = load_for(&[same], None, &specs, None).unwrap();
    assert!(samples.iter().all(|loaded| loaded.sample["keep"] == Array::new(vec![], vec![9i64]).unwrap()));
    let alone = folder.npz("c.npz", &[("keep", npy("<i8", "()", &le_bytes(&[9])))]);
    let error = load_for(&[alone], None, &specs, None).unwrap_err().to_string();
    assert!(error.contains("counts the samples"), "{error}");
}

#[test]
fn a_text_has_its_other_inputs_beside_it() {
    let folder = Folder::new();
    let tokenizer = folder.tokenizer();
    let specs = [
        spec("input_ids", DataType::Int64, 2),
        spec("keep", DataType::Int64, 0),
        spec("v", DataType::Float, 1),
    ];
    let line = r#"{"text": "w1 w2 w3 w4", "keep": 7, "v": [0.5, 1], "label": "x"}"#;
    let path = folder.file("a.jsonl", format!("\u{feff}{line}\n"));
    let samples = load_for(&[path], Some(&tokenizer), &specs, Some(0)).unwrap();
    assert_eq!(tokens(&samples), [[0, 1, 2]]);
    assert_eq!(samples[0].sample["keep"], Array::new(vec![], vec![7i64]).unwrap());
    assert_eq!(samples[0].sample["v"], Array::new(vec![2], vec![0.5f32, 1.0]).unwrap());
    let both = folder.file("b.jsonl", r#"{"text": "w1", "input_ids": [1], "keep": 7, "v": [1]}"#);
    let error = load_for(&[both], Some(&tokenizer), &specs, None).unwrap_err();
    assert!(error.to_string().contains("b.jsonl:1: has both \"text\" and \"input_ids\""), "{error}");
}

/// Of each input that cannot be made up the message names two ways to give it, and both work.
#[test]
fn the_ways_out_that_a_message_names_are_ways_out() {
    let folder = Folder::new();
    let tokenizer = folder.tokenizer();
    for rank in 0..4usize {
        let specs = [spec("input_ids", DataType::Int64, 2), spec("other", DataType::Float, rank)];
        let alone = folder.file("text.txt", "w1 w2");
        let error = load_for(&[alone], Some(&tokenizer), &specs, None).unwrap_err();
        assert!(
            matches!(&error, DataError::Input { source: InputError::Missing { name, .. }, .. } if name == "other"),
            "{error}"
        );
        let named = |word: &str| assert!(error.to_string().contains(word), "{error}");
        ["every line of a .jsonl file", "beside \"text\"", ".npz"].into_iter().for_each(named);

        let nested = format!("{}1.5{}", "[".repeat(rank), "]".repeat(rank));
        let line = format!("{{\"text\": \"w1 w2\", \"other\": {nested}}}\n").repeat(2);
        let ones = "1, ".repeat(rank.saturating_sub(1));
        let value: Vec<u8> = [1.5f32, 1.5].iter().flat_map(|value| value.to_le_bytes()).collect();
        let ids = npy("<i8", "(2, 2)", &le_bytes(&[1, 2, 1, 2]));
        let npz = folder
            .npz("a.npz", &[("input_ids", ids), ("other", npy("<f4", &format!("(2, {ones})"), &value))]);
        for file in [folder.file("a.jsonl", line), npz] {
            let samples = load_for(&[file], Some(&tokenizer), &specs, None).unwrap();
            assert_eq!(tokens(&samples), [[1, 2], [1, 2]]);
            let expected = Array::new(vec![1; rank], vec![1.5f32]).unwrap();
            assert!(samples.iter().all(|loaded| loaded.sample["other"] == expected), "rank {rank}");
            assert!(samples.iter().all(|loaded| make_inputs(&specs, &loaded.sample).is_ok()));
        }
    }
}

#[test]
fn samples_that_no_model_can_take_are_told_by_their_place() {
    let folder = Folder::new();
    let specs = [spec("input_ids", DataType::Int64, 2), spec("x", DataType::Float, 2)];
    let nan: Vec<u8> = [1.0f32, f32::NAN].iter().flat_map(|value| value.to_le_bytes()).collect();
    let ids = npy("<i8", "(2, 1)", &le_bytes(&[1, 2]));
    let npz = folder.npz("a.npz", &[("input_ids", ids), ("x", npy("<f4", "(2, 1)", &nan))]);
    let error = load_for(&[npz], None, &specs, None).unwrap_err().to_string();
    assert!(error.ends_with("a.npz: sample 1: input \"x\" holds NaN"), "{error}");
    for id in [10, -11, i64::MAX] {
        let lines = format!("{{\"input_ids\": [9, -10]}}\n\n{{\"input_ids\": [1, {id}]}}");
        let path = folder.file("a.jsonl", lines);
        let error = load(&path, None, None).unwrap_err();
        assert!(matches!(error, DataError::UnknownToken { vocabulary: 10, .. }), "{error}");
        assert!(
            error.to_string().contains("a.jsonl:3: ") && error.to_string().contains(&id.to_string()),
            "{error}"
        );
    }
    let text = folder.file("a.txt", "w1 w2");
    assert!(matches!(load(&text, Some(&folder.tokenizer()), Some(10)), Err(DataError::UnknownToken { .. })));
}
