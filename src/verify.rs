//! What was written is read back: it must say what it was to say, and give what the quantized model in memory gives.

use std::path::Path;

use zqc_ir::onnx::{self, Content, ReadError, WriteError};
use zqc_ir::{Model, ValueId};
use zqc_kernels::OpenError;
use zqc_passes::PassError;
use zqc_runtime::{
    Array, ArrayData, Backend, Dimension, InputError, InputSpec, Interpreter, RunError, Sample, make_inputs,
    token_input,
};

use crate::calibration::input_specs;
use crate::error::Error;
use crate::raise::{raise, raised_bodies};

/// Tokens of the run.
const TOKENS: usize = 8;
/// Inputs with more values are not made up.
const MOST_VALUES: usize = 1 << 22;
/// A loop that goes on after so many turns is not run to its end: it may wait for something that made-up inputs never hold.
const TURNS: usize = 256;
/// Two orders of the same additions may differ by this share; a wrong operand or connection differs by far more.
const TOLERANCE: f64 = 0.01;

/// Why what was written is wrong: a fault of zqc or of the storage.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file is no model.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The model cannot be compared.
    #[error(transparent)]
    Content(#[from] WriteError),
    /// The file says something else than it was to say.
    #[error("the file differs from the model in memory")]
    Differs,
    /// The quantized layers cannot be found in the file.
    #[error(transparent)]
    Raise(#[from] PassError),
    /// The package is not whole.
    #[error(transparent)]
    Package(#[from] OpenError),
    /// The model in the file does not run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The model in the file gives something else.
    #[error("output \"{output}\" differs by {:.2} % from that of the model in memory", 100.0 * error)]
    Output {
        /// Name of the output.
        output: String,
        /// Norm of the difference, relative to that of the output.
        error: f64,
    },
}

/// Checks the file in `path`, which was to hold `lowered`, and runs it on `backend` if there is one; the result in words.
pub(crate) fn verify(
    path: &Path,
    lowered: &Model,
    mut quantized: Model,
    backend: Option<&dyn Backend>,
) -> Result<String, Error> {
    let fault = |source: VerifyError| Error::Verify { source };
    let mut written = onnx::read(path).map_err(|source| fault(source.into()))?;
    let same = || Ok::<_, WriteError>(Content::of(&written)? == Content::of(lowered)?);
    if !same().map_err(|source| fault(source.into()))? {
        return Err(fault(VerifyError::Differs));
    }
    let read_back = "the file reads back as it was to be";
    let Some(backend) = backend else { return Ok(read_back.to_string()) };
    raise(&mut written).map_err(|source| fault(source.into()))?;
    let not_run = |reason: String| Ok(format!("{read_back}; no run, as {reason}"));
    let mut expect = || {
        raise(&mut quantized)?; // layers that an earlier zqc quantized
        let inputs = short_inputs(&quantized)?;
        let expected = outputs(&quantized, backend, &inputs)?;
        Ok::<_, Error>((inputs, expected))
    };
    let (inputs, expected) = match expect() {
        Ok(expected) => expected,
        Err(error) => return not_run(error.to_string()),
    };
    let found = outputs(&written, backend, &inputs).map_err(|source| fault(source.into()))?;
    for ((output, expected), (_, found)) in expected.iter().zip(&found) {
        let error = relative_difference(expected, found);
        if error > TOLERANCE {
            return Err(fault(VerifyError::Output { output: output.clone(), error }));
        }
    }
    Ok(format!("{read_back}, and its outputs are those of the quantized model"))
}

/// Inputs of a short run, by name.
fn short_inputs(model: &Model) -> Result<Vec<(String, Array)>, Error> {
    let specs = input_specs(model)?;
    if let Some(tokens) = token_input(&specs) {
        let ids = Array::sequence((0..TOKENS as i64).collect());
        if let Ok(inputs) = make_inputs(&specs, &Sample::from([(tokens.name.clone(), ids)])) {
            return Ok(inputs);
        }
    }
    let made_up = specs.iter().map(|spec| Ok((spec.name.clone(), made_up(spec)?)));
    let sample = made_up.collect::<Result<Sample, InputError>>()?;
    Ok(make_inputs(&specs, &sample)?)
}

/// Small numbers in the shape of an input, whose open dimensions become 1 in front and a few tokens elsewhere.
fn made_up(spec: &InputSpec) -> Result<Array, InputError> {
    let missing = || InputError::Missing { name: spec.name.clone(), spec: spec.to_string() };
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

/// What the model gives for these inputs: its computed outputs by name.
fn outputs(
    model: &Model,
    backend: &dyn Backend,
    inputs: &[(String, Array)],
) -> Result<Vec<(String, Array)>, RunError> {
    let graph = &model.graph;
    let computed = |id: &ValueId| graph.producer(*id).is_some();
    let wanted: Vec<ValueId> = graph.outputs().iter().copied().filter(computed).collect();
    let names: Vec<String> = wanted.iter().map(|&id| graph.value(id).name.clone()).collect();
    let interpreter = Interpreter::with_bodies(model, backend, wanted, raised_bodies(TURNS))?;
    let live = interpreter.feed(inputs.iter().map(|(name, array)| (name.as_str(), array.clone())));
    Ok(names.into_iter().zip(interpreter.run(live)?).collect())
}

/// The norm of the difference relative to that of `expected`; values that are not finite must be so in both.
fn relative_difference(expected: &Array, found: &Array) -> f64 {
    if expected.shape != found.shape {
        return f64::INFINITY;
    }
    let (Some(expected), Some(found)) = (expected.as_f32(), found.as_f32()) else {
        return if expected.data == found.data { 0.0 } else { f64::INFINITY };
    };
    let (mut difference, mut norm) = (0.0, 0.0);
    for (&expected, &found) in expected.iter().zip(found) {
        match (expected.is_finite(), found.is_finite()) {
            (true, true) => {
                difference += f64::from(expected - found).powi(2);
                norm += f64::from(expected).powi(2);
            }
            (false, false) => {}
            _ => return f64::INFINITY,
        }
    }
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use zqc_ir::{Model, onnx};
    use zqc_passes::Silent;
    use zqc_runtime::{Array, backend};

    use super::{VerifyError, relative_difference, verify};
    use crate::{Compiler, Error, Method, Options, Report};

    /// The bundled model, quantized in groups of this size, and as it is written.
    fn compiled(group_size: usize) -> (Model, Model) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/model.onnx");
        let options = Options { method: Method::Rtn, group_size, lorc_rank: Some(0), ..Options::default() };
        let (compiler, mut report) = (Compiler::new(options), Report::default());
        let mut quantized = onnx::read(&path).unwrap();
        compiler.quantize(&mut quantized, &mut report, &mut Silent).unwrap();
        let mut lowered = quantized.clone();
        compiler.lower(&mut lowered, &mut report, &mut Silent).unwrap();
        (quantized, lowered)
    }

    #[test]
    fn what_is_not_what_it_was_to_be_is_told() {
        let (quantized, lowered) = compiled(64);
        let (other, _) = compiled(32);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        onnx::write(&lowered, &path, onnx::Storage::Inline).unwrap();
        let backend = backend("rten", None).unwrap();
        let verify = |quantized: &Model| verify(&path, &lowered, quantized.clone(), Some(backend.as_ref()));
        let words = verify(&quantized).unwrap();
        assert!(words.contains("its outputs are those of the quantized model"), "{words}");
        let fault = |result| match result {
            Err(Error::Verify { source }) => source,
            other => panic!("{other:?}"),
        };
        assert!(matches!(fault(verify(&other)), VerifyError::Output { .. }));

        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(fault(verify(&quantized)), VerifyError::Differs));
        std::fs::write(&path, &bytes[..middle]).unwrap();
        assert!(matches!(fault(verify(&quantized)), VerifyError::Read(_)));
    }

    #[test]
    fn differences_are_relative_to_the_expected_norm() {
        let array = |values: &[f32]| Array::new(vec![values.len()], values.to_vec()).unwrap();
        let difference = |a: &[f32], b: &[f32]| relative_difference(&array(a), &array(b));
        assert_eq!(difference(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert!((difference(&[3.0, 4.0], &[3.0, 4.5]) - 0.1).abs() < 1e-9);
        assert_eq!(difference(&[0.0], &[1.0]), f64::INFINITY);
        assert_eq!(difference(&[f32::NAN, 1.0], &[f32::NAN, 1.0]), 0.0);
        assert_eq!(difference(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(difference(&[1.0], &[1.0, 1.0]), f64::INFINITY);
        let integers = |values: &[i64]| Array::new(vec![values.len()], values.to_vec()).unwrap();
        assert_eq!(relative_difference(&integers(&[1]), &integers(&[1])), 0.0);
        assert_eq!(relative_difference(&integers(&[1]), &integers(&[2])), f64::INFINITY);
    }
}
