//! Weights that are parts of a constant.

use zqc_ir::op::attribute::{int, ints};
use zqc_ir::tensor::DataType;
use zqc_passes::{Canonicalize, QuantConfig, Select, SolveWeights, SplitExperts};

use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

/// `x` `[rows, 32]` and two matrices in a stack of these dimensions.
fn stack(dims: &[usize]) -> Builder {
    Builder::new().input("x", DataType::Float, "rows 32").weight("m.experts", DataType::Float, dims)
}

/// Every one of `parts` without its first axis, as transformers exports experts.
fn squeezed(mut builder: Builder, parts: &[&str]) -> Builder {
    for (at, part) in parts.iter().enumerate() {
        let (matrix, y) = (format!("matrix{at}"), format!("y{at}"));
        builder = builder
            .node("Squeeze", &[part, "first"], &matrix)
            .node("MatMul", &["x", &matrix], &y)
            .scoped("['', 'm', 'm.experts', 'grouped_mm']")
            .output(&y);
    }
    builder
}

/// `Split` of `input` in two along its first axis.
fn split(builder: Builder, input: &str) -> Builder {
    builder.integers("first", &[0]).node("Split", &[input], "a").and_output("b").with(int("num_outputs", 2))
}

fn plain() -> Builder {
    squeezed(split(stack(&[2, 32, 48]), "m.experts"), &["a", "b"])
}

fn multiplied(builder: Builder, operator: &str, inputs: &[&str]) -> Builder {
    builder.node(operator, inputs, "w").node("MatMul", &["x", "w"], "y").output("y")
}

fn scalar(builder: Builder, name: &str, index: i64) -> Builder {
    let mut builder = builder.integers(name, &[index]);
    let graph = builder.proto.graph.as_mut().unwrap();
    graph.initializer.last_mut().unwrap().dims.clear();
    builder
}

fn forms() -> Vec<(&'static str, Builder)> {
    vec![
        ("split", plain()),
        ("split_of_these_sizes", {
            let sizes = stack(&[5, 32, 48]).integers("first", &[0]).integers("sizes", &[1, 3, 1]);
            let split = sizes.node("Split", &["m.experts", "sizes"], "a").and_output("b").and_output("c");
            squeezed(split, &["a", "c"])
        }),
        ("split_before_opset_13", {
            let mut split = stack(&[2, 32, 48]).opset(12).node("Split", &["m.experts"], "a").and_output("b");
            split = split.with(ints("split", &[1, 1]));
            for (part, matrix, y) in [("a", "v", "y0"), ("b", "w", "y1")] {
                split = split.node("Squeeze", &[part], matrix).with(ints("axes", &[0]));
                split = split.node("MatMul", &["x", matrix], y).output(y);
            }
            split
        }),
        ("split_of_a_transposed_stack", {
            let turned = stack(&[2, 48, 32]).node("Transpose", &["m.experts"], "t");
            squeezed(split(turned.with(ints("perm", &[0, 2, 1])), "t"), &["a", "b"])
        }),
        ("looked_up", multiplied(scalar(stack(&[3, 32, 48]), "e", -1), "Gather", &["m.experts", "e"])),
        ("sliced", {
            let rows =
                stack(&[96, 32]).integers("from", &[48]).integers("to", &[i64::MAX]).integers("axis", &[0]);
            let rows =
                rows.node("Slice", &["m.experts", "from", "to", "axis"], "v").node("Transpose", &["v"], "w");
            rows.node("MatMul", &["x", "w"], "y").output("y")
        }),
        ("a_stack_of_stacks", {
            let stack = stack(&[2, 2, 32, 48]).integers("first", &[1]);
            multiplied(scalar(stack, "e", 1), "Gather", &["m.experts", "e"])
        }),
        ("columns_stay", {
            let columns = stack(&[32, 96]).node("Split", &["m.experts"], "w").and_output("v");
            columns
                .with(int("axis", 1))
                .with(int("num_outputs", 2))
                .node("MatMul", &["x", "w"], "y")
                .output("y")
        }),
        ("every_other_row_stays", {
            let rows = stack(&[64, 48]).integers("from", &[0]).integers("to", &[64]).integers("axis", &[0]);
            multiplied(rows.integers("step", &[2]), "Slice", &["m.experts", "from", "to", "axis", "step"])
        }),
        ("a_computed_part_stays", {
            let chosen = stack(&[3, 32, 48]).input("e", DataType::Int64, "");
            multiplied(chosen, "Gather", &["m.experts", "e"])
        }),
    ]
}

#[test]
fn every_form() {
    for (name, form) in forms() {
        let passes: [&dyn zqc_passes::Pass; 2] = [&SplitExperts::default(), &Canonicalize::default()];
        assert_snapshot("canonicalize", &format!("part_{name}"), &run(&passes, &mut form.build()));
    }
}

#[test]
fn a_part_that_stays_in_float_is_taken_from_the_stack_again() {
    let nothing = Select { only: vec!["^$".parse().unwrap()], ..Default::default() };
    for (name, form) in forms().into_iter().filter(|(name, _)| *name != "a_stack_of_stacks") {
        let mut model = form.build();
        run(&[&Canonicalize::default(), &nothing], &mut model);
        assert_eq!(written(&model), form.proto, "{name}");
    }
}

/// What a model is in which the layers that `keep` does not name are rounded to nearest.
fn rounded(form: &Builder, keep: &[&str]) -> (Vec<String>, String) {
    let mut model = form.build();
    let keep = keep.iter().map(|regex| regex.parse().unwrap()).collect();
    let solve = SolveWeights { config: QuantConfig::default() };
    let text = run(&[&Canonicalize::default(), &Select { keep, ..Select::default() }, &solve], &mut model);
    let graph = &model.graph;
    (graph.initializers().map(|(id, _)| graph.value(id).name.clone()).collect(), text)
}

#[test]
fn the_stack_goes_with_its_last_quantized_part() {
    for (name, form) in forms().into_iter().filter(|(name, _)| name.starts_with("split")) {
        let (initializers, text) = rounded(&form, &[]);
        assert_eq!(text.matches("zqc.quantized_linear").count(), 2, "{name}: {text}");
        assert!(!text.contains("Split"), "{name}: {text}");
        assert!(!initializers.contains(&"m.experts".to_string()), "{name}: {initializers:?}");
        // One that stays in float has its matrix alone.
        let (initializers, text) = rounded(&form, &["^m.experts.0$"]);
        assert_eq!(text.matches("zqc.quantized_linear").count(), 1, "{name}: {text}");
        assert!(!text.contains("Split"), "{name}: {text}");
        assert!(initializers.contains(&"m.experts.0".to_string()), "{name}: {initializers:?}");
        assert!(!initializers.contains(&"m.experts".to_string()), "{name}: {initializers:?}");
        assert_snapshot("select", &format!("part_{name}"), &text);
    }
}
