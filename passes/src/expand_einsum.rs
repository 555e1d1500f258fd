//! `Einsum` with a constant becomes the `MatMul` that it is.

use zqc_ir::op::attribute::ints;
use zqc_ir::{ChangeBuilder, Model, NodeId, Patch, PatchBuilder, ValueRef};

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
        let mut patch = PatchBuilder::new(graph);
        let mut paths = LayerPaths::default();
        for id in graph.order()? {
            let Some(product) = EinsumProduct::of(graph, id) else { continue };
            let node = graph.node(id);
            let path = paths.issue(graph, node, product.root);
            let by_name = [path.as_str(), &node.name, &graph.value(product.root).name];
            let Some(features) = product.features() else { continue };
            if self.select.reason_to_keep(&by_name, features).is_none() {
                let change = patch.change_of(id, format!("{path} is a product of matrices"));
                expand(id, &path, &product, change);
            }
        }
        Ok(patch.finish())
    }
}

fn expand(id: NodeId, path: &str, product: &EinsumProduct, mut change: ChangeBuilder) {
    let EinsumProduct { plan, experts, k, n, .. } = product;
    let mut x = ValueRef::from(product.x);
    if let Some(order) = &plan.before {
        x = change.op("Transpose", [x]).with([ints("perm", order)]).output("rows");
    }
    let kept = vec![0; plan.kept];
    let reshaped = |change: &mut ChangeBuilder, value: ValueRef, dims: &[i64], part: &str| {
        let shape = change.integers(&[dims.len()], dims);
        change.op("Reshape", [value, shape]).output(part)
    };
    if plan.contracted > 1 {
        x = reshaped(&mut change, x, &[&kept[..], &[*k]].concat(), "input");
    }
    let all: i64 = n.iter().product();
    let matrix = if plan.transposed { [all, *k] } else { [*k, all] };
    let mut weight = ValueRef::from(product.weight);
    if plan.contracted > 1 || n.len() > 1 {
        let dims: Vec<i64> = experts.iter().copied().chain(matrix).collect();
        weight = reshaped(&mut change, weight, &dims, "matrix");
    }
    if plan.transposed {
        let order: &[i64] = if experts.is_some() { &[0, 2, 1] } else { &[1, 0] };
        weight = change.op("Transpose", [weight]).with([ints("perm", order)]).output("transpose");
    }
    let mut y = change.op("MatMul", [x, weight]).named(format!("{path}/MatMul")).output("product");
    if n.len() > 1 {
        y = reshaped(&mut change, y, &[&kept[..], n].concat(), "output");
    }
    if let Some(order) = &plan.after {
        y = change.op("Transpose", [y]).with([ints("perm", order)]).output("turned");
    }
    change.replace(id, &y);
}
