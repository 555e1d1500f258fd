//! Decomposes operators of ONNX Runtime's own domain into operators that every back end knows.
//!
//! A back end that refuses a node asks for its operator to be decomposed, so what it runs by itself stays as it is. A subgraph
//! says little about shapes: the rules work on any, and where they must they read ranks while the model runs.

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

use std::collections::BTreeMap;

use zqc_ir::onnx::proto::ModelProto;
use zqc_ir::opset;

use super::visit;
pub use parts::whole;
use parts::{Parts, Shapes};

/// Writes the nodes that replace one; `None` for a form that it does not cover.
type Rule = fn(&mut Parts) -> Option<()>;

/// The operators of domain `com.microsoft` that can be decomposed, each with its rules: a later one leaves less to the back end,
/// and computes more.
const RULES: [(&str, &[Rule]); 11] = [
    ("Attention", &[attention::decompose]),
    ("BiasSplitGelu", &[gelu::bias_split]),
    ("CausalConvWithState", &[causal_conv::decompose]),
    ("EmbedLayerNormalization", &[embed_layer_normalization::decompose]),
    ("FusedMatMul", &[fused_mat_mul::decompose]),
    (
        "GroupQueryAttention",
        &[group_query_attention::without_extras, group_query_attention::in_standard_operators],
    ),
    ("MatMulNBits", &[mat_mul_n_bits::decompose]),
    ("MultiHeadAttention", &[multi_head_attention::decompose]),
    ("RelativePositionBias", &[relative_position_bias::decompose]),
    ("SkipLayerNormalization", &[skip_layer_normalization::decompose]),
    ("SkipSimplifiedLayerNormalization", &[skip_layer_normalization::decompose]),
];

fn rules(op_type: &str) -> &'static [Rule] {
    RULES.iter().find(|(name, _)| *name == op_type).map_or(&[], |(_, rules)| rules)
}

/// Operators to decompose, with the index of the first rule to try for each.
#[derive(Clone, Debug, Default)]
pub struct Decomposition(BTreeMap<String, usize>);

impl Decomposition {
    /// Every operator that can be.
    pub fn all() -> Self {
        Self(RULES.iter().map(|(op_type, _)| (op_type.to_string(), 0)).collect())
    }

    /// These operators.
    pub fn of(operators: &[&str]) -> Self {
        Self(operators.iter().map(|op_type| (op_type.to_string(), 0)).collect())
    }

    /// Whether the operator is among them.
    pub fn holds(&self, op_type: &str) -> bool {
        self.0.contains_key(op_type)
    }

    /// Adds an operator that a back end refuses, or the next of its rules where it is among them; `false` if there is none.
    pub fn add(&mut self, op_type: &str) -> bool {
        let rule = self.0.get(op_type).map_or(0, |rule| rule + 1);
        let exists = rule < rules(op_type).len();
        if exists {
            self.0.insert(op_type.to_string(), rule);
        }
        exists
    }

    /// Decomposes every node of these operators, subgraphs included, where there is a rule for its form. [`whole`] finds the name
    /// of a node by that of its parts.
    pub fn apply(&self, model: &mut ModelProto) {
        let version = opset::version(&model.opset_import, "").unwrap_or(1);
        let Some(graph) = &mut model.graph else { return };
        visit::for_each_graph(graph, &mut |graph| {
            let shapes = Shapes::of(graph);
            let nodes = std::mem::take(&mut graph.node);
            for node in nodes {
                let first = self.0.get(node.op_type()).filter(|_| node.domain() == "com.microsoft");
                let counting = first.map_or(&[][..], |&first| &rules(node.op_type())[first..]);
                let written = counting.iter().find_map(|rule| {
                    let mut parts = Parts::new(&node, version, &shapes);
                    rule(&mut parts).map(|()| parts.into_nodes())
                });
                graph.node.extend(written.unwrap_or_else(|| vec![node]));
            }
        });
    }
}
