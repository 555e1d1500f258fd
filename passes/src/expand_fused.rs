//! Linear layers that were fused with an activation become two operators.

use zqc_ir::{FreshNames, Model, Patch};

use crate::draft::{Draft, Integers};
use crate::fused::FusedLayer;
use crate::layer_path::LayerPaths;
use crate::pass::{Context, Pass, PassError};
use crate::select::Select;

/// Turns every `FusedGemm`, `FusedConv` and `GemmFastGelu` of com.microsoft with a constant matrix into `Gemm`, `Conv` or
/// `MatMul` and the activation, if `select` quantizes the matrix.
#[derive(Debug, Clone, Default)]
pub struct ExpandFused {
    /// Which layers are quantized.
    pub select: Select,
}

impl Pass for ExpandFused {
    fn name(&self) -> &'static str {
        "expand_fused"
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let (names, mut integers) = (FreshNames::new(graph), Integers::default());
        let mut paths = LayerPaths::default();
        let mut patch = Patch::default();
        for id in graph.order()? {
            let Some(Ok(fused)) = FusedLayer::of(graph, id) else { continue };
            let node = graph.node(id);
            let path = paths.issue(graph, node, fused.root);
            let by_name = [path.as_str(), &node.name, &graph.value(fused.root).name];
            if self.select.reason_to_keep(&by_name, fused.features).is_some() {
                continue;
            }
            let y = node.output(0).map_or("", |y| &graph.value(y).name);
            let mut draft = Draft::new(graph, &names, y, format!("{path} has an activation"), &mut integers);
            let mut inputs: Vec<&str> =
                node.inputs().iter().flatten().map(|&input| draft.name(input)).collect();
            // `MatMul` has no third operand.
            let bias = if fused.operator == "MatMul" && inputs.len() == 3 { inputs.pop() } else { None };
            let mut product = draft.node(fused.operator, fused.attributes, &inputs, "product");
            draft.rename(format!("{path}/{}", fused.operator));
            if let Some(bias) = bias {
                product = draft.node("Add", vec![], &[&product, bias], "sum");
            }
            draft.foreign(fused.activation, vec![Some(product)], vec![None]);
            patch.changes.push(draft.replace(id));
        }
        Ok(patch)
    }
}
