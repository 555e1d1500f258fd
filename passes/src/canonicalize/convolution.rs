//! 1x1 convolutions: linear layers over the channels.

use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::{Graph, Node};

use super::operand::Weight;
use super::rearranged::Arrangement;

/// The weight of a `Conv` of one group whose window has extent 1, and how its activation is arranged for a linear layer;
/// `None` for all other nodes.
pub(super) fn pointwise(graph: &Graph, node: &Node, requantize: bool) -> Option<(Weight, Arrangement)> {
    let conv = node.op.as_standard("Conv").filter(|conv| conv.int_or("group", 1) == 1)?;
    let (weight, rank) = Weight::of_channels(graph, node.input(1)?, requantize)?;
    let spatial = conv.ints("kernel_shape").map_or(rank - 2, <[i64]>::len);
    (spatial == rank - 2).then(|| (weight, Arrangement::channels_last(rank)))
}

/// Why such a convolution does more than a linear layer over the channels.
pub(super) fn obstacle(conv: &NodeProto) -> Option<String> {
    let differs = |name: &str, usual: i64| {
        let values = conv.ints(name).filter(|values| values.iter().any(|&value| value != usual))?;
        Some(format!("it is a 1x1 convolution with {name} of {values:?}"))
    };
    differs("strides", 1).or_else(|| differs("pads", 0))
}
