use zqc_ir::op::attribute::string;
use zqc_ir::tensor::DataType::Float;
use zqc_passes::{Canonicalize, ExpandEinsum, Pass, Select, SplitExperts};

use crate::builder::{Builder, written};
use crate::{assert_snapshot, run};

/// An `Einsum` of `x` and a constant `w` of these dimensions.
fn einsum(equation: &str, x: &str, w: &[usize]) -> Builder {
    let builder = Builder::new().input("x", Float, x).weight("m.query.weight", Float, w);
    builder.node("Einsum", &["x", "m.query.weight"], "y").with(string("equation", equation)).output("y")
}

fn forms() -> Vec<(&'static str, Builder)> {
    vec![
        ("plain", einsum("bsd,de->bse", "batch tokens 48", &[48, 32])),
        ("ellipsis", einsum("...d,ed->...e", "batch tokens 48", &[32, 48])),
        ("to_heads", einsum("abc,cde->abde", "batch tokens 48", &[48, 4, 8])),
        ("from_heads", einsum("abcd,cde->abe", "batch tokens 4 12", &[4, 12, 32])),
        ("every_axis_moves", einsum("bds,hkd->bhsk", "batch 48 tokens", &[4, 8, 48])),
        ("constant_first", {
            let builder = Builder::new().input("x", Float, "batch tokens 48").weight("w", Float, &[32, 48]);
            builder
                .node("Einsum", &["w", "x"], "y")
                .with(string("equation", "ed,bsd->bes"))
                .named("/m/query/Einsum")
                .output("y")
        }),
        ("experts", einsum("gecd,edf->gecf", "groups 2 tokens 48", &[2, 48, 32])),
        ("weight_between_stays", einsum("abc,dce->abde", "batch tokens 48", &[4, 48, 8])),
        ("three_operands_stay", {
            let builder = Builder::new()
                .input("x", Float, "tokens 48")
                .input("z", Float, "tokens 16")
                .weight("w", Float, &[48, 32]);
            let builder = builder.node("Einsum", &["x", "w", "z"], "y");
            builder.with(string("equation", "ab,bc,ad->cd")).output("y")
        }),
        ("small_stays", einsum("bsd,de->bse", "batch tokens 48", &[48, 4])),
    ]
}

#[test]
fn every_form() {
    for (name, form) in forms() {
        let mut model = form.build();
        let text = run(&[&ExpandEinsum::default()], &mut model);
        let kept = run(&[&Canonicalize::default()], &mut model.clone());
        let small = run(&[&Canonicalize::default(), &Select::default()], &mut model);
        let reasons = kept.lines().chain(small.lines()).filter(|line| line.starts_with("kept"));
        let text = reasons.fold(text, |text, line| format!("{text}{line}\n"));
        assert_snapshot("expand_einsum", name, &text);
    }
}

#[test]
fn heads_are_layers() {
    let form = einsum("abc,cde->abde", "batch tokens 48", &[48, 4, 8]);
    let passes: [&dyn Pass; 4] =
        [&ExpandEinsum::default(), &SplitExperts::default(), &Canonicalize::default(), &Select::default()];
    assert_snapshot("expand_einsum", "layers", &run(&passes, &mut form.build()));
}

#[test]
fn what_stays_in_float_stays_as_it_was() {
    let form = einsum("abc,cde->abde", "batch tokens 48", &[48, 4, 8]);
    let select = Select { keep: vec![r"m\.query".parse().unwrap()], ..Default::default() };
    let mut model = form.build();
    let passes: [&dyn Pass; 3] =
        [&ExpandEinsum { select: select.clone() }, &Canonicalize::default(), &select];
    let text = run(&passes, &mut model);
    assert_eq!(written(&model), form.proto);
    assert!(text.contains(r"kept m.query: named by --keep m\.query"), "{text}");
}
