//! How many tokens a model takes in a row, in the forms that exporters write.

use zqc_ir::tensor::DataType::{Float, Int64};
use zqc_passes::context_length;

use crate::builder::Builder;

/// Tokens looked up in 96 rows of 32.
fn embedded() -> Builder {
    Builder::new().input("input_ids", Int64, "batch seq").constant("words", Float, &[96, 32]).node(
        "Gather",
        &["words", "input_ids"],
        "w",
    )
}

fn length(model: &Builder) -> Option<usize> {
    context_length(&model.build(), "input_ids")
}

#[test]
fn positions_that_are_looked_up_end_with_their_table() {
    let positions = |rows: i64| {
        embedded()
            .input("position_ids", Int64, "batch seq")
            .constant("segments", Float, &[2, 32])
            .constant("positions", Float, &[rows, 32])
            .constant("buckets", Float, &[40, 4]) // relative positions, by head
            .node("Shape", &["input_ids"], "shape")
            .node("ConstantOfShape", &["shape"], "zeros")
            .node("Gather", &["segments", "zeros"], "s")
            .node("Gather", &["buckets", "position_ids"], "b")
            .node("Gather", &["positions", "position_ids"], "p")
            .node("Add", &["w", "p"], "y")
            .output("y")
    };
    assert_eq!(length(&positions(512)), Some(512));
    assert_eq!(length(&positions(514)), Some(512), "positions begin at 2");
    assert_eq!(length(&embedded().output("w")), None, "a vocabulary is none");
}

#[test]
fn what_other_inputs_look_up_has_no_row_for_a_token() {
    let model = embedded()
        .input("langs", Int64, "batch seq")
        .input("decoder_input_ids", Int64, "batch seq")
        .constant("languages", Float, &[40, 32])
        .node("Gather", &["languages", "langs"], "l")
        .node("Gather", &["words", "decoder_input_ids"], "d")
        .node("Shape", &["input_ids"], "shape")
        .node("Gather", &["words", "shape"], "again")
        .node("Add", &["w", "l"], "y")
        .output("y")
        .output("d");
    assert_eq!(length(&model), None);
}

#[test]
fn the_tables_of_operators_of_their_own_end_it_too() {
    let rotary = |rows: i64, domain: &str, inputs: &[&str]| {
        embedded()
            .constant("cos", Float, &[rows, 8])
            .constant("sin", Float, &[rows, 8])
            .node("RotaryEmbedding", inputs, "y")
            .of(domain)
            .output("y")
    };
    assert_eq!(length(&rotary(128, "com.microsoft", &["w", "input_ids", "cos", "sin"])), Some(128));
    assert_eq!(length(&rotary(64, "", &["w", "cos", "sin", "input_ids"])), Some(64));
    let attention = embedded()
        .constant("cos", Float, &[256, 8])
        .constant("sin", Float, &[256, 8])
        .node("GroupQueryAttention", &["w", "w", "w", "", "", "", "", "cos", "sin"], "y")
        .of("com.microsoft")
        .output("y");
    assert_eq!(length(&attention), Some(256));
}
