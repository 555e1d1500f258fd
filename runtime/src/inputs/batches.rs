//! Models whose batch is fixed above 1: several samples share a run.

use super::derive::MOST_VALUES;
use super::spec::{Dimension, InputSpec, Sample};
use super::tokens::leading_input;
use crate::array::{Array, element_count};
use crate::slices::stack;

/// A larger batch is not made of single samples.
const MOST_BATCH: usize = 4096;

/// The batch that a model always takes, where it is more than one sample.
fn fixed_batch(specs: &[InputSpec]) -> Option<usize> {
    match leading_input(specs).or(specs.first())?.shape.as_deref()?.first()? {
        Dimension::Fixed(batch) => Some(*batch).filter(|batch| (2..=MOST_BATCH).contains(batch)),
        Dimension::Symbolic(_) => None,
    }
}

/// Whether a sample of `spec` is one row of its `batch`.
fn has_rows(spec: &InputSpec, sample: &Array, batch: usize) -> bool {
    let whole: Vec<usize> =
        [batch].iter().chain(sample.shape.get(1..).unwrap_or_default()).copied().collect();
    let is_row = sample.shape.first() == Some(&1) && !spec.admits(&sample.shape) && spec.admits(&whole);
    is_row && element_count(&whole).is_some_and(|count| count <= MOST_VALUES)
}

/// Rows one below the other: `[1, ...]` each, `[rows, ...]` together; `None` where they differ in shape or type.
fn rows(parts: &[Array]) -> Option<Array> {
    let mut array = stack(parts, 0)?;
    array.shape.remove(1);
    Some(array)
}

/// What is given, with single rows repeated where the model always takes more.
pub(super) fn fill(specs: &[InputSpec], given: &Sample) -> Sample {
    let mut filled = given.clone();
    let Some(batch) = fixed_batch(specs) else { return filled };
    for (spec, array) in specs.iter().filter_map(|spec| Some((spec, given.get(&spec.name)?))) {
        if has_rows(spec, array, batch)
            && let Some(repeated) = rows(&vec![array.clone(); batch])
        {
            filled.insert(spec.name.clone(), repeated);
        }
    }
    filled
}

/// Samples that share a run.
#[derive(Debug, PartialEq)]
pub struct Packed {
    /// What the run is given.
    pub sample: Sample,
    /// The first of the samples.
    pub first: usize,
}

/// Puts samples together that a model of fixed batch takes in one run: so many of the next as are alike. Others stay as they are.
pub fn pack(specs: &[InputSpec], samples: &[Sample]) -> Vec<Packed> {
    let batch = fixed_batch(specs).unwrap_or(1);
    let (mut packed, mut first) = (Vec::new(), 0);
    while let Some(alone) = samples.get(first) {
        let next = samples.get(first..first + batch);
        let shared = next.filter(|_| batch > 1).and_then(|next| together(specs, next, batch));
        let taken = if shared.is_some() { batch } else { 1 };
        packed.push(Packed { sample: shared.unwrap_or_else(|| alone.clone()), first });
        first += taken;
    }
    packed
}

/// The samples as one; `None` where they are not alike.
fn together(specs: &[InputSpec], samples: &[Sample], batch: usize) -> Option<Sample> {
    let (first, others) = samples.split_first()?;
    if others.iter().any(|other| !other.keys().eq(first.keys())) {
        return None;
    }
    let input = |(name, array): (&String, &Array)| {
        let spec = specs.iter().find(|spec| spec.name == *name)?;
        let all: Vec<Array> = samples.iter().map(|sample| sample[name].clone()).collect();
        let array = match has_rows(spec, array, batch) {
            true => rows(&all)?,
            false => Some(array.clone()).filter(|array| all.iter().all(|other| other == array))?,
        };
        Some((name.clone(), array))
    };
    first.iter().map(input).collect()
}

#[cfg(test)]
mod tests {
    use zqc_ir::onnx::proto::tensor_proto::DataType;

    use super::*;
    use crate::inputs::make_inputs;

    fn specs() -> [InputSpec; 3] {
        let fixed =
            |extents: &[usize]| Some(extents.iter().map(|&extent| Dimension::Fixed(extent)).collect());
        let spec = |name: &str, data_type, shape| InputSpec { name: name.to_string(), data_type, shape };
        let tokens = Some(vec![Dimension::Fixed(2), Dimension::Symbolic("seq".to_string())]);
        [
            spec("input_ids", DataType::Int64, tokens.clone()),
            spec("attention_mask", DataType::Int64, tokens),
            spec("style", DataType::Float, fixed(&[4])),
        ]
    }

    fn sample(ids: &[i64], style: f32) -> Sample {
        Sample::from([
            ("input_ids".to_string(), Array::sequence(ids.to_vec())),
            ("style".to_string(), Array::new(vec![4], vec![style; 4]).unwrap()),
        ])
    }

    #[test]
    fn a_single_sequence_fills_the_batch() {
        let inputs = make_inputs(&specs(), &sample(&[1, 2, 3], 0.5)).unwrap();
        assert_eq!(inputs[0].1, Array::new(vec![2, 3], vec![1i64, 2, 3, 1, 2, 3]).unwrap());
        assert_eq!(inputs[1].1, Array::new(vec![2, 3], vec![1i64; 6]).unwrap());
        assert_eq!(inputs[2].1.shape, [4]);
    }

    #[test]
    fn samples_that_are_alike_share_a_run() {
        let samples = vec![
            sample(&[1, 2], 0.5),
            sample(&[3, 4], 0.5),
            sample(&[5, 6], 0.5),
            sample(&[7], 0.5),
            sample(&[8], 1.0),
        ];
        let packed = pack(&specs(), &samples);
        let both = Array::new(vec![2, 2], vec![1i64, 2, 3, 4]).unwrap();
        assert_eq!(packed[0].sample["input_ids"], both);
        assert_eq!(packed[0].sample["style"], samples[0]["style"]);
        assert!(packed[1..].iter().map(|run| &run.sample).eq(&samples[2..]));
        assert_eq!(packed.iter().map(|run| run.first).collect::<Vec<_>>(), [0, 2, 3, 4]);
        assert!(packed.iter().all(|run| make_inputs(&specs(), &run.sample).is_ok()));
        let mut open = specs();
        open[0].shape.as_mut().unwrap()[0] = Dimension::Symbolic("batch".to_string());
        assert!(pack(&open, &samples).iter().map(|run| &run.sample).eq(&samples));
    }

    #[test]
    fn a_batch_that_no_memory_holds_is_not_filled() {
        for batch in [usize::MAX, 1 << 40, MOST_BATCH + 1] {
            let mut specs = specs();
            specs[0].shape.as_mut().unwrap()[0] = Dimension::Fixed(batch);
            let given = sample(&[1, 2, 3], 0.5);
            assert_eq!(fill(&specs, &given), given);
            assert_eq!(pack(&specs, std::slice::from_ref(&given)).len(), 1);
        }
    }
}
