//! ONNX Runtime's `Attention`, whose first step is a linear layer: one matrix yields queries, keys and values.

use zqc_ir::types::Dim;
use zqc_ir::{Graph, NodeId, ValueId};

use crate::constant_view::{ConstantView, is_float};
use crate::contrib::as_microsoft;

/// The attributes that `MultiHeadAttention` has as well.
const SHARED: [&str; 4] = ["num_heads", "scale", "mask_filter_value", "unidirectional"];

/// `Attention` of com.microsoft with a constant matrix, which `MultiHeadAttention` after a linear layer computes too.
pub(crate) struct PackedAttention {
    pub x: ValueId,
    /// `[K, Nq + Nk + Nv]`.
    pub weight: ValueId,
    /// What holds the weight.
    pub root: ValueId,
    pub bias: Option<ValueId>,
    pub mask: Mask,
    /// Keys and values of earlier tokens, `[2, batch, heads, tokens, head size]`.
    pub past: Option<ValueId>,
    /// Added to the products of queries and keys.
    pub attention_bias: Option<ValueId>,
    pub k: usize,
    /// Features of queries, keys and values.
    pub sizes: [i64; 3],
}

/// Which keys a query sees.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mask {
    /// All.
    None,
    /// Those that are not 0, `[batch, keys]` or `[batch, queries, keys]`.
    Raw(ValueId),
    /// Those before the ends, `[batch]`, or `[2 * batch]` with the beginnings after the ends.
    Ends(ValueId),
}

impl PackedAttention {
    /// The node with its weight; `None` for all other nodes. The error says what holds the weight of an `Attention` that
    /// `MultiHeadAttention` does not compute, and why.
    pub(crate) fn of(graph: &Graph, id: NodeId) -> Option<Result<Self, (ValueId, String)>> {
        let node = graph.node(id);
        let proto = as_microsoft(&node.op, "Attention")?;
        let (x, weight) = (node.input(0)?, node.input(1)?);
        let view = ConstantView::of(graph, weight).filter(|view| is_float(view.dtype))?;
        let mut dims = view.dims.clone();
        if view.transposed {
            dims.reverse();
        }
        let [k, n] = dims[..] else { return None };
        let is_set = |name: &str| proto.int_or(name, 0) != 0;
        let sizes = match *proto.ints("qkv_hidden_sizes").unwrap_or_default() {
            [] => [n / 3; 3],
            [q, k, v] => [q, k, v],
            _ => [0; 3],
        };
        let obstacle = if is_set("do_rotary") {
            Some("it rotates queries and keys".to_string())
        } else if is_set("past_present_share_buffer") || node.input(6).is_some() {
            Some("it writes keys and values into the buffer that it reads them from".to_string())
        } else if !are_parts(sizes, n) {
            Some(format!("its {n} features are no queries, keys and values of {sizes:?}"))
        } else {
            None
        };
        let past = node.input(4);
        let mask = match obstacle {
            Some(obstacle) => Err(obstacle),
            None => Mask::of(graph, node.input(3), past.is_some()),
        };
        let whole = |mask| {
            let k = usize::try_from(k).ok()?;
            let (bias, attention_bias) = (node.input(2), node.input(5));
            Some(Self { x, weight, root: view.root, bias, mask, past, attention_bias, k, sizes })
        };
        match mask {
            Ok(mask) => whole(mask).map(Ok),
            Err(obstacle) => {
                Some(Err((view.root, format!("MultiHeadAttention cannot replace its Attention: {obstacle}"))))
            }
        }
    }

    /// Input features, and those of queries, keys and values together.
    pub(crate) fn features(&self) -> [usize; 2] {
        [self.k, self.sizes.iter().sum::<i64>() as usize]
    }

    /// The attributes that stay.
    pub(crate) fn shared() -> impl Iterator<Item = &'static str> {
        SHARED.into_iter()
    }
}

/// Whether queries, keys and values of these features are all of `n`.
fn are_parts(sizes: [i64; 3], n: i64) -> bool {
    let sum = sizes.iter().try_fold(0i64, |sum, &size| sum.checked_add(size));
    sizes[0] == sizes[1] && sizes.iter().all(|&size| size > 0) && sum == Some(n)
}

impl Mask {
    /// What `mask` means to `Attention`; the error says why it means nothing to `MultiHeadAttention`.
    fn of(graph: &Graph, mask: Option<ValueId>, has_past: bool) -> Result<Self, String> {
        let Some(mask) = mask else { return Ok(Self::None) };
        match graph.ty(mask).rank() {
            // Whether a query sees the one value's keys or none: they all get the same.
            Some(2) if graph.ty(mask).dim(-1) == Dim::Fixed(1) => Ok(Self::None),
            Some(2 | 3) => Ok(Self::Raw(mask)),
            Some(1) if !has_past => Ok(Self::Ends(mask)),
            Some(1) => {
                Err("its mask has the ends of sequences, beside keys and values of earlier tokens"
                    .to_string())
            }
            Some(rank) => Err(format!("its mask has {rank} dimensions")),
            None => Err("how many dimensions its mask has is not known".to_string()),
        }
    }
}
