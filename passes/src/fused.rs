//! Linear layers that ONNX Runtime's optimizer fused with the activation after them.

use zqc_ir::onnx::proto::{AttributeProto, NodeProto};
use zqc_ir::op::attribute::float;
use zqc_ir::{Graph, NodeId, Op, ValueId};

use crate::constant_view::{ConstantView, is_float};
use crate::contrib::{as_microsoft, microsoft};

/// Fused operators: their type, and the standard operator before the activation.
const FUSED: [(&str, &str); 3] = [("FusedConv", "Conv"), ("FusedGemm", "Gemm"), ("GemmFastGelu", "MatMul")];

/// Activations that take the same parameters as the standard operators of these types.
const ACTIVATIONS: [(&str, &[&str]); 9] = [
    ("Elu", &["alpha"]),
    ("HardSigmoid", &["alpha", "beta"]),
    ("LeakyRelu", &["alpha"]),
    ("Relu", &[]),
    ("Sigmoid", &[]),
    ("Softplus", &[]),
    ("Softsign", &[]),
    ("Tanh", &[]),
    ("ThresholdedRelu", &["alpha"]),
];

/// A linear layer and an activation in one operator.
pub(crate) struct FusedLayer {
    /// The standard operator that is the layer, and its attributes.
    pub operator: &'static str,
    pub attributes: Vec<AttributeProto>,
    pub activation: Op,
    /// What holds the weight.
    pub root: ValueId,
    /// Input and output features.
    pub features: [usize; 2],
}

impl FusedLayer {
    /// The layer in the node; `None` for all other nodes. The error says what holds the weight, and why the operator stays.
    pub(crate) fn of(graph: &Graph, id: NodeId) -> Option<Result<Self, (ValueId, String)>> {
        let node = graph.node(id);
        let (proto, operator) =
            FUSED.iter().find_map(|&(fused, operator)| Some((as_microsoft(&node.op, fused)?, operator)))?;
        let view = ConstantView::of(graph, node.input(1)?).filter(|view| is_float(view.dtype))?;
        let of_activation = |attribute: &&AttributeProto| !attribute.name().starts_with("activation");
        let layer = match features(&view, proto) {
            None => Err("it is no linear layer".to_string()),
            Some(_) if operator == "Conv" && node.input(3).is_some() => Err("it adds a tensor".to_string()),
            Some(features) => activation(proto).map(|activation| Self {
                operator,
                attributes: proto.attribute.iter().filter(of_activation).cloned().collect(),
                activation,
                root: view.root,
                features,
            }),
        };
        Some(layer.map_err(|obstacle| {
            (view.root, format!("its {} stays one operator: {obstacle}", proto.op_type()))
        }))
    }
}

/// Input and output features of the weight; `None` where it is no matrix.
fn features(view: &ConstantView, proto: &NodeProto) -> Option<[usize; 2]> {
    let &[rows, columns, ref window @ ..] = &view.dims[..] else { return None };
    let is_conv = proto.op_type() == "FusedConv";
    let is_matrix = if is_conv {
        window.iter().all(|&extent| extent == 1) && proto.int_or("group", 1) == 1 && !view.transposed
    } else {
        window.is_empty()
    };
    let turned = is_conv || view.transposed != (proto.int_or("transB", 0) != 0);
    let [k, n] = if turned { [columns, rows] } else { [rows, columns] };
    is_matrix.then_some([usize::try_from(k).ok()?, usize::try_from(n).ok()?])
}

fn activation(proto: &NodeProto) -> Result<Op, String> {
    if proto.op_type() == "GemmFastGelu" {
        return Ok(microsoft("FastGelu", Vec::new()));
    }
    let kind = proto.find_attribute("activation").and_then(|kind| kind.s.as_deref()).unwrap_or_default();
    let kind = String::from_utf8_lossy(kind);
    let known = ACTIVATIONS.iter().find(|(op_type, _)| *op_type == kind);
    let (op_type, parameters) = known.ok_or_else(|| format!("its activation is {kind:?}"))?;
    let listed = proto.find_attribute("activation_params").map(|listed| listed.floats.as_slice());
    let given = |(at, name): (usize, &&str)| match listed {
        Some(listed) => listed.get(at).copied(),
        None => proto.find_attribute(&format!("activation_{name}")).and_then(|value| value.f),
    };
    let attributes = parameters.iter().enumerate().filter_map(|it| Some(float(it.1, given(it)?)));
    Ok(Op::standard(op_type, attributes.collect()))
}
