//! Replaces calls of model-local functions by their bodies, for back ends that know no functions.

use prost::Message;
use zqc_ir::functions::Functions;
use zqc_ir::onnx::instantiate;
use zqc_ir::onnx::proto::{GraphProto, ModelProto, NodeProto};
use zqc_ir::{NodeNames, opset};

use super::visit;

/// Inlining stops at this many nodes and calls: nested calls can multiply without bound.
const MAX_NODES: usize = 1 << 18;
/// It stops at this many bytes of names and attributes, payloads that are shared left out.
const MAX_BYTES: usize = 1 << 28;
/// Calls inside of calls; every one takes a piece of the stack.
const MAX_DEPTH: usize = 64;

/// Inlines every function of `model`, in which none calls itself, and drops the definitions. Nodes have different names after
/// that.
///
/// # Errors
/// The reason, when the calls go beyond the limits above.
pub fn inline_functions(model: &mut ModelProto) -> Result<(), String> {
    let functions = std::mem::take(&mut model.functions);
    let Some(graph) = &mut model.graph else { return Ok(()) };
    for import in functions.iter().flat_map(|function| &function.opset_import) {
        if opset::version(&model.opset_import, import.domain()).is_none() {
            model.opset_import.push(import.clone());
        }
    }
    for (domain, version) in opset::repeated(&model.opset_import) {
        opset::import(&mut model.opset_import, &domain, version);
    }
    let mut inliner = Inliner { functions: Functions::new(&functions), calls: 0, nodes: 0, bytes: 0 };
    inliner.graph(graph, 0)
}

struct Inliner<'a> {
    functions: Functions<'a>,
    calls: usize,
    nodes: usize,
    bytes: usize,
}

impl Inliner<'_> {
    fn check_size(&self) -> Result<(), String> {
        if self.nodes + self.calls > MAX_NODES || self.bytes > MAX_BYTES {
            return Err(format!("its functions expand to more than {MAX_NODES} nodes or {MAX_BYTES} bytes"));
        }
        Ok(())
    }

    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), String> {
        let nodes = std::mem::take(&mut graph.node);
        nodes.into_iter().try_for_each(|node| self.node(node, depth, &mut graph.node))?;
        let mut names = NodeNames::default();
        graph.node.iter_mut().for_each(|node| node.name = Some(names.issue(node.name())));
        Ok(())
    }

    /// Appends `node`, or what it calls, to `out`; `depth` counts the calls around it.
    fn node(&mut self, mut node: NodeProto, depth: usize, out: &mut Vec<NodeProto>) -> Result<(), String> {
        let Some(function) = self.functions.called(&node) else {
            self.nodes += 1;
            self.check_size()?;
            for subgraph in visit::subgraphs(&mut node) {
                self.graph(subgraph, depth)?;
            }
            out.push(node);
            return Ok(());
        };
        if depth == MAX_DEPTH {
            return Err(format!("its functions call each other more than {MAX_DEPTH} deep"));
        }
        self.calls += 1;
        let body = instantiate(function, &node, &format!("{}/{}/", function.name(), self.calls));
        self.bytes += body.iter().map(bytes).sum::<usize>();
        self.check_size()?;
        body.into_iter().try_for_each(|inner| self.node(inner, depth + 1, out))
    }
}

/// What a node takes of memory of its own.
fn bytes(node: &NodeProto) -> usize {
    let tensors = node.attribute.iter().filter_map(|attribute| attribute.t.as_ref());
    let shared = tensors.filter_map(|tensor| tensor.raw_data.as_ref()).map(|raw| raw.len());
    node.encoded_len() - shared.sum::<usize>()
}
