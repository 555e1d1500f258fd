//! The types that the IR infers, beside those that ONNX's own shape inference finds.

mod support;

use std::path::Path;

use support::{python, script, tiny};
use zqc::ir::onnx::read;
use zqc::ir::types::Type;

/// What is inferred of values that ONNX infers, too.
#[derive(Default)]
struct Comparison {
    values: usize,
    ranks: usize,
    contradictions: Vec<String>,
}

impl Comparison {
    fn add(&mut self, path: &Path) {
        let Ok(model) = read(path) else { return };
        let graph = &model.graph;
        for (id, value) in graph.values() {
            let declared = value.info.as_ref().and_then(|info| info.r#type.as_ref()).map(Type::from_proto);
            let (Some(declared), Some(node)) = (declared, graph.producer(id)) else { continue };
            let inferred = graph.inferred(id);
            self.values += 1;
            self.ranks += usize::from(inferred.rank().is_some());
            if inferred.contradicts(&declared) {
                let label = graph.label(node);
                self.contradictions.push(format!("{label}: {inferred}, ONNX says {declared}"));
            }
        }
    }
}

#[test]
#[ignore = "needs Python with ONNX Runtime: tests/run"]
fn types_agree_with_onnx_shape_inference() {
    let folder = tempfile::tempdir().unwrap();
    script(&python(), "infer_types.py", [folder.path(), &tiny("model.onnx")]);
    let mut comparison = Comparison::default();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        comparison.add(&entry.unwrap().path());
    }
    let Comparison { values, ranks, contradictions } = comparison;
    println!("{values} values, {ranks} of a rank that is inferred");
    assert!(values > 3000 && ranks > 1000, "{values} values, {ranks} ranks");
    assert!(contradictions.is_empty(), "{}", contradictions.join("\n"));
}
