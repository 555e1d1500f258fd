//! Along which axes a value was broadcast, as far as types tell.

use zqc_ir::types::{Dim, Type};

/// The axes to sum over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reduction {
    /// Axes that the value does not have, of which nothing stays.
    pub(crate) leading: Vec<i64>,
    /// Axes along which its length is 1, as it stays.
    pub(crate) inner: Vec<i64>,
}

/// Where `operand` was broadcast to `whole`; `None` where that is only known when the model runs.
pub(crate) fn reduction(operand: &Type, whole: &Type) -> Option<Reduction> {
    let (operand, whole) = (operand.shape.as_ref()?, whole.shape.as_ref()?);
    let missing = whole.len().checked_sub(operand.len())?;
    let mut inner = Vec::new();
    for (at, (ours, theirs)) in operand.iter().zip(&whole[missing..]).enumerate() {
        match (ours, theirs) {
            (Dim::Fixed(1), Dim::Fixed(1)) | (_, Dim::Fixed(1)) => {}
            (Dim::Fixed(1), _) => inner.push((missing + at) as i64),
            (Dim::Fixed(_), _) => {}
            (Dim::Symbol(one), Dim::Symbol(other)) if one == other => {}
            _ => return None,
        }
    }
    Some(Reduction { leading: (0..missing as i64).collect(), inner })
}

#[cfg(test)]
mod tests {
    use zqc_ir::tensor::DataType;

    use super::*;

    fn ty(dims: &[&str]) -> Type {
        let dim = |dim: &&str| match dim.parse() {
            Ok(number) => Dim::Fixed(number),
            Err(_) if *dim == "?" => Dim::Unknown,
            Err(_) => Dim::Symbol((*dim).into()),
        };
        Type::new(DataType::Float, dims.iter().map(dim).collect::<Vec<_>>())
    }

    #[test]
    fn axes_of_length_one_and_missing_ones_are_summed() {
        let found = reduction(&ty(&["1", "t", "4"]), &ty(&["b", "h", "t", "4"]));
        assert_eq!(found, Some(Reduction { leading: vec![0], inner: vec![1] }));
        let found = reduction(&ty(&["1", "4"]), &ty(&["1", "4"]));
        assert_eq!(found, Some(Reduction { leading: vec![], inner: vec![] }));
    }

    #[test]
    fn lengths_that_may_be_one_are_left_to_the_run() {
        assert_eq!(reduction(&ty(&["?", "4"]), &ty(&["t", "4"])), None);
        assert_eq!(reduction(&ty(&["s", "4"]), &ty(&["t", "4"])), None);
        assert_eq!(reduction(&Type::default(), &ty(&["t"])), None);
        assert!(
            reduction(&ty(&["?"]), &ty(&["1"])).is_some(),
            "nothing is broadcast to length 1 but length 1"
        );
    }
}
