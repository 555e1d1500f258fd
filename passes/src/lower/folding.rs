//! Layers take turns while ONNX Runtime folds their weights, which so take less memory.
//!
//! Its constant folding goes over the whole graph once, keeps what every node yields, and frees what nothing reads any more
//! only after that; then it goes over the graph again, ten times at most. A layer whose nodes all wait for a constant that
//! is learnt in a later pass is folded in that pass: what stands between its codes and its weight is in memory with that of
//! the layers of the same turn, and not of all layers.

use zqc_ir::onnx::proto::{GraphProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use zqc_ir::op::attribute::{graph, int, int_reference};
use zqc_ir::tensor::DataType;

use super::functions::{constant, node};

/// The attribute of the call of a layer that says in which turn its weight is folded: 0 for the first pass.
pub(super) const TURN: &str = "turn";

/// How many turns there are. ONNX Runtime 1.18 to 1.32 folds ten; what is not folded by then is computed in every run. Every
/// turn is an `If` in every layer, which takes its time while the model is loaded.
const TURNS: usize = 6;

/// What a layer has in memory while it is folded, in sizes of its float weight, one of which stays.
const WHILE_FOLDED: f64 = 4.0;

/// How the weights of a model are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Folding {
    /// All of them in the first pass.
    AtOnce,
    /// A weight in the turn of its layer.
    InTurns {
        /// Whether 4-bit codes of an odd number of columns are among them: their last byte in a row has one code.
        odd: bool,
    },
}

impl Folding {
    /// All of them.
    pub(super) const ALL: [Self; 3] =
        [Self::AtOnce, Self::InTurns { odd: false }, Self::InTurns { odd: true }];
}

/// The turns of layers with as many weights: large layers come first, and the turns get smaller, as what was folded before
/// is in memory too.
pub(super) fn turns(weights: &[usize]) -> Vec<usize> {
    let all = weights.iter().sum::<usize>() as f64;
    let rest = 1.0 - 1.0 / WHILE_FOLDED;
    // Where each turn ends, as a share of all weights: the memory of each, with what was folded before, is the same.
    let ends = (1..TURNS).map(|turn| (1.0 - rest.powi(turn as i32)) / (1.0 - rest.powi(TURNS as i32)));
    let ends: Vec<f64> = ends.collect();
    let mut by_size: Vec<usize> = (0..weights.len()).collect();
    by_size.sort_by_key(|&layer| std::cmp::Reverse(weights[layer]));
    let mut turns = vec![0; weights.len()];
    let mut before = 0.0;
    for layer in by_size {
        let middle = (before + weights[layer] as f64 / 2.0) / all;
        turns[layer] = ends.iter().filter(|&&end| end <= middle).count();
        before += weights[layer] as f64;
    }
    turns
}

/// Nodes that yield the int64 vector `shape` as `output`, in the pass of the turn that the attribute [`TURN`] of the function
/// says. What is reshaped to it waits for that.
///
/// An `If` of a known condition gives way to the nodes of its branch, in the pass that learns the condition. They read
/// a shape, which is unknown to them until the types of the graph are inferred anew, at the end of the pass. So does a counter
/// of the turns that are left become one less; once it is 0, it is known at once that it stays 0.
pub(super) fn in_turn(shape: &str, output: &str) -> Vec<NodeProto> {
    let mut left = "turns_left".to_string();
    let mut nodes = vec![
        constant(TURN, int_reference("value_int", TURN)),
        constant("next_turn", int("value_int", 1)),
        // Shapes are not inferred through a product.
        node("ReduceProd", &[TURN], &[&left], vec![int("keepdims", 0)]),
    ];
    for turn in 1..TURNS {
        let name = |what: &str| format!("turn_{turn}_{what}");
        let [others, waits, less] = ["others", "waits", "left"].map(name);
        let [one_less, none] = ["one_less", "none"].map(name);
        let one_less = branch("then_branch", number_of_elements(&others, &one_less), &one_less);
        let none = branch("else_branch", vec![constant(&none, int("value_int", 0))], &none);
        nodes.extend([
            node("Range", &["next_turn", &left, "next_turn"], &[&others], vec![]),
            node("Cast", &[&left], &[&waits], vec![int("to", DataType::Bool as i64)]),
            node("If", &[&waits], &[&less], vec![graph("then_branch", one_less), graph("else_branch", none)]),
        ]);
        left = less;
    }
    nodes.push(node("Add", &[shape, &left], &[output], vec![]));
    nodes
}

/// Nodes that yield the number of elements of the vector `value`. `Size` would be folded like any other node, and inference
/// follows what `Shape` alone yields into the next turn.
fn number_of_elements(value: &str, output: &str) -> Vec<NodeProto> {
    let shape = format!("{output}_shape");
    vec![
        node("Shape", &[value], &[&shape], vec![]),
        node("ReduceProd", &[&shape], &[output], vec![int("keepdims", 0)]),
    ]
}

/// The branch of an `If` that yields the int64 scalar `output`.
fn branch(name: &str, nodes: Vec<NodeProto>, output: &str) -> GraphProto {
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Int64 as i32),
        shape: Some(TensorShapeProto::default()),
    };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    GraphProto {
        name: Some(name.to_string()),
        node: nodes,
        output: vec![ValueInfoProto {
            name: Some(output.to_string()),
            r#type: Some(r#type),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weights of all turns.
    fn sums(weights: &[usize]) -> [usize; TURNS] {
        let mut sums = [0; TURNS];
        turns(weights).into_iter().zip(weights).for_each(|(turn, weights)| sums[turn] += weights);
        sums
    }

    #[test]
    fn every_turn_needs_as_much_memory() {
        let sums = sums(&[100; 1000]).map(|sum| sum as f64 / 100_000.0);
        let mut before = 0.0;
        for sum in sums {
            assert!((before + WHILE_FOLDED * sum - 1.22).abs() < 0.01, "{sums:?}");
            before += sum;
        }
    }

    #[test]
    fn large_layers_come_first() {
        assert_eq!(turns(&[1, 50, 1, 20, 8]), [5, 1, 5, 3, 4]);
        assert_eq!(turns(&[]), [0; 0]);
    }
}
