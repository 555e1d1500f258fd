//! The models of the folder that `ZQC_SHARED` names: every exporter's habit, on one network. They are no part of the suite:
//! `docs/testing.md` has the command.

use std::collections::HashSet;
use std::path::Path;

use zqc_formats::ActivationFormat;
use zqc_ir::{Model, Op, onnx};
use zqc_passes::{Canonicalize, InlineFunctions, Observer, QuantizeActivations, Select, run};

const VARIANTS: [&str; 13] = [
    "dynamo-fp32",
    "dynamo-fp16",
    "dynamo-fp32-extdata",
    "dynamo-sdpa-fp32",
    "dynamo-opset24-fp32",
    "dynamo-nooptimize-fp32",
    "dynamo-past-fp32",
    "legacy-fp32",
    "legacy-nofold-fp32",
    "legacy-past-fp32",
    "dynamo-opset23-sdpa-fp32",
    "ort-optimized",
    "local-functions-fp32",
];

/// The layers that stay in float, with the reasons.
#[derive(Default)]
struct Kept(Vec<(String, String)>);

impl Observer for Kept {
    fn layer_kept(&mut self, layer: &str, reason: &str) {
        self.0.push((layer.to_string(), reason.to_string()));
    }
}

/// Runs `check` on every variant of the five-layer Llama.
fn for_each_variant(check: impl Fn(&str, Model)) {
    let shared = std::env::var_os("ZQC_SHARED").expect("ZQC_SHARED names the folder of the models");
    for variant in VARIANTS {
        let path = Path::new(&shared).join("models/stories260k").join(variant).join("model.onnx");
        check(variant, onnx::read(&path).unwrap());
    }
}

fn layers(model: &Model) -> Vec<String> {
    let linear = model.graph.nodes().filter_map(|(_, node)| match &node.op {
        Op::Linear(linear) => Some(linear.layer.clone()),
        _ => None,
    });
    linear.collect()
}

#[test]
fn all_layers_but_the_head_are_quantized() {
    let path = regex::Regex::new(r"^m\.model\.layers\.[0-4]\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj$")
        .unwrap();
    for_each_variant(|variant, mut model| {
        let mut kept = Kept::default();
        run(&InlineFunctions, &mut model, &mut kept).unwrap();
        run(&Canonicalize::default(), &mut model, &mut kept).unwrap();
        run(&Select::default(), &mut model, &mut kept).unwrap();
        run(&QuantizeActivations { format: ActivationFormat::E4M3 }, &mut model, &mut kept).unwrap();

        let quantized = layers(&model);
        assert_eq!(quantized.iter().collect::<HashSet<_>>().len(), 35, "{variant}");
        assert_eq!(quantized.len(), 35, "{variant}");
        assert!(quantized.iter().all(|layer| path.is_match(layer)), "{variant}: {quantized:?}");
        let [(head, reason)] = &kept.0[..] else { panic!("{variant}: {:?}", kept.0) };
        assert_eq!(head, "m.lm_head", "{variant}");
        assert!(reason.starts_with("lm_head: "), "{variant}: {reason}");

        let activations = model.graph.nodes().filter(|(_, n)| matches!(n.op, Op::QuantizeActivation(_)));
        assert_eq!(activations.count(), 4 * 5, "{variant}: q/k/v, o, gate/up and down read an input each");
    });
}

#[test]
fn a_model_of_which_nothing_is_quantized_comes_back_as_it_was() {
    let nothing = Select { only: vec!["^$".parse().unwrap()], ..Default::default() };
    for_each_variant(|variant, mut model| {
        let before = onnx::to_proto(&model).unwrap();
        run(&InlineFunctions, &mut model, &mut Kept::default()).unwrap();
        let before = if model.header.functions.is_empty() { onnx::to_proto(&model).unwrap() } else { before };
        run(&Canonicalize::default(), &mut model, &mut Kept::default()).unwrap();
        assert_eq!(layers(&model).len(), 36, "{variant}");
        run(&nothing, &mut model, &mut Kept::default()).unwrap();
        assert!(onnx::to_proto(&model).unwrap() == before, "{variant}");
    });
}
