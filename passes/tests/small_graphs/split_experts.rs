use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::DataType;
use zqc_passes::{Canonicalize, Select, SplitExperts};

use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

/// Two experts of 32 x 48, in a stack of these dimensions.
fn experts(dtype: DataType, dims: &[usize]) -> Builder {
    Builder::new().input("x", DataType::Float, "2 tokens 32").weight("m.experts.up", dtype, dims)
}

fn multiplied(stack: Builder, weight: &str) -> Builder {
    stack.node("MatMul", &["x", weight], "y").named("/m/experts/MatMul").output("y")
}

fn plain() -> Builder {
    multiplied(experts(DataType::Float, &[2, 32, 48]), "m.experts.up")
}

/// A matrix for each token, looked up by `e`.
fn looked_up() -> Builder {
    looked_up_in(&[2, 32, 48]).node("Gather", &["m.experts.up", "e"], "w")
}

fn looked_up_in(dims: &[usize]) -> Builder {
    Builder::new().input("x", DataType::Float, "tokens 1 32").input("e", DataType::Int64, "tokens").weight(
        "m.experts.up",
        DataType::Float,
        dims,
    )
}

fn forms() -> Vec<(&'static str, Builder)> {
    use DataType::{Float, Float16};
    vec![
        ("plain", plain()),
        ("before_opset_18", plain().opset(17)),
        ("transposed_and_cast", {
            let stack = experts(Float16, &[2, 48, 32])
                .node("Transpose", &["m.experts.up"], "t")
                .with(ints("perm", &[0, 2, 1]))
                .node("Cast", &["t"], "w")
                .with(int("to", Float as i64));
            multiplied(stack, "w")
        }),
        (
            "shared_by_two_products",
            multiplied(experts(Float, &[2, 32, 48]), "m.experts.up")
                .input("z", Float, "2 tokens 32")
                .node("MatMul", &["z", "m.experts.up"], "v")
                .output("v"),
        ),
        (
            "one_after_the_other",
            plain()
                .weight("m.experts.down", Float, &[2, 48, 32])
                .node("MatMul", &["y", "m.experts.down"], "y_1")
                .named("/m/experts/MatMul_1")
                .output("y_1"),
        ),
        ("looked_up", multiplied(looked_up(), "w")),
        (
            "looked_up_and_transposed",
            multiplied(
                looked_up_in(&[2, 48, 32])
                    .node("Gather", &["m.experts.up", "e"], "g")
                    .node("Transpose", &["g"], "w")
                    .with(ints("perm", &[0, 2, 1])),
                "w",
            ),
        ),
        (
            "looked_up_on_the_left",
            looked_up_in(&[2, 48, 32])
                .integers("last", &[-1])
                .node("Unsqueeze", &["e", "last"], "i")
                .node("GatherND", &["m.experts.up", "i"], "w")
                .node("MatMul", &["w", "x"], "y")
                .named("/m/experts/MatMul")
                .output("y"),
        ),
        (
            "looked_up_twice",
            multiplied(looked_up(), "w")
                .weight("m.experts.down", Float, &[2, 48, 32])
                .node("Gather", &["m.experts.down", "e"], "v")
                .node("MatMul", &["y", "v"], "y_1")
                .named("/m/experts/MatMul_1")
                .output("y_1"),
        ),
        ("looked_up_before_opset_11_stays", multiplied(looked_up(), "w").opset(10)),
        ("looked_up_by_a_matrix_stays", {
            let stack = experts(Float, &[2, 32, 48]).input("e", DataType::Int64, "tokens choices");
            multiplied(stack.node("Gather", &["m.experts.up", "e"], "w"), "w")
        }),
        ("looked_up_along_another_axis_stays", {
            let stack = looked_up_in(&[32, 2, 48]).node("Gather", &["m.experts.up", "e"], "w");
            multiplied(stack.with(int("axis", 1)), "w")
        }),
        ("four_dimensions_stay", multiplied(experts(Float, &[1, 2, 32, 48]), "m.experts.up")),
        ("small_ones_stay", multiplied(experts(Float, &[2, 32, 4]), "m.experts.up")),
    ]
}

#[test]
fn every_form() {
    for (name, form) in forms() {
        let text = run(&[&SplitExperts::default()], &mut form.build());
        let kept = run(&[&Canonicalize::default()], &mut form.build());
        let reason = kept.lines().filter(|line| line.starts_with("kept"));
        let text = reason.fold(text, |text, line| format!("{text}{line}\n"));
        assert_snapshot("split_experts", name, &text);
    }
}

#[test]
fn every_expert_is_a_layer() {
    let passes: [&dyn zqc_passes::Pass; 3] =
        [&SplitExperts::default(), &Canonicalize::default(), &Select::default()];
    assert_snapshot("split_experts", "layers", &run(&passes, &mut plain().build()));
}

#[test]
fn a_stack_that_stays_in_float_comes_back_as_it_was() {
    for (name, expression, count) in
        [("all", "^nothing$", 0), ("one", r"experts\.1$", 1), ("by_the_stack", r"^m\.experts", 2)]
    {
        let select = Select { only: vec![expression.parse().unwrap()], ..Default::default() };
        let mut model = plain().build();
        let text =
            run(&[&SplitExperts { select: select.clone() }, &Canonicalize::default(), &select], &mut model);
        assert_eq!(text.matches("zqc.linear").count(), count, "{name}: {text}");
        if count == 0 {
            assert_eq!(written(&model), plain().proto);
            assert!(text.contains("kept m.experts: not named by --only"), "{text}");
        }
    }
}
