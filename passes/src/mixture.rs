//! ONNX Runtime's `MoE`: a mixture of experts in one operator.

use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::tensor::DataType;
use zqc_ir::{Graph, Model, NodeId, ValueId};

use crate::constant_view::{ConstantView, is_float};
use crate::contrib::as_microsoft;
use crate::select::Select;

/// Since this opset `Unsqueeze` and `ReduceSum` read what was an attribute before.
const READS_AXES: i64 = 13;

/// `MoE` of com.microsoft with constant weights. Every token goes to the experts that are the most likely ones of the
/// router, and its result is the mean of theirs by these probabilities.
pub(crate) struct Mixture {
    pub x: ValueId,
    /// Router logits, `[tokens, experts]`.
    pub router: ValueId,
    /// Experts that a token goes to.
    pub choices: i64,
    /// Whether the probabilities of the chosen experts are to sum to 1.
    pub normalized: bool,
    pub activation: Activation,
    /// The layers before the activation: two where its gate has a matrix of its own.
    pub up: Vec<Experts>,
    pub down: Experts,
    /// The element type in which the experts compute.
    pub dtype: DataType,
}

/// What lies between the layers of an expert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activation {
    Relu,
    /// By the tangent.
    Gelu,
    Silu,
    Identity,
    SwiGlu(SwiGlu),
}

/// `G sigmoid(alpha G) (L + beta)`, with the gate `G` and the linear half `L` clipped to `limit`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SwiGlu {
    pub layout: Halves,
    pub alpha: f32,
    pub beta: f32,
    pub limit: Option<f32>,
}

/// Where gate and linear half lie among the output features before the activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Halves {
    /// Each is of a layer of its own.
    Apart,
    /// In turn, the gate first.
    Interleaved,
    /// The gate before the other.
    Joined,
}

/// A stack of matrices `[experts, N, K]`, one for each expert.
#[derive(Clone, Copy)]
pub(crate) struct Experts {
    /// By what name the operator knows it.
    pub name: &'static str,
    pub stack: ValueId,
    /// What holds the stack.
    pub root: ValueId,
    pub experts: usize,
    pub k: usize,
    pub n: usize,
    pub bias: Option<ValueId>,
}

impl Mixture {
    /// The node with its weights; `None` for all other nodes. The error says what holds a weight, and why the experts cannot be
    /// taken apart.
    pub(crate) fn of(model: &Model, id: NodeId) -> Option<Result<Self, (ValueId, String)>> {
        let graph = &model.graph;
        let node = graph.node(id);
        let proto = as_microsoft(&node.op, "MoE")?;
        let view = ConstantView::of(graph, node.input(2)?)?;
        let experts = |name, port: usize| {
            let (stack, bias) = (node.input(port)?, node.input(port + 1));
            let view =
                ConstantView::of(graph, stack).filter(|view| is_float(view.dtype) && !view.transposed)?;
            let extents: Vec<usize> = view.dims.iter().map_while(|&dim| usize::try_from(dim).ok()).collect();
            let [experts, n, k] = extents[..] else { return None };
            Some(Experts { name, stack, root: view.root, experts, k, n, bias })
        };
        let whole = |activation: Activation| {
            let mut up = vec![experts("fc1", 2)?];
            if matches!(activation, Activation::SwiGlu(SwiGlu { layout: Halves::Apart, .. })) {
                up.push(experts("fc3", 6)?);
            }
            Some(Self {
                x: node.input(0)?,
                router: node.input(1)?,
                choices: proto.int_or("k", 1),
                normalized: proto.int_or("normalize_routing_weights", 0) != 0,
                activation,
                up,
                down: experts("fc2", 4)?,
                dtype: view.dtype,
            })
        };
        let has_third = node.input(6).is_some();
        let mixture = if model.opset() < READS_AXES {
            Err(format!("the opset is {}, below {READS_AXES}", model.opset()))
        } else if proto.int_or("use_sparse_mixer", 0) != 0 {
            Err("it chooses experts by a sparse mixer".to_string())
        } else {
            Activation::of(proto, has_third).and_then(|activation| {
                let whole = whole(activation).filter(Self::fits);
                whole.ok_or_else(|| "its weights are no float constants that fit together".to_string())
            })
        };
        Some(mixture.map_err(|obstacle| (view.root, format!("its MoE stays one operator: {obstacle}"))))
    }

    /// The stacks of experts, the last layer last.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Experts> {
        self.up.iter().chain([&self.down])
    }

    /// The first stack none of whose experts `select` quantizes, in the mixture at this path that the node `node` is: all
    /// stacks are taken apart or none, since one that stays would be copied for every token.
    pub(crate) fn kept<'m>(
        &'m self,
        graph: &Graph,
        select: &Select,
        path: &str,
        node: &str,
    ) -> Option<&'m Experts> {
        self.layers().find(|experts| {
            let stack = &graph.value(experts.root).name;
            (0..experts.experts).all(|expert| {
                let (layer, matrix) =
                    (format!("{path}.{}.{expert}", experts.name), format!("{stack}.{expert}"));
                select.reason_to_keep(&[&layer, node, &matrix], [experts.k, experts.n]).is_some()
            })
        })
    }

    /// Whether the stacks have the sizes that belong together.
    fn fits(&self) -> bool {
        let joined = matches!(self.activation, Activation::SwiGlu(swiglu) if swiglu.layout != Halves::Apart);
        let inside = self.down.k.checked_mul(if joined { 2 } else { 1 });
        let first = &self.up[0];
        let fits = |up: &Experts| up.experts == self.down.experts && Some(up.n) == inside && up.k == first.k;
        self.down.experts > 0 && self.choices > 0 && self.up.iter().all(fits)
    }
}

impl Activation {
    fn of(moe: &NodeProto, has_third: bool) -> Result<Self, String> {
        let kind =
            moe.find_attribute("activation_type").and_then(|kind| kind.s.as_deref()).unwrap_or(b"relu");
        let kind = String::from_utf8_lossy(kind);
        let plain = match &*kind {
            "relu" => Self::Relu,
            "gelu" => Self::Gelu,
            "silu" => Self::Silu,
            "identity" => Self::Identity,
            "swiglu" => return SwiGlu::of(moe, has_third).map(Self::SwiGlu),
            _ => return Err(format!("its activation is {kind}")),
        };
        if has_third { Err(format!("it has a third layer, and its activation is {kind}")) } else { Ok(plain) }
    }
}

impl SwiGlu {
    fn of(moe: &NodeProto, has_third: bool) -> Result<Self, String> {
        if moe.int_or("swiglu_limit_after_activation", 0) != 0 {
            return Err("it clips what is activated".to_string());
        }
        let fusion = moe.int_or("swiglu_fusion", 0);
        let layout = match (fusion, has_third) {
            (0, true) => Halves::Apart,
            (1, false) => Halves::Interleaved,
            (2, false) => Halves::Joined,
            _ => return Err(format!("its swiglu_fusion of {fusion} does not fit its layers")),
        };
        let limit =
            moe.find_attribute("swiglu_limit").and_then(|limit| limit.f).filter(|limit| limit.is_finite());
        let (alpha, beta) = (moe.float_or("activation_alpha", 1.0), moe.float_or("activation_beta", 0.0));
        Ok(Self { layout, alpha, beta, limit })
    }
}
