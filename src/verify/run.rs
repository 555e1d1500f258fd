//! Models are run beside each other on the same inputs, and their outputs compared.

use zqc_ir::{Graph, Model, ValueId};
use zqc_runtime::{
    Array, ArrayData, Backend, Dimension, InputError, InputSpec, Interpreter, RunError, Sample, make_inputs,
    token_input,
};

use super::VerifyError;
use crate::error::Error;

/// Inputs by name.
pub type Inputs = Vec<(String, Array)>;

/// Tokens of the run.
const TOKENS: usize = 8;
/// Inputs with more values are not synthesized.
const MOST_VALUES: usize = 1 << 22;
/// A loop that goes on after so many iterations is not run to its end: it may wait for something that synthesized inputs never hold.
const ITERATIONS: usize = 256;
/// Two orders of the same additions may differ by this share; a wrong operand or connection differs by far more.
const TOLERANCE: f64 = 0.01;

/// Inputs of the run, by name: those of a calibration sample, or else synthesized.
///
/// A sample in which all follows from the token ids is cut to a few. What a model without samples asks for beside token ids is small
/// numbers: they say nothing of its quality, which is not what is looked at.
pub(super) fn inputs(model: &Model, sample: Option<&Inputs>) -> Result<Inputs, Error> {
    let specs = InputSpec::of_graph(&model.graph)?;
    if let Some(sample) = sample {
        return Ok(cut(&specs, sample).unwrap_or_else(|| sample.clone()));
    }
    let ids = Array::sequence((0..TOKENS as i64).collect());
    let mut given: Sample =
        token_input(&specs).map(|tokens| (tokens.name.clone(), ids)).into_iter().collect();
    loop {
        match make_inputs(&specs, &given) {
            Err(InputError::Missing { name, .. }) if !given.contains_key(&name) => {
                let spec = specs.iter().find(|spec| spec.name == name);
                given.extend(spec.map(|spec| Ok::<_, InputError>((name, synthesize(spec)?))).transpose()?);
            }
            inputs => return Ok(inputs?),
        }
    }
}

/// The first tokens of a sample, if all else in it follows from them, and the model takes so few.
fn cut(specs: &[InputSpec], sample: &Inputs) -> Option<Inputs> {
    let tokens = token_input(specs)?;
    let (name, ids) = sample.iter().find(|(name, _)| *name == tokens.name)?;
    let of_tokens = |ids: Array| make_inputs(specs, &Sample::from([(name.clone(), ids)])).ok();
    of_tokens(ids.clone()).filter(|inputs| inputs == sample)?;
    let first: Vec<i64> = ids.to_i64()?.into_iter().take(ids.shape[1].min(TOKENS)).collect();
    of_tokens(Array::sequence(first))
}

/// Small numbers in the shape of an input, whose open dimensions become 1 in front and a few tokens elsewhere.
fn synthesize(spec: &InputSpec) -> Result<Array, InputError> {
    let missing = || InputError::Missing {
        name: spec.name.clone(),
        spec: spec.to_string(),
        reason: "it is too large".to_string(),
    };
    let extent = |(place, dimension): (usize, &Dimension)| match dimension {
        Dimension::Fixed(extent) => *extent,
        Dimension::Symbolic(_) if place == 0 => 1,
        Dimension::Symbolic(_) => TOKENS,
    };
    let shape: Vec<usize> = spec.shape.iter().flatten().enumerate().map(extent).collect();
    let count = shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent));
    let count = count.filter(|&count| count <= MOST_VALUES).ok_or_else(missing)?;
    let data: ArrayData = match spec.is_float() {
        true => (0..count).map(|i| (i * 7919 % 1013) as f32 / 1013.0 - 0.5).collect::<Vec<_>>().into(),
        false => vec![1i64; count].into(),
    };
    Array::new(shape, data).map_err(|source| InputError::Type { name: spec.name.clone(), source })
}

/// What a model gave: its computed outputs by name.
pub(super) struct Outputs(pub(super) Vec<(String, Array)>);

impl Outputs {
    /// What `model` gives for these inputs.
    pub(super) fn of(model: &Model, backend: &dyn Backend, inputs: &Inputs) -> Result<Self, RunError> {
        let graph = &model.graph;
        let computed = |id: &ValueId| graph.producer(*id).is_some();
        let wanted: Vec<ValueId> = graph.outputs().iter().copied().filter(computed).collect();
        let names: Vec<String> = wanted.iter().map(|&id| graph.value(id).name.clone()).collect();
        let interpreter = Interpreter::with_most_iterations(model, backend, wanted, ITERATIONS)?;
        let live = interpreter.feed(inputs.iter().map(|(name, array)| (name.as_str(), array.clone())));
        Ok(Self(names.into_iter().zip(interpreter.run(live)?).collect()))
    }

    /// Whether any output has an element that is not NaN or infinite.
    pub(super) fn has_finite(&self) -> bool {
        let finite = |array: &Array| array.as_f32().is_none_or(|values| values.iter().any(|v| v.is_finite()));
        self.0.iter().any(|(_, array)| finite(array))
    }

