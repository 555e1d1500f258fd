//! Calibration data through the command line: what `docs/calibration.md` says, tokenizers that are found, and samples that a model
//! cannot take.

use std::path::Path;

use zqc::ir::onnx::proto::{GraphProto, ModelProto};
use zqc::ir::tensor::DataType;

use crate::bench::Bench;
use crate::models::{hundred_tokens, info, matrix, model, node, one_layer_with};
use crate::support::{repository, tiny, zqc};

/// A language model of the bundled tokenizer's 2,048 tokens, with a scalar input and a vector beside the token ids.
fn with_other_inputs() -> ModelProto {
    model(GraphProto {
        name: Some("other inputs".to_string()),
        input: vec![
            info("input_ids", DataType::Int64, &["batch", "tokens"]),
            info("num_logits_to_keep", DataType::Int64, &[]),
            info("style", DataType::Float, &["64"]),
        ],
        output: vec![info("logits", DataType::Float, &["batch", "tokens", "64"])],
        initializer: vec![matrix("table", 2048, 64), matrix("inner", 64, 64)],
        node: vec![
            node("Gather", "embedding", &["table", "input_ids"], "h"),
            node("CastLike", "cast", &["num_logits_to_keep", "h"], "k"),
            node("Add", "add", &["h", "k"], "hk"),
            node("Add", "styled", &["hk", "style"], "g"),
            node("MatMul", "/inner/MatMul", &["g", "inner"], "logits"),
        ],
        ..Default::default()
    })
}

/// The code blocks of a language in the document.
fn examples(language: &str) -> Vec<String> {
    let document = std::fs::read_to_string(repository("docs/calibration.md")).unwrap();
    let blocks = document.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix(&format!("{language}\n")).map(str::to_string)).collect()
}

#[test]
fn the_lines_of_json_in_the_document_calibrate() {
    let bench = Bench::new();
    let plain = tiny("model.onnx");
    let other = bench.model(&with_other_inputs());
    let blocks = examples("json");
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let model = if block.contains("num_logits_to_keep") { &other } else { &plain };
        let block = block.replace("[0.5, ...]", &format!("{:?}", [0.5; 64]));
        let data = bench.write("data.jsonl", &block);
        let tokenizer = tiny("tokenizer.json");
        let options = ["--calibration", data.to_str().unwrap(), "--tokenizer", tokenizer.to_str().unwrap()];
        let (_, message) = bench.compile(model, &bench.output(), &options);
        assert!(message.contains(&format!("calibration: {} samples", block.lines().count())), "{message}");
        assert!(!message.contains("tokenizer:"), "it was named: {message}");
    }
}

/// A model with the bundled tokenizer in `tokenizer`, and options that calibrate it on text.
fn beside(tokenizer: &str) -> (Bench, std::path::PathBuf, [String; 6]) {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("onnx")).unwrap();
    let model = bench.write("onnx/model.onnx", std::fs::read(tiny("model.onnx")).unwrap());
    std::fs::copy(tiny("tokenizer.json"), bench.path(tokenizer)).unwrap();
    let text = tiny("calibration.txt").display().to_string();
    let options = ["--calibration", &text, "--samples", "2", "--seq-len", "16"].map(str::to_string);
    (bench, model, options)
}

#[test]
fn the_tokenizer_beside_the_model_is_found_and_named() {
    let named = Bench::new();
    let mut bytes = Vec::new();
    for tokenizer in ["onnx/tokenizer.json", "tokenizer.json"] {
        let (bench, model, options) = beside(tokenizer);
        let options = options.each_ref().map(String::as_str);
        let (stdout, message) = bench.compile(&model, &bench.output(), &options);
        assert_eq!(stdout, "");
        let line = message.lines().find(|line| line.starts_with("tokenizer: ")).expect("a line");
        assert!(
            Path::new(&line["tokenizer: ".len()..]).canonicalize().unwrap()
                == bench.path(tokenizer).canonicalize().unwrap()
        );
        bytes.push(std::fs::read(bench.output()).unwrap());
        let eval =
            [Path::new("eval"), &model, Path::new("--text"), &tiny("heldout.txt")].map(Path::to_path_buf);
        let options = ["--window", "16", "--max-tokens", "32", "--json"].map(Into::into);
        let output = zqc(eval.into_iter().chain(options));
        assert!(output.status.success() && output.stdout.starts_with(b"{"));
        assert!(String::from_utf8(output.stderr).unwrap().starts_with("tokenizer: "));
    }
    let (_, model, options) = beside("onnx/tokenizer.json");
    let tokenizer = tiny("tokenizer.json").display().to_string();
    let options: Vec<&str> = options.iter().map(String::as_str).chain(["--tokenizer", &tokenizer]).collect();
    let (_, message) = named.compile(&tiny("model.onnx"), &named.output(), &options);
    assert!(!message.contains("tokenizer: "), "{message}");
    bytes.push(std::fs::read(named.output()).unwrap());
    assert!(bytes[0] == bytes[1] && bytes[1] == bytes[2]);
    drop(model);
}

