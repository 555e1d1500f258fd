//! Text and JSON lines.

use super::*;

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
