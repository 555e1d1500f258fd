//! Where a linear layer sits in the source model, as well as the exporter kept it.

use std::collections::HashMap;

use zqc_ir::{Graph, Node, Op, ValueId};

/// Names the layers of one model, each differently.
#[derive(Default)]
pub(crate) struct LayerPaths {
    issued: HashMap<String, usize>,
}

impl LayerPaths {
    /// The path of the layer that `node` computes with `weight`: `model.layers.0.mlp.up_proj`, and
    /// `model.layers.0.mlp.up_proj#2` for the second one there.
    pub(crate) fn issue(&mut self, graph: &Graph, node: &Node, weight: ValueId) -> String {
        let path = Self::of(graph, node, weight);
        self.unique(path)
    }

    /// As [`LayerPaths::issue`], of a layer whose matrix is this one of several in `weight`: `model.layers.0.mlp.experts.3`.
    pub(crate) fn issue_part(&mut self, graph: &Graph, node: &Node, weight: ValueId, index: usize) -> String {
        let path = Self::of(graph, node, weight);
        self.unique(format!("{path}.{index}"))
    }

    fn of(graph: &Graph, node: &Node, weight: ValueId) -> String {
        module_scope(node)
            .or_else(|| folder(&node.name))
            .or_else(|| graph.value(weight).name.strip_suffix(".weight").map(str::to_string))
            .or_else(|| Some(node.name.clone()).filter(|name| !name.is_empty()))
            .or_else(|| node.output(0).map(|result| graph.value(result).name.clone()))
            .unwrap_or_default()
    }

    fn unique(&mut self, path: String) -> String {
        let count = self.issued.entry(path.clone()).or_default();
        *count += 1;
        match *count {
            1 => path,
            n => self.unique(format!("{path}#{n}")),
        }
    }
}

/// What the dynamo exporter of PyTorch notes in the node: `['', 'model', 'model.up_proj', 'linear_3']`, the scopes from
/// the outermost module down to the call.
fn module_scope(node: &Node) -> Option<String> {
    let Op::Onnx(proto) = &node.op else { return None };
    let scopes: Vec<&str> =
        proto.metadata("pkg.torch.onnx.name_scopes")?.split('\'').skip(1).step_by(2).collect();
    let [.., module, _call] = scopes[..] else { return None };
    (!module.is_empty()).then(|| module.to_string())
}

/// The TorchScript exporter of PyTorch, and those that follow it, name nodes like files:
/// `/model/layers.0/mlp/up_proj/MatMul`.
fn folder(name: &str) -> Option<String> {
    let (folder, _operator) = name.trim_start_matches('/').rsplit_once('/')?;
    Some(folder.replace('/', "."))
}
