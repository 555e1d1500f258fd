//! Linear layers that were fused with an activation become two operators.

use zqc_ir::{Model, Patch, PatchBuilder, ValueRef};

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
        let mut patch = PatchBuilder::new(graph);
        let mut paths = LayerPaths::default();
        for id in graph.order()? {
            let Some(Ok(fused)) = FusedLayer::of(graph, id) else { continue };
            let node = graph.node(id);
            let path = paths.issue(graph, node, fused.root);
            let by_name = [path.as_str(), &node.name, &graph.value(fused.root).name];
            if self.select.reason_to_keep(&by_name, fused.features).is_some() {
                continue;
            }
            let mut change = patch.change_of(id, format!("{path} has an activation"));
            let mut inputs: Vec<ValueRef> =
                node.inputs().iter().flatten().map(|&input| input.into()).collect();
            // `MatMul` has no third operand.
            let bias = if fused.operator == "MatMul" && inputs.len() == 3 { inputs.pop() } else { None };
            let product = change.op(fused.operator, inputs).with(fused.attributes);
            let mut product = product.named(format!("{path}/{}", fused.operator)).output("product");
            if let Some(bias) = bias {
                product = change.op("Add", [product, bias]).output("sum");
            }
            let activated = change.node(fused.activation, [Some(product)]).output("activated");
            change.replace(id, &activated);
        }
        Ok(patch.finish())
    }
}