#[test]
fn a_tokenizer_that_is_not_needed_is_not_read() {
    let (bench, model, _) = beside("onnx/tokenizer.json");
    bench.write("onnx/tokenizer.json", "damaged");
    let ids = bench.write("ids.jsonl", "{\"input_ids\": [1, 2, 3, 4]}\n");
    let (_, message) = bench.compile(&model, &bench.output(), &["--calibration", ids.to_str().unwrap()]);
    assert!(!message.contains("tokenizer"), "{message}");
    bench.compile(&model, &bench.output(), &["--method", "rtn"]);
    let text = tiny("calibration.txt");
    let words = ["onnx/tokenizer.json", "not a usable tokenizer.json"];
    bench.refuse(3, &model, &["-o", "out.onnx", "--calibration", text.to_str().unwrap()], &words);
}

#[test]
fn a_text_without_any_tokenizer() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path("a/b")).unwrap();
    let model = bench.write("a/b/model.onnx", std::fs::read(tiny("model.onnx")).unwrap());
    let text = tiny("heldout.txt");
    let words = ["text needs a tokenizer", "--tokenizer"];
    bench.refuse_to_compile(3, &model, &["--calibration", text.to_str().unwrap()], &words);
    bench.refuse(
        2,
        Path::new("eval"),
        &[&model, Path::new("--text"), &text],
        &["tokenizer.json", "--tokenizer"],
    );
}

