//! Which layers are the language-model head, and how many tokens a model knows, in the forms that exporters write.

use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::DataType::{Float, Int8, Int64};
use zqc_passes::{Canonicalize, Select, Silent, vocabulary};

use crate::Log;
use crate::builder::{Builder, info};

/// The layers that stay in float as the head.
fn heads(model: &Builder) -> Vec<String> {
    let (mut model, mut log) = (model.build(), Log::default());
    zqc_passes::run(&Canonicalize::default(), &mut model, &mut Silent).unwrap();
    zqc_passes::run(&Select::default(), &mut model, &mut log).unwrap();
    let head = |line: &str| Some(line.strip_prefix("kept ")?.split_once(": lm_head:")?.0.to_string());
    log.0.lines().filter_map(head).collect()
}

fn tokens(model: &Builder) -> Option<usize> {
    vocabulary(&model.build().graph, "input_ids")
}

/// A table of 96 rows in 32 dimensions, looked up into `h`.
fn embedded() -> Builder {
    Builder::new().input("input_ids", Int64, "batch seq").constant("table", Float, &[96, 32]).node(
        "Gather",
        &["table", "input_ids"],
        "h",
    )
}

/// A layer of `[32, n]` called after its weight.
fn layer(model: Builder, weight: &str, n: i64, input: &str, output: &str) -> Builder {
    let name = format!("/{weight}/MatMul");
    model.constant(weight, Float, &[32, n]).node("MatMul", &[input, weight], output).named(&name)
}

/// An output that is declared.
fn declared(mut model: Builder, name: &str, dims: &str) -> Builder {
    model.proto.graph.get_or_insert_default().output.push(info(name, Float, dims));
    model
}

#[test]
fn a_table_that_lies_transposed_counts_its_columns() {
    // As the builder of onnxruntime-genai ties them, in a model whose keys are as wide as its embeddings.
    let model = Builder::new()
        .input("input_ids", Int64, "batch seq")
        .constant("lm_head.weight", Float, &[32, 96])
        .node("Transpose", &["lm_head.weight"], "table")
        .with(ints("perm", &[1, 0]))
        .node("Gather", &["table", "input_ids"], "h")
        .node("MatMul", &["h", "lm_head.weight"], "logits")
        .named("/lm_head/MatMul")
        .output("logits");
    let model = layer(model, "k_proj", 32, "h", "present.0.key").output("present.0.key");
    assert_eq!(tokens(&model), Some(96));
    assert_eq!(heads(&model), ["lm_head"]);
}

#[test]
fn tables_of_every_form_are_vocabularies() {
    let input = || Builder::new().input("input_ids", Int64, "batch seq");
    let dequantized = input()
        .constant("codes", Int8, &[96, 32])
        .constant("scales", Float, &[96])
        .node("DequantizeLinear", &["codes", "scales"], "table")
        .with(int("axis", 0))
        .node("Gather", &["table", "input_ids"], "h");
    let fused = input()
        .constant("words", Float, &[96, 32])
        .constant("positions", Float, &[64, 32])
        .constant("segments", Float, &[2, 32])
        .constant("gamma", Float, &[32])
        .node(
            "EmbedLayerNormalization",
            &["input_ids", "", "words", "positions", "segments", "gamma", "gamma"],
            "h",
        )
        .of("com.microsoft")
        .and_output("mask");
    let blocks = input()
        .constant("codes", Int8, &[96, 32])
        .constant("scales", Float, &[96, 1])
        .node("GatherBlockQuantized", &["codes", "input_ids", "scales"], "h")
        .of("com.microsoft");
    for model in [embedded(), dequantized, fused, blocks] {
        assert_eq!(tokens(&model), Some(96));
        let model = layer(model, "head", 96, "h", "logits").output("logits");
        assert_eq!(heads(&model), ["head"]);
        // Without a result in which there is a row for a token.
        assert_eq!(heads(&layer(model, "down", 32, "h", "y").output("y")), ["head"]);
    }
    let columns = input()
        .constant("table", Float, &[96, 32])
        .node("Gather", &["table", "input_ids"], "h")
        .with(int("axis", 1));
    assert_eq!(tokens(&columns), None);
}

#[test]
fn a_table_of_positions_is_no_vocabulary() {
    // GPT-2-medium has as many positions as features, and layers whose result goes on to the caches.
    let model = embedded()
        .input("position_ids", Int64, "batch seq")
        .constant("positions", Float, &[32, 32])
        .node("Gather", &["positions", "position_ids"], "p")
        .node("Add", &["h", "p"], "e");
    let model = layer(model, "key", 32, "e", "present.0.key").output("present.0.key");
    let model = layer(model, "down", 32, "e", "d");
    let model = layer(model, "head", 96, "d", "logits").output("logits").output("d");
    assert_eq!(tokens(&model), Some(96));
    assert_eq!(heads(&model), ["head"]);
}

#[test]
fn caches_and_sizes_do_not_make_a_layer_the_last() {
    // Keys as wide as there are tokens, which go into a cache, and of which the logits depend by their length alone.
    let model = layer(embedded(), "key", 96, "h", "present.0.key").output("present.0.key");
    let model = model.node("Shape", &["present.0.key"], "length").node("Expand", &["h", "length"], "long");
    let model = layer(model, "head", 96, "long", "y").node("Identity", &["y"], "logits").output("logits");
    assert_eq!(heads(&model), ["head"]);
}

#[test]
fn a_branch_that_is_named_after_its_past_has_logits() {
    // As in the bodies of a merged decoder.
    let model = layer(embedded(), "key", 96, "h", "nopast_present.0.key").output("nopast_present.0.key");
    let model = layer(model, "head", 96, "h", "nopast_logits").output("nopast_logits");
    assert_eq!(heads(&model), ["head"]);
}

#[test]
fn a_decoder_without_a_table_has_a_head() {
    let embeds = || Builder::new().input("inputs_embeds", Float, "batch seq 32");
    let pooled = || Builder::new().input("inputs_embeds", Float, "batch 32");
    let head =
        |model: Builder, dims| declared(layer(model, "head", 96, "inputs_embeds", "logits"), "logits", dims);
    assert_eq!(heads(&head(embeds(), "batch seq 96")), ["head"]);
    // One row for a sample is the result of a classifier.
    assert_eq!(heads(&head(pooled(), "batch 96")), [""; 0]);
    let few = declared(
        layer(embeds().constant("b", Float, &[32]), "classes", 32, "inputs_embeds", "logits"),
        "logits",
        "b s 32",
    );
    assert_eq!(heads(&few), [""; 0]);

    // With caches, and a head of more rows than the table has.
    let padded = layer(embedded(), "head", 128, "h", "logits");
    let padded = declared(padded, "logits", "batch seq 128");
    assert_eq!(heads(&padded), [""; 0]);
    let padded = layer(padded, "key", 64, "h", "present.0.key").output("present.0.key");
    assert_eq!(heads(&padded), ["head"]);
}

#[test]
fn a_classifier_of_images_has_no_head() {
    let model =
        layer(Builder::new().input("pixels", Float, "batch 32"), "classifier", 1000, "pixels", "logits");
    assert_eq!(heads(&declared(model, "logits", "batch 1000")), [""; 0]);
}
