//! Operands of layers that are read in the bodies of control flow too.

use std::collections::HashMap;

use zqc_formats::FUNCTION_DOMAIN;
use zqc_ir::graph::Port;
use zqc_ir::{Change, Graph, Model, Op, Patch, Tensor, ValueId};

use crate::pass::{Context, Pass, PassError};

/// Stores once what the lowered layers of the graph and those in the bodies of its control-flow operators have in common:
/// the calls in the graph read the constants that the bodies read, where these have the same content.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShareOperands;

impl Pass for ShareOperands {
    fn name(&self) -> &'static str {
        "share_operands"
    }

    fn runs_on_subgraphs(&self) -> bool {
        false
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let mut captured: HashMap<&[i64], Vec<(ValueId, &Tensor)>> = HashMap::new();
        for (value, tensor) in graph.initializers() {
            let is_captured = graph.uses(value).iter().any(|place| place.port == Port::Capture);
            if is_captured {
                captured.entry(tensor.dims()).or_default().push((value, tensor));
            }
        }
        let mut patch = Patch::default();
        for (value, tensor) in graph.initializers().filter(|&(value, _)| is_operand(graph, value)) {
            let alike = captured.get(tensor.dims());
            let same = |&&(other, candidate): &&(ValueId, &Tensor)| {
                other != value && candidate.dtype() == tensor.dtype() && same_bytes(candidate, tensor)
            };
            let Some(&(other, _)) = alike.and_then(|alike| alike.iter().find(same)) else { continue };
            let [name, other] = [value, other].map(|value| graph.value(value).name.clone());
            let mut change =
                Change::new(format!("\"{name}\" has the content of \"{other}\", which a body reads"));
            for place in graph.uses(value) {
                if let Port::Input(port) = place.port {
                    change.rewire.push((place.node, port, other.clone()));
                }
            }
            change.remove_if_unused.push(value);
            patch.changes.push(change);
        }
        Ok(patch)
    }
}

fn same_bytes(one: &Tensor, other: &Tensor) -> bool {
    one.bytes().is_ok_and(|bytes| other.bytes().is_ok_and(|others| bytes == others))
}

/// Whether the value is a constant that only calls of our functions in this graph read.
fn is_operand(graph: &Graph, value: ValueId) -> bool {
    let uses = graph.uses(value);
    let is_call = |op: &Op| matches!(op, Op::Onnx(call) if call.domain() == FUNCTION_DOMAIN);
    let by_calls =
        uses.iter().all(|place| place.port != Port::Capture && is_call(&graph.node(place.node).op));
    !uses.is_empty() && by_calls && graph.constant(value).is_some() && !graph.is_output(value)
}
