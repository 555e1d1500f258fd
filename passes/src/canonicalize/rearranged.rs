//! Activations whose axes are in another order than a linear layer wants them.

use std::collections::HashMap;

use zqc_ir::op::attribute::ints;
use zqc_ir::{FreshNames, Graph, NewNode, Op, ValueId};

/// The orders of axes in which `Transpose` hands an activation to a layer, and the layer's result on; none as they are.
#[derive(Default)]
pub(super) struct Arrangement {
    pub before: Option<Vec<i64>>,
    pub after: Option<Vec<i64>>,
}

impl Arrangement {
    /// The activation is a matrix `[K, rows]`.
    pub(super) fn transposed() -> Self {
        Self { before: Some(vec![1, 0]), after: None }
    }

    /// Activation and result, of this rank, have what a layer has in rows in columns; the activation perhaps not, as it `lies`
    /// in rows. `None` for vectors.
    pub(super) fn columns(rank: usize, lies: bool) -> Option<Self> {
        let mut order: Vec<i64> = (0..rank as i64).collect();
        order.swap(rank.checked_sub(2)?, rank - 1);
        Some(Self { before: (!lies).then(|| order.clone()), after: Some(order) })
    }

    /// Activation and result, of this rank, have their channels at axis 1.
    pub(super) fn channels_last(rank: usize) -> Self {
        let last = rank as i64 - 1;
        let before = [0].into_iter().chain(2..=last).chain([1]).collect();
        let after = [0, last].into_iter().chain(1..last).collect();
        Self { before: Some(before), after: Some(after) }
    }
}

/// The activations that are transposed already: layers that read the same one share its transpose.
#[derive(Default)]
pub(super) struct Rearranged {
    names: HashMap<(ValueId, Vec<i64>), String>,
}

impl Rearranged {
    /// The name of `x` in this order of axes; if it is new, made from `hint`, and its `Transpose` joins `added`.
    pub(super) fn name(
        &mut self,
        graph: &Graph,
        names: &FreshNames,
        x: ValueId,
        order: Vec<i64>,
        hint: &str,
        added: &mut Vec<NewNode>,
    ) -> String {
        let key = (x, order);
        if let Some(name) = self.names.get(&key) {
            return name.clone();
        }
        let name = names.fresh(hint);
        added.push(transpose(&key.1, &graph.value(x).name, &name));
        self.names.insert(key, name.clone());
        name
    }
}

/// `to` is `from` in this order of axes.
pub(super) fn transpose(order: &[i64], from: &str, to: &str) -> NewNode {
    NewNode {
        name: String::new(),
        op: Op::standard("Transpose", vec![ints("perm", order)]),
        inputs: vec![Some(from.to_string())],
        outputs: vec![Some(to.to_string())],
        rank: None,
    }
}