    /// Checks that these outputs are the `expected` ones, up to the order of additions.
    pub(super) fn check_values(&self, expected: &Self) -> Result<(), VerifyError> {
        for ((output, expected), (_, found)) in expected.0.iter().zip(&self.0) {
            let error = relative_difference(expected, found);
            if error > TOLERANCE {
                return Err(VerifyError::Output { output: output.clone(), error });
            }
        }
        Ok(())
    }

    /// Checks that these outputs have the types and the ranks of those that the float model, `source`, gives, and the extents that
    /// it declares and keeps to. Others may follow from values, which quantization moves.
    pub(super) fn check_shapes(&self, float: &Self, source: &Graph) -> Result<(), VerifyError> {
        for (output, expected) in &float.0 {
            let fixed = declared(source, output).and_then(|spec| spec.shape).unwrap_or_default();
            let is_extent = |axis: usize, extent: usize| match fixed.get(axis) {
                Some(Dimension::Fixed(_)) => extent == expected.shape[axis],
                _ => true,
            };
            let fits = |found: &&Array| {
                let mut extents = found.shape.iter().enumerate();
                found.data.data_type() == expected.data.data_type()
                    && found.shape.len() == expected.shape.len()
                    && extents.all(|(axis, &extent)| is_extent(axis, extent))
            };
            let found = self.0.iter().find(|(name, _)| name == output).map(|(_, array)| array);
            if found.filter(fits).is_none() {
                return Err(VerifyError::Shape {
                    output: output.clone(),
                    found: found.map_or_else(|| "missing".to_string(), form),
                    expected: form(expected),
                });
            }
        }
        Ok(())
    }

    /// Checks that these outputs have the ranks and the kinds of type that `graph` declares.
    pub(super) fn check_declarations(&self, graph: &Graph) -> Result<(), VerifyError> {
        for (output, array) in &self.0 {
            let Some(spec) = declared(graph, output) else { continue };
            let fits = spec.shape.as_ref().is_none_or(|dims| dims.len() == array.shape.len())
                && spec.is_float() == array.as_f32().is_some();
            if !fits {
                return Err(VerifyError::Shape {
                    output: output.clone(),
                    found: form(array),
                    expected: spec.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// What `graph` declares of an output.
fn declared(graph: &Graph, output: &str) -> Option<InputSpec> {
    InputSpec::of_value(graph, graph.find(output)?).ok()
}

/// Type and shape of an array, in words.
fn form(array: &Array) -> String {
    format!("{:?} {:?}", array.data.data_type(), array.shape)
}

/// The norm of the difference relative to that of `expected`; values that are not finite must be the same.
fn relative_difference(expected: &Array, found: &Array) -> f64 {
    if expected.shape != found.shape {
        return f64::INFINITY;
    }
    let (Some(expected), Some(found)) = (expected.as_f32(), found.as_f32()) else {
        return if expected.data == found.data { 0.0 } else { f64::INFINITY };
    };
    let (mut difference, mut norm) = (0.0, 0.0);
    for (&expected, &found) in expected.iter().zip(found) {
        if expected.is_finite() && found.is_finite() {
            difference += f64::from(expected - found).powi(2);
            norm += f64::from(expected).powi(2);
        } else if expected != found && !(expected.is_nan() && found.is_nan()) {
            return f64::INFINITY;
        }
    }
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

#[cfg(test)]
mod tests {
    use zqc_runtime::Array;

    use super::{Outputs, relative_difference};

    fn array(values: &[f32]) -> Array {
        Array::new(vec![values.len()], values.to_vec()).unwrap()
    }

    #[test]
    fn differences_are_relative_to_the_expected_norm() {
        let difference = |a: &[f32], b: &[f32]| relative_difference(&array(a), &array(b));
        assert_eq!(difference(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert!((difference(&[3.0, 4.0], &[3.0, 4.5]) - 0.1).abs() < 1e-9);
        assert_eq!(difference(&[0.0], &[1.0]), f64::INFINITY);
        assert_eq!(difference(&[1.0], &[1.0, 1.0]), f64::INFINITY);
        let integers = |values: &[i64]| Array::new(vec![values.len()], values.to_vec()).unwrap();
        assert_eq!(relative_difference(&integers(&[1]), &integers(&[1])), 0.0);
        assert_eq!(relative_difference(&integers(&[1]), &integers(&[2])), f64::INFINITY);
    }

    #[test]
    fn what_is_not_finite_must_be_the_same() {
        let difference = |a: f32, b: f32| relative_difference(&array(&[a, 1.0]), &array(&[b, 1.0]));
        let all = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0];
        for (i, &a) in all.iter().enumerate() {
            for (j, &b) in all.iter().enumerate() {
                assert_eq!(difference(a, b), if i == j { 0.0 } else { f64::INFINITY }, "{a} {b}");
            }
        }
    }

    #[test]
    fn outputs_without_a_finite_value_are_told_apart() {
        let outputs = |arrays: &[Array]| {
            Outputs(arrays.iter().map(|array| ("y".to_string(), array.clone())).collect()).has_finite()
        };
        assert!(!outputs(&[array(&[f32::NAN, f32::INFINITY]), array(&[])]));
        assert!(outputs(&[array(&[f32::NAN]), array(&[0.0])]));
        assert!(outputs(&[Array::sequence(vec![1])]));
    }
}
