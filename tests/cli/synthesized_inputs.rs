//! Models as exporters write them, with inputs beside the tokens that nobody gives: what follows from the tokens is synthesized, in
//! calibration, in text that a model writes itself, in `zqc eval` and in the verification.

use std::path::Path;

use zqc::ir::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};
use zqc::ir::op::attribute::{int, ints};
use zqc::ir::tensor::DataType;

use crate::bench::Bench;
use crate::models::{info, matrix, model, node, string};
use crate::support::{tiny, zqc};

/// What the verification says when it ran.
const VERIFIED: &str = "its outputs are those of the quantized model";

fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: string(name),
        data_type: Some(DataType::Int64 as i32),
        dims: vec![values.len() as i64],
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

/// A decoder as the builder of onnxruntime-genai writes them: the embeddings are a transposed view of the head, and the width of the
/// caches follows from the attention that reads them, of 4 heads of queries and 2 of keys and values.
fn builder_decoder() -> ModelProto {
    let cache = ["batch_size", "2", "past_sequence_length", "kv_cache_dim"];
    let present = ["batch_size", "2", "total_sequence_length", "kv_cache_dim"];
    let attention = node(
        "GroupQueryAttention",
        "attention",
        &["qkv", "", "", "past_key_values.0.key", "past_key_values.0.value", "lengths", "total"],
        "context",
    );
    let attention = NodeProto {
        domain: string("com.microsoft"),
        output: ["context", "present.0.key", "present.0.value"].map(str::to_string).to_vec(),
        attribute: vec![int("num_heads", 4), int("kv_num_heads", 2)],
        ..attention
    };
    let transpose = NodeProto {
        attribute: vec![ints("perm", &[1, 0])],
        ..node("Transpose", "table", &["lm_head.weight"], "table")
    };
    let to_int32 = |name, from, to| {
        let attribute = vec![int("to", DataType::Int32 as i64)];
        NodeProto { attribute, ..node("Cast", name, &[from], to) }
    };
    let mut proto = model(GraphProto {
        name: string("decoder"),
        input: vec![
            info("input_ids", DataType::Int64, &["batch_size", "sequence_length"]),
            info("attention_mask", DataType::Int64, &["batch_size", "total_sequence_length"]),
            info("past_key_values.0.key", DataType::Float, &cache),
            info("past_key_values.0.value", DataType::Float, &cache),
        ],
        output: vec![
            info("logits", DataType::Float, &["batch_size", "sequence_length", "2048"]),
            info("present.0.key", DataType::Float, &present),
            info("present.0.value", DataType::Float, &present),
        ],
        initializer: vec![
            matrix("lm_head.weight", 64, 2048),
            matrix("qkv.weight", 64, 128),
            matrix("o.weight", 64, 64),
            integers("one", &[1]),
            TensorProto { dims: vec![], ..integers("last", &[1]) },
        ],
        node: vec![
            transpose,
            node("Gather", "embed", &["table", "input_ids"], "h"),
            node("ReduceSum", "count", &["attention_mask", "one"], "counts"),
            node("Sub", "before", &["counts", "one"], "before_last"),
            node("Squeeze", "flat", &["before_last", "one"], "flat_lengths"),
            to_int32("lengths", "flat_lengths", "lengths"),
            node("Shape", "shape", &["attention_mask"], "mask_shape"),
            node("Gather", "total", &["mask_shape", "last"], "all"),
            to_int32("total32", "all", "total"),
            node("MatMul", "/qkv/MatMul", &["h", "qkv.weight"], "qkv"),
            attention,
            node("MatMul", "/o/MatMul", &["context", "o.weight"], "o"),
            node("Add", "residual", &["h", "o"], "r"),
            node("MatMul", "/lm_head/MatMul", &["r", "lm_head.weight"], "logits"),
        ],
        ..Default::default()
    });
    proto.opset_import.push(OperatorSetIdProto { domain: string("com.microsoft"), version: Some(1) });
    proto
}

