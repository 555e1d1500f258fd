//! The order in which GPTQ quantizes the columns.

use crate::Hessian;

/// The order in which GPTQ quantizes the columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// First to last. A group's scale comes from its weights as updated when the group is reached.
    Natural,
    /// By descending diagonal of the Hessian, the first of equals first: what matters most is rounded while most columns
    /// are left to make up for it ("act order" of the authors' code). Columns of one group are then apart in time, so its
    /// scale comes from the original weights ("static groups").
    #[default]
    Activation,
}

impl Order {
    /// The columns in this order.
    pub(crate) fn permutation(self, hessian: &Hessian) -> Vec<usize> {
        let mut columns: Vec<usize> = (0..hessian.k()).collect();
        if self == Self::Activation {
            let diagonal: Vec<f64> = hessian.diagonal().collect();
            columns.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
        }
        columns
    }
}
