use zqc_ir::tensor::DataType::{Float, Float16, Int64};
use zqc_passes::{Canonicalize, Select};

use crate::builder::Builder;
use crate::{assert_snapshot, run};

fn select(keep: &[&str], only: &[&str]) -> Select {
    let regexes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Select { keep: regexes(keep), only: regexes(only), head: false }
}

/// An embedding of 96 tokens in 32 dimensions, in `h`.
fn embedded() -> Builder {
    Builder::new().input("ids", Int64, "batch seq").constant("embed.weight", Float, &[96, 32]).node(
        "Gather",
        &["embed.weight", "ids"],
        "h",
    )
}

/// The same, with two layers behind it, in `d`.
fn body() -> Builder {
    embedded()
        .constant("up.weight", Float, &[32, 64])
        .constant("down.weight", Float, &[64, 32])
        .constant("down.bias", Float, &[32])
        .node("MatMul", &["h", "up.weight"], "u")
        .named("/mlp/up/MatMul")
        .node("MatMul", &["u", "down.weight"], "v")
        .named("/mlp/down/MatMul")
        .node("Add", &["down.bias", "v"], "d")
        .named("/mlp/down/Add")
}

/// The same, with a head that reads the embedding table.
fn tied() -> Builder {
    body()
        .node("Transpose", &["embed.weight"], "t")
        .node("MatMul", &["d", "t"], "logits")
        .named("/lm_head/MatMul")
        .output("logits")
}

/// The same, with a head of its own.
fn untied() -> Builder {
    body()
        .constant("onnx::MatMul_7", Float, &[32, 96])
        .node("MatMul", &["d", "onnx::MatMul_7"], "y")
        .named("/lm_head/MatMul")
        .node("Cast", &["y"], "logits")
        .output("logits")
}

#[test]
fn every_rule() {
    let cases = [
        ("tied_head", select(&[], &[]), tied()),
        ("untied_head", select(&[], &[]), untied()),
        ("head_named_by_only", select(&[], &["lm_head"]), tied()),
        ("kept_by_path", select(&["mlp.down$"], &[]), untied()),
        ("kept_by_node_name", select(&["^/mlp/up/"], &[]), untied()),
        ("kept_by_weight_name", select(&[r"^down\.weight$"], &[]), untied()),
        ("keep_wins_over_only", select(&["down"], &["mlp"]), untied()),
        ("unmatched", select(&["attn", "up"], &["down", "gate"]), untied()),
        ("as_wide_as_the_vocabulary_but_not_last", select(&[], &[]), wide()),
        ("ids_reshaped_and_cast", select(&[], &[]), reshaped_ids()),
        ("table_behind_identity", select(&[], &[]), shared_table()),
        ("position_table_is_no_vocabulary", select(&[], &[]), positions()),
        ("small", select(&[], &[]), small()),
        ("small_named_by_only", select(&[], &["."]), small()),
    ];
    for (name, select, model) in cases {
        let text = run(&[&Canonicalize::default(), &select], &mut model.build());
        assert_snapshot("select", name, &text);
    }
}

/// A hidden layer with as many outputs as there are tokens.
fn wide() -> Builder {
    embedded()
        .constant("up.weight", Float, &[32, 96])
        .constant("down.weight", Float, &[96, 32])
        .node("MatMul", &["h", "up.weight"], "u")
        .node("Relu", &["u"], "r")
        .node("MatMul", &["r", "down.weight"], "y")
        .output("y")
}

/// Ids that are cast and reshaped before they are looked up, in a model of half precision.
fn reshaped_ids() -> Builder {
    Builder::new()
        .input("ids", Int64, "batch seq")
        .constant("shape", Int64, &[2])
        .constant("table", Float16, &[96, 32])
        .constant("head", Float16, &[32, 96])
        .node("Cast", &["ids"], "narrow")
        .node("Reshape", &["narrow", "shape"], "flat")
        .node("Gather", &["table", "flat"], "h")
        .node("MatMul", &["h", "head"], "logits")
        .output("logits")
}

/// A tied table that reaches both of its readers through `Identity`.
fn shared_table() -> Builder {
    Builder::new()
        .input("ids", Int64, "batch seq")
        .constant("table", Float, &[96, 32])
        .node("Identity", &["table"], "embed")
        .node("Identity", &["table"], "head")
        .node("Gather", &["embed", "ids"], "h")
        .node("Gemm", &["h", "head"], "logits")
        .with(zqc_ir::op::attribute::int("transB", 1))
        .output("logits")
}

/// A last layer with as many outputs as there are positions, which no one feeds.
fn positions() -> Builder {
    embedded()
        .constant("positions", Int64, &[1, 64])
        .constant("position.weight", Float, &[64, 32])
        .constant("pooler.weight", Float, &[32, 64])
        .node("Gather", &["position.weight", "positions"], "p")
        .node("Add", &["h", "p"], "e")
        .node("MatMul", &["e", "pooler.weight"], "y")
        .output("y")
}

/// A layer of few weights, one of few input features, and one that is just large enough.
fn small() -> Builder {
    Builder::new()
        .input("x", Float, "rows 16")
        .input("z", Float, "rows 15")
        .constant("few", Float, &[16, 63])
        .constant("short", Float, &[15, 128])
        .constant("enough", Float, &[16, 64])
        .node("MatMul", &["x", "few"], "a")
        .node("MatMul", &["z", "short"], "b")
        .node("MatMul", &["x", "enough"], "c")
        .output("a")
        .output("b")
        .output("c")
}