/// A model of one token at a time, `[2, tokens]`.
fn fixed_batch(batch: &str) -> ModelProto {
    model(GraphProto {
        name: string("fixed batch"),
        input: vec![
            info("input_ids", DataType::Int64, &[batch, "tokens"]),
            info("attention_mask", DataType::Int64, &[batch, "tokens"]),
        ],
        output: vec![info("logits", DataType::Float, &[batch, "tokens", "2048"])],
        initializer: vec![
            matrix("table", 2048, 64),
            matrix("inner", 64, 64),
            matrix("head", 64, 2048),
            integers("axes", &[2]),
        ],
        node: vec![
            node("Gather", "embedding", &["table", "input_ids"], "h"),
            node("Unsqueeze", "columns", &["attention_mask", "axes"], "column"),
            node("CastLike", "cast", &["column", "h"], "mask"),
            node("Mul", "masked", &["h", "mask"], "m"),
            node("MatMul", "/inner/MatMul", &["m", "inner"], "g"),
            node("MatMul", "/lm_head/MatMul", &["g", "head"], "logits"),
        ],
        ..Default::default()
    })
}

/// Compiles on text; what is said.
fn on_text(bench: &Bench, model: &Path, samples: &str) -> String {
    let (text, tokenizer) = (tiny("calibration.txt"), tiny("tokenizer.json"));
    let (text, tokenizer) = (text.to_str().unwrap(), tokenizer.to_str().unwrap());
    let options = [
        "--calibration",
        text,
        "--tokenizer",
        tokenizer,
        "--samples",
        samples,
        "--seq-len",
        "64",
        "--group-size",
        "32",
    ];
    bench.compile(model, &bench.output(), &options).1
}

fn perplexity(model: &Path) -> f64 {
    let (text, tokenizer) = (tiny("heldout.txt"), tiny("tokenizer.json"));
    let arguments =
        [Path::new("eval"), model, Path::new("--text"), &text, Path::new("--tokenizer"), &tokenizer];
    let more = ["--window", "32", "--max-tokens", "128", "--json"].map(Path::new);
    let output = zqc(arguments.into_iter().chain(more));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    result["perplexity"].as_f64().unwrap()
}

#[test]
fn the_caches_of_the_builder_follow_from_its_attention() {
    let bench = Bench::new();
    let model = bench.model(&builder_decoder());
    let message = on_text(&bench, &model, "4");
    for words in ["calibration: 4 samples", "3 layers", VERIFIED] {
        assert!(message.contains(words), "no {words:?} in {message}");
    }
    assert!(!message.contains("nearest") && !message.contains("float"), "{message}");
    assert!(perplexity(&model).is_finite() && perplexity(&bench.output()).is_finite());
    let options = ["--samples", "1", "--seq-len", "8"];
    let (_, message) = bench.compile(&model, &bench.output(), &options);
    assert!(message.contains("that the model wrote itself") && message.contains(VERIFIED), "{message}");
}

#[test]
fn a_fixed_batch_is_filled_with_samples() {
    let bench = Bench::new();
    let model = bench.write("two.onnx", prost::Message::encode_to_vec(&fixed_batch("2")));
    let message = on_text(&bench, &model, "4");
    assert!(message.contains("calibration: 4 samples") && message.contains(VERIFIED), "{message}");
    let together = std::fs::read(bench.output()).unwrap();
    let perplexities = [perplexity(&model), perplexity(&bench.output())];

    let one = bench.write("one.onnx", prost::Message::encode_to_vec(&fixed_batch("1")));
    on_text(&bench, &one, "4");
    assert_eq!(together.len(), std::fs::read(bench.output()).unwrap().len());
    for (found, expected) in perplexities.into_iter().zip([perplexity(&one), perplexity(&bench.output())]) {
        assert!((found / expected - 1.0).abs() < 1e-2, "{found} {expected}");
    }
    let (_, message) = bench.compile(&model, &bench.output(), &["--samples", "2", "--seq-len", "8"]);
    assert!(message.contains("that the model wrote itself") && message.contains(VERIFIED), "{message}");
}

