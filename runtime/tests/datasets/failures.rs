//! What the messages say.

use super::*;

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

/// For each input that cannot be derived the message names two ways to give it, and both work.
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
