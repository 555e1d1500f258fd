//! The activations that linear layers read become low-precision, token by token.

use zqc_formats::ActivationFormat;
use zqc_ir::graph::Port;
use zqc_ir::op::{QuantizeActivation, port};
use zqc_ir::{Graph, Model, NodeId, Op, Patch, PatchBuilder, ValueId};

use crate::pass::{Context, Pass, PassError};

/// Puts one [`Op::QuantizeActivation`] behind every value that linear layers read as their activation: the query, key
/// and value projections of an attention layer share theirs. Other readers of the value go on reading it in float.
#[derive(Debug, Clone, Copy)]
pub struct QuantizeActivations {
    /// The number format of the codes.
    pub format: ActivationFormat,
}

impl Pass for QuantizeActivations {
    fn name(&self) -> &'static str {
        "quantize_activations"
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut patch = PatchBuilder::new(graph);
        for (x, value) in graph.values() {
            let layers = layers_reading(graph, x);
            if layers.is_empty() || is_quantized(graph, x) {
                continue;
            }
            let why = format!("{} linear layers read \"{}\" as {}", layers.len(), value.name, self.format);
            let mut change = patch.change(why, &value.name);
            let op = Op::QuantizeActivation(QuantizeActivation { format: self.format });
            let quantized =
                change.node(op, [Some(x.into())]).output_named(&format!("{}_quantized", value.name));
            layers.into_iter().for_each(|layer| change.rewire(layer, port::X, &quantized));
            change.finish();
        }
        Ok(patch.finish())
    }
}

fn layers_reading(graph: &Graph, x: ValueId) -> Vec<NodeId> {
    let activations = graph.uses(x).iter().filter(|place| place.port == Port::Input(port::X));
    activations.map(|place| place.node).filter(|&id| matches!(graph.node(id).op, Op::Linear(_))).collect()
}

fn is_quantized(graph: &Graph, x: ValueId) -> bool {
    graph.producer(x).is_some_and(|id| matches!(graph.node(id).op, Op::QuantizeActivation(_)))
}