/// The bundled tokenizer with a token for which the model has no row.
fn beyond_the_table(bench: &Bench) -> std::path::PathBuf {
    let text = std::fs::read_to_string(tiny("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let token = serde_json::json!({"id": 2048, "content": "<image_soft_token>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    bench.write("tokenizer.json", tokenizer.to_string())
}

#[test]
fn a_token_past_the_table_is_an_error_only_in_a_text_that_has_it() {
    let bench = Bench::new();
    let (model, tokenizer) = (tiny("model.onnx"), beyond_the_table(&bench));
    let plain = bench.write("plain.txt", "Once upon a time there was a small house by the river. ".repeat(8));
    let image = bench.write("image.txt", "Look at <image_soft_token> and tell me. ".repeat(8));
    let options = |text: &Path| {
        let words = [
            "--calibration",
            text.to_str().unwrap(),
            "--tokenizer",
            tokenizer.to_str().unwrap(),
            "--seq-len",
            "32",
        ];
        words.map(str::to_string)
    };
    let eval = |text: &Path| {
        [
            &model,
            Path::new("--text"),
            text,
            Path::new("--tokenizer"),
            &tokenizer,
            Path::new("--window"),
            Path::new("16"),
        ]
        .map(Path::to_path_buf)
    };
    let words = ["tokenizer.json", "<image_soft_token>", "2048", "another model"];
    bench.compile(&model, &bench.output(), &options(&plain).each_ref().map(String::as_str));
    assert!(zqc([&["eval".into()], &eval(&plain)[..]].concat()).status.success());
    let image_words = [&["image.txt"], &words[..]].concat();
    bench.refuse_to_compile(3, &model, &options(&image).each_ref().map(String::as_str), &image_words);
    bench.refuse(3, Path::new("eval"), &eval(&image), &words);
}

#[test]
fn a_sample_that_the_model_cannot_take_is_named() {
    let bench = Bench::new();
    let ids = bench.model(&hundred_tokens());
    let sums = bench.write(
        "sums.onnx",
        prost::Message::encode_to_vec(&one_layer_with(|graph| {
            graph.input[1] = info("shift", DataType::Float, &["n", "64"]);
            graph.node = vec![
                node("Add", "sum", &["x", "shift"], "s"),
                node("Log", "log", &["s"], "l"),
                node("MatMul", "/proj/MatMul", &["l", "w"], "y"),
            ];
        })),
    );
    let row = |value: f32| format!("{:?}", [value; 64]);
    let pair = |x: &[f32], shift: &[f32]| {
        let rows = |values: &[f32]| values.iter().map(|&value| row(value)).collect::<Vec<_>>().join(", ");
        format!("{{\"x\": [{}], \"shift\": [{}]}}\n", rows(x), rows(shift))
    };
    let good = pair(&[1.0], &[2.0]);
    for (model, lines, words) in [
        (
            &ids,
            "{\"input_ids\": [1, 2]}\n\n{\"input_ids\": [3, 100]}\n".to_string(),
            ["data.jsonl:3: ", "id 100", "100 tokens"],
        ),
        (
            &sums,
            format!("{good}{}", pair(&[1.0, 1.0], &[1.0, 1.0, 1.0])),
            ["data.jsonl:2: ", "rten", "failed"],
        ),
        (
            &sums,
            format!("\n{good}{good}{}", pair(&[-3.0], &[1.0])),
            ["data.jsonl:4: ", "proj", "NaN or infinity"],
        ),
    ] {
        let data = bench.write("data.jsonl", lines);
        bench.refuse_to_compile(3, model, &["--calibration", data.to_str().unwrap()], &words);
    }
    bench.refuse_to_compile(3, &ids, &["--bos", "100"], &["--bos 100", "100 tokens"]);
}

#[test]
fn a_model_of_fixed_length_takes_text_of_that_length() {
    let bench = Bench::new();
    let mut proto = hundred_tokens();
    proto.graph.as_mut().unwrap().input[0] = info("input_ids", DataType::Int64, &["1", "16"]);
    proto.graph.as_mut().unwrap().initializer[0] = matrix("table", 2048, 64);
    let model = bench.model(&proto);
    let (text, tokenizer) = (tiny("heldout.txt"), tiny("tokenizer.json"));
    let options = [
        "--calibration",
        text.to_str().unwrap(),
        "--tokenizer",
        tokenizer.to_str().unwrap(),
        "--samples",
        "3",
    ];
    let (_, message) = bench.compile(&model, &bench.output(), &options);
    assert!(message.contains("calibration: 3 samples"), "{message}");
}

#[test]
fn where_a_model_does_not_run_a_length_that_nobody_asked_for_is_told() {
    let bench = Bench::new();
    let mut proto = hundred_tokens();
    let graph = proto.graph.as_mut().unwrap();
    graph.output = vec![info("logits", DataType::Float, &["batch", "tokens", "2048"])];
    graph.initializer = vec![
        matrix("table", 2048, 64),
        matrix("positions", 16, 64),
        matrix("inner", 64, 64),
        matrix("head", 64, 2048),
    ];
    graph.node[0].output = vec!["words".to_string()];
    graph.node.insert(1, node("Add", "/Add", &["words", "positions"], "h"));
    let model = bench.model(&proto);
    let [text, tokenizer] =
        ["calibration.txt", "tokenizer.json"].map(|name| tiny(name).display().to_string());
    let options = ["--calibration", &text, "--tokenizer", &tokenizer, "--samples", "1", "--backend", "rten"];
    bench.refuse_to_compile(3, &model, &options, &["sample 0", "2048 tokens in a row", "--seq-len"]);
    let eval = ["eval", model.to_str().unwrap(), "--text", &text, "--tokenizer", &tokenizer];
    let message = String::from_utf8(zqc(eval).stderr).unwrap();
    assert!(message.contains("2048 tokens in a row") && message.contains("--window"), "{message}");
    bench.compile(&model, &bench.output(), &[&options[..], &["--seq-len", "16"]].concat());
    // Whoever says how many need not be told.
    let asked = [&options[..], &["--seq-len", "8"]].concat();
    let bench = Bench::new();
    let model = bench.model(&proto);
    let output =
        zqc([&[model.to_str().unwrap(), "-o", bench.output().to_str().unwrap()], &asked[..]].concat());
    assert!(!String::from_utf8(output.stderr).unwrap().contains("in a row"));
}
