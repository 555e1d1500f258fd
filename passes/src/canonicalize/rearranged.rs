//! Activations whose axes are in another order than a linear layer wants them.

use std::collections::HashMap;

use zqc_ir::op::attribute::ints;
use zqc_ir::{ChangeBuilder, ValueId, ValueRef};

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
    known: HashMap<(ValueId, Vec<i64>), ValueRef>,
}

impl Rearranged {
    /// `x` in this order of axes; if it is new, its `Transpose` joins `change`.
    pub(super) fn get(&mut self, change: &mut ChangeBuilder, x: ValueId, order: Vec<i64>) -> ValueRef {
        let transpose = |(x, order): &(ValueId, Vec<i64>)| {
            change.op("Transpose", [(*x).into()]).with([ints("perm", order)]).output("input")
        };
        self.known.entry((x, order)).or_insert_with_key(transpose).clone()
    }
}