/// A decoder that adds up what the encoder put out.
fn with_encoder_states() -> ModelProto {
    model(GraphProto {
        name: string("decoder of an encoder"),
        input: vec![
            info("decoder_input_ids", DataType::Int64, &["batch", "tokens"]),
            info("encoder_attention_mask", DataType::Int64, &["batch", "states"]),
            info("encoder_hidden_states", DataType::Float, &["batch", "states", "64"]),
        ],
        output: vec![info("logits", DataType::Float, &["batch", "tokens", "64"])],
        initializer: vec![
            matrix("table", 2048, 64),
            matrix("inner", 64, 64),
            integers("axes", &[1]),
            integers("last", &[2]),
        ],
        node: vec![
            node("Gather", "embedding", &["table", "decoder_input_ids"], "h"),
            node("Unsqueeze", "columns", &["encoder_attention_mask", "last"], "column"),
            node("CastLike", "cast", &["column", "encoder_hidden_states"], "mask"),
            node("Mul", "masked", &["encoder_hidden_states", "mask"], "m"),
            node("ReduceSum", "sum", &["m", "axes"], "s"),
            node("Add", "both", &["h", "s"], "b"),
            node("MatMul", "/inner/MatMul", &["b", "inner"], "logits"),
        ],
        ..Default::default()
    })
}

#[test]
fn what_an_encoder_puts_out_has_to_be_given_and_can_be() {
    let bench = Bench::new();
    let model = bench.model(&with_encoder_states());
    let text = tiny("calibration.txt").display().to_string();
    let tokenizer = tiny("tokenizer.json").display().to_string();
    let on_text = ["--calibration", &text, "--tokenizer", &tokenizer, "--seq-len", "16"];
    let words = ["\"encoder_attention_mask\"", "every state of the encoder", ".jsonl", "\"text\""];
    bench.refuse_to_compile(3, &model, &on_text, &words);

    // As the message says.
    let states = format!("{:?}", [[0.25f32; 64]; 3]);
    let line =
        format!("{{\"text\": \"The river was high that spring.\", \"encoder_hidden_states\": {states}}}\n");
    let data = bench.write("data.jsonl", line.repeat(2));
    let options = ["--calibration", data.to_str().unwrap(), "--tokenizer", &tokenizer];
    let (_, message) = bench.compile(&model, &bench.output(), &options);
    assert!(message.contains("calibration: 2 samples") && message.contains(VERIFIED), "{message}");
    // The verification needs no more than numbers.
    let (_, message) = bench.compile(&model, &bench.output(), &["--method", "rtn"]);
    assert!(message.contains(VERIFIED), "{message}");
}

/// A classifier of images of three channels, which it does not declare.
fn image_classifier() -> ModelProto {
    model(GraphProto {
        name: string("images"),
        input: vec![info("pixel_values", DataType::Float, &["batch", "channels", "8", "8"])],
        output: vec![info("logits", DataType::Float, &["batch", "32"])],
        initializer: vec![matrix("w", 192, 32)],
        node: vec![
            node("Flatten", "flat", &["pixel_values"], "x"),
            node("MatMul", "/classifier/MatMul", &["x", "w"], "logits"),
        ],
        ..Default::default()
    })
}

#[test]
fn the_verification_runs_on_a_calibration_sample() {
    let bench = Bench::new();
    let model = bench.model(&image_classifier());
    let image = format!("{:?}", [[[0.5f32; 8]; 8]; 3]);
    let data = bench.write("data.jsonl", format!("{{\"pixel_values\": {image}}}\n").repeat(3));
    let (_, message) = bench.compile(&model, &bench.output(), &["--calibration", data.to_str().unwrap()]);
    assert!(message.contains(VERIFIED) && message.contains("1 layer"), "{message}");
    // Without one, eight channels are synthesized, which the model does not take.
    let (_, message) = bench.compile(&model, &bench.output(), &["--method", "rtn"]);
    assert!(message.contains("no run, as"), "{message}");
}
