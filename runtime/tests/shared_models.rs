//! Every float variant of stories260k, as different exporters write it, runs in every back end and gives the same
//! logits. The models are in the folder that ZQC_SHARED names, under `models/stories260k`, and no part of the suite:
//! `docs/testing.md` has the command.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use zqc_ir::onnx::from_proto;
use zqc_ir::onnx::proto::ModelProto;
use zqc_ir::onnx::proto::tensor_proto::DataLocation;
use zqc_runtime::{Array, BackendError, InputSpec, Subgraph, available_backends, backend, make_inputs};

const VARIANTS: [&str; 13] = [
    "dynamo-fp16",
    "dynamo-fp32",
    "dynamo-fp32-extdata",
    "dynamo-nooptimize-fp32",
    "dynamo-opset23-sdpa-fp32",
    "dynamo-opset24-fp32",
    "dynamo-past-fp32",
    "dynamo-sdpa-fp32",
    "legacy-fp32",
    "legacy-nofold-fp32",
    "legacy-past-fp32",
    "local-functions-fp32",
    "merged-if-fp32",
];

/// "Once upon a time, there was a little" in the model's tokens.
const TOKENS: [i64; 9] = [1, 403, 407, 261, 378, 432, 383, 285, 261];

fn stories() -> PathBuf {
    let shared = std::env::var_os("ZQC_SHARED").expect("ZQC_SHARED names the folder of the models");
    Path::new(&shared).join("models/stories260k")
}

/// Loads a model and makes its external data inline.
fn load(folder: &Path) -> Subgraph {
    let bytes: Bytes = fs::read(folder.join("model.onnx")).unwrap().into();
    let mut model = ModelProto::decode(bytes).unwrap();
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        if tensor.data_location() == DataLocation::External {
            let entry =
                |key| tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value());
            let number = |key| entry(key).unwrap().parse::<usize>().unwrap();
            let file = fs::read(folder.join(entry("location").unwrap())).unwrap();
            let range = number("offset")..number("offset") + number("length");
            tensor.raw_data = Some(Bytes::from(file).slice(range));
            tensor.external_data.clear();
            tensor.set_data_location(DataLocation::Default);
        }
    }
    Subgraph::from(model)
}

fn specs(subgraph: &Subgraph) -> Vec<InputSpec> {
    InputSpec::of_graph(&from_proto(subgraph.model.clone()).unwrap().graph).unwrap()
}

fn logits(backend_name: &str, subgraph: &Subgraph) -> Array {
    let specs = specs(subgraph);
    let given = BTreeMap::from([("input_ids".to_owned(), Array::sequence(TOKENS.to_vec()))]);
    let inputs = make_inputs(&specs, &given).unwrap();
    let feeds: Vec<_> = inputs.iter().map(|(name, array)| (name.as_str(), array)).collect();
    let session = backend(backend_name, None).unwrap().load(subgraph).unwrap();
    session.run(&feeds, &["logits"]).unwrap().remove(0)
}

fn largest_difference(a: &Array, b: &Array) -> f32 {
    assert_eq!(a.shape, b.shape);
    let pairs = a.as_f32().unwrap().iter().zip(b.as_f32().unwrap());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_variant_gives_the_same_logits() {
    let folder = stories();
    let expected = logits("rten", &load(&folder.join("dynamo-fp32")));
    assert_eq!(expected.shape, [1, TOKENS.len(), 512]);
    for variant in VARIANTS {
        let subgraph = load(&folder.join(variant));
        let tolerance = if variant.contains("fp16") { 0.05 } else { 1e-3 };
        for name in available_backends() {
            let difference = largest_difference(&logits(name, &subgraph), &expected);
            println!("{variant} in {name}: {difference:e}");
            assert!(difference < tolerance, "{variant} in {name} differs by {difference}");
        }
    }
}

#[test]
fn a_past_changes_the_logits_as_the_whole_sequence_does() {
    let folder = stories();
    let past_len = 4;
    for variant in ["dynamo-past-fp32", "legacy-past-fp32"] {
        let subgraph = load(&folder.join(variant));
        let graph = subgraph.model.graph.as_ref().unwrap();
        let specs = specs(&subgraph);
        let caches: Vec<&str> =
            graph.output.iter().map(|output| output.name()).filter(|name| *name != "logits").collect();
        let session = backend("rten", None).unwrap().load(&subgraph).unwrap();

        let given = BTreeMap::from([("input_ids".to_owned(), Array::sequence(TOKENS[..past_len].to_vec()))]);
        let inputs = make_inputs(&specs, &given).unwrap();
        let feeds: Vec<_> = inputs.iter().map(|(name, array)| (name.as_str(), array)).collect();
        let past = session.run(&feeds, &caches).unwrap();

        let rest = TOKENS[past_len..].to_vec();
        let mut given: BTreeMap<String, Array> =
            caches.iter().map(|name| name.replace("present", "past_key_values")).zip(past).collect();
        let past_names: Vec<_> = specs.iter().filter(|spec| spec.name.starts_with("past")).collect();
        assert_eq!(past_names.len(), given.len(), "{caches:?}");
        let positions = (past_len as i64..TOKENS.len() as i64).collect();
        for (name, array) in [
            ("input_ids", Array::sequence(rest)),
            ("attention_mask", Array::sequence(vec![1; TOKENS.len()])),
            ("position_ids", Array::sequence(positions)),
        ] {
            if specs.iter().any(|spec| spec.name == name) {
                given.insert(name.into(), array);
            }
        }
        let inputs = make_inputs(&specs, &given).unwrap();
        let feeds: Vec<_> = inputs.iter().map(|(name, array)| (name.as_str(), array)).collect();
        let continued = session.run(&feeds, &["logits"]).unwrap().remove(0);
        let whole = logits("rten", &subgraph);
        let tail =
            Array::new(continued.shape.clone(), whole.as_f32().unwrap()[past_len * 512..].to_vec()).unwrap();
        let difference = largest_difference(&continued, &tail);
        assert!(difference < 1e-3, "{variant}: {difference}");
    }
}

#[test]
fn what_onnxruntime_fused_runs_in_rten() {
    let folder = stories();
    let [fused, plain] =
        ["ort-optimized", "legacy-fp32"].map(|variant| logits("rten", &load(&folder.join(variant))));
    let difference = largest_difference(&fused, &plain);
    assert!(difference < 1e-3, "{difference}");
}

#[test]
fn an_operator_that_rten_lacks_is_named() {
    let folder = stories();
    let mut subgraph = load(&folder.join("ort-optimized"));
    let nodes = subgraph.model.graph.iter_mut().flat_map(|graph| &mut graph.node);
    nodes.filter(|node| node.op_type() == "QuickGelu").for_each(|node| node.op_type = Some("Mystery".into()));
    match backend("rten", None).unwrap().load(&subgraph).err().unwrap() {
        BackendError::UnsupportedNode { node, op_type, .. } => {
            assert_eq!(op_type, "Mystery");
            assert!(node.contains("layers.0/mlp/act_fn"), "{node}");
        }
        other => panic!("{other}"),
    }
}
