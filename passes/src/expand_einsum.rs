//! `Einsum` with a constant becomes the `MatMul` that it is.

use zqc_ir::op::attribute::ints;
use zqc_ir::{Change, FreshNames, Graph, Model, NodeId, Patch};

use crate::draft::{Draft, Integers};
use crate::einsum::EinsumProduct;
use crate::layer_path::LayerPaths;
use crate::pass::{Context, Pass, PassError};
use crate::select::Select;

/// Turns every `Einsum` of an activation and a constant weight that is a linear layer into a `MatMul`, with `Transpose` and
/// `Reshape` around it where axes are in another order or several are contracted (`bshk,hkd->bsd`) or yielded
/// (`bsd,dhk->bshk`), if `select` quantizes it. An axis that the weight, the activation and the result have makes a stack of
/// experts of it, for [`SplitExperts`](crate::SplitExperts).
#[derive(Debug, Clone, Default)]
pub struct ExpandEinsum {
    /// Which layers are quantized.
    pub select: Select,
}

impl Pass for ExpandEinsum {
    fn name(&self) -> &'static str {
        "expand_einsum"
    }

    fn run(&self, model: &Model, _context: &mut Context) -> Result<Patch, PassError> {
        let graph = &model.graph;
        let (names, mut integers) = (FreshNames::new(graph), Integers::default());
        let mut paths = LayerPaths::default();
        let mut patch = Patch::default();
        for id in graph.order()? {
            let Some(product) = EinsumProduct::of(graph, id) else { continue };
            let node = graph.node(id);
            let path = paths.issue(graph, node, product.root);
            let by_name = [path.as_str(), &node.name, &graph.value(product.root).name];
            let Some(features) = product.features() else { continue };
            if self.select.reason_to_keep(&by_name, features).is_none() {
                let why = format!("{path} is a product of matrices");
                let y = node.output(0).map_or("", |y| &graph.value(y).name);
                let draft = Draft::new(graph, &names, y, why, &mut integers);
                patch.changes.push(expand(graph, id, &path, &product, draft));
            }
        }
        Ok(patch)
    }
}

fn expand(graph: &Graph, id: NodeId, path: &str, product: &EinsumProduct, mut draft: Draft) -> Change {
    let EinsumProduct { plan, experts, k, n, .. } = product;
    let mut x = graph.value(product.x).name.clone();
    if let Some(order) = &plan.before {
        x = draft.node("Transpose", vec![ints("perm", order)], &[&x], "rows");
    }
    let kept = vec![0; plan.kept];
    let reshaped = |draft: &mut Draft, value: &str, dims: &[i64], part: &str| {
        let shape = draft.integers(&[dims.len()], dims);
        draft.node("Reshape", vec![], &[value, &shape], part)
    };
    if plan.contracted > 1 {
        x = reshaped(&mut draft, &x, &[&kept[..], &[*k]].concat(), "input");
    }
    let all: i64 = n.iter().product();
    let matrix = if plan.transposed { [all, *k] } else { [*k, all] };
    let mut weight = graph.value(product.weight).name.clone();
    if plan.contracted > 1 || n.len() > 1 {
        let dims: Vec<i64> = experts.iter().copied().chain(matrix).collect();
        weight = reshaped(&mut draft, &weight, &dims, "matrix");
    }
    if plan.transposed {
        let order: &[i64] = if experts.is_some() { &[0, 2, 1] } else { &[1, 0] };
        weight = draft.node("Transpose", vec![ints("perm", order)], &[&weight], "transpose");
    }
    let mut y = draft.node("MatMul", vec![], &[&x, &weight], "product");
    draft.rename(format!("{path}/MatMul"));
    if n.len() > 1 {
        y = reshaped(&mut draft, &y, &[&kept[..], n].concat(), "output");
    }
    if let Some(order) = &plan.after {
        draft.node("Transpose", vec![ints("perm", order)], &[&y], "turned");
    }
    draft.replace(id)
}
