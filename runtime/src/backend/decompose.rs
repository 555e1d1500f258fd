//! Takes operators of ONNX Runtime's own domain apart into such as every back end knows.
//!
//! A back end that refuses a node asks for its operator to be taken apart, so what it runs by itself stays as it is. A piece says
//! little about shapes: the rules work on any, and ask for ranks while the model runs where they must.

mod attention;
mod causal_conv;
mod embed_layer_normalization;
mod fused_mat_mul;
mod gelu;
mod group_query_attention;
mod mask;
mod mat_mul_n_bits;
mod multi_head_attention;
mod parts;
mod relative_position_bias;
mod rotary;
mod scaled_dot_product;
mod skip_layer_normalization;

use std::collections::BTreeSet;

use zqc_ir::onnx::proto::ModelProto;
use zqc_ir::opset;

use super::visit;
pub use parts::whole;
use parts::{Parts, Shapes};

/// Writes what stands for a node; `None` for a form that it does not cover.
type Rule = fn(&mut Parts) -> Option<()>;

/// The operators of domain `com.microsoft` that can be taken apart.
const RULES: [(&str, Rule); 11] = [
    ("Attention", attention::take_apart),
    ("BiasSplitGelu", gelu::bias_split),
    ("CausalConvWithState", causal_conv::take_apart),
    ("EmbedLayerNormalization", embed_layer_normalization::take_apart),
    ("FusedMatMul", fused_mat_mul::take_apart),
    ("GroupQueryAttention", group_query_attention::take_apart),
    ("MatMulNBits", mat_mul_n_bits::take_apart),
    ("MultiHeadAttention", multi_head_attention::take_apart),
    ("RelativePositionBias", relative_position_bias::take_apart),
    ("SkipLayerNormalization", skip_layer_normalization::take_apart),
    ("SkipSimplifiedLayerNormalization", skip_layer_normalization::take_apart),
];

/// The names of the operators that can be taken apart.
pub fn operators() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(op_type, _)| *op_type)
}

/// Takes every node of these `operators` apart, subgraphs included, where there is a rule for its form. [`whole`] finds
/// the name of a node by that of its parts.
pub fn take_apart(model: &mut ModelProto, operators: &BTreeSet<String>) {
    let version = opset::version(&model.opset_import, "").unwrap_or(1);
    let Some(graph) = &mut model.graph else { return };
    visit::for_each_graph(graph, &mut |graph| {
        let shapes = Shapes::of(graph);
        let nodes = std::mem::take(&mut graph.node);
        for node in nodes {
            let is_meant = node.domain() == "com.microsoft" && operators.contains(node.op_type());
            let rule = RULES.iter().find(|(op_type, _)| is_meant && *op_type == node.op_type());
            let mut parts = Parts::new(&node, version, &shapes);
            match rule.and_then(|(_, rule)| rule(&mut parts)) {
                Some(()) => graph.node.extend(parts.into_nodes()),
                None => graph.node.push(node),
            }
        }
    });
}
