//! Arrays by name to samples.

use std::path::Path;

use super::error::DataError;
use crate::array::Array;
use crate::inputs::{InputSpec, Sample};

/// Splits arrays along their first dimension, which must be the same for all, into samples; the first `wanted`.
pub(super) fn split(
    path: &Path,
    specs: &[InputSpec],
    arrays: Sample,
    wanted: usize,
) -> Result<Vec<Sample>, DataError> {
    let malformed = |reason| DataError::Malformed { path: path.into(), reason };
    let Some((first, array)) = arrays.iter().find(|(_, array)| !array.shape.is_empty()) else {
        let inputs = specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(malformed(if arrays.is_empty() {
            format!("none of its arrays is named like an input of the model: {inputs}")
        } else {
            "none of its arrays has a dimension that counts the samples".to_string()
        }));
    };
    let count = array.shape[0];
    let other_count = |array: &Array| array.shape.first().is_some_and(|&other| other != count);
    if let Some((name, other)) = arrays.iter().find(|(_, array)| other_count(array)) {
        let (a, b) = (&array.shape, &other.shape);
        return Err(malformed(format!(
            "the first dimension must count the samples, but {first:?} has shape {a:?} and {name:?} {b:?}"
        )));
    }
    let mut samples = vec![Sample::new(); count.min(wanted)];
    for (name, array) in &arrays {
        let rank = specs.iter().find(|spec| spec.name == *name).and_then(InputSpec::rank);
        // The samples of an input without a batch of 1 lie one behind the other in a dimension that it has not.
        let unbatched = rank.is_some_and(|rank| rank + 1 == array.shape.len());
        if array.shape.is_empty() {
            samples.iter_mut().for_each(|sample| drop(sample.insert(name.clone(), array.clone())));
            continue;
        }
        for (sample, mut row) in samples.iter_mut().zip(array.rows()) {
            if unbatched {
                row.shape.remove(0);
            }
            sample.insert(name.clone(), row);
        }
    }
    Ok(samples)
}

/// Whether the model has an input of this name.
pub(super) fn is_input(specs: &[InputSpec], name: &str) -> bool {
    specs.iter().any(|spec| spec.name == name)
}
