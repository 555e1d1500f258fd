//! What was written is read back: it must say what it was to say, in a form that a runtime accepts, and give what the quantized
//! model in memory gives, in the shapes of the float model.

mod run;

use std::path::Path;

use zqc_ir::Model;
use zqc_ir::onnx::{self, Content, ReadError, WriteError, strict};
use zqc_ir::verify::Faults;
use zqc_kernels::OpenError;
use zqc_passes::PassError;
use zqc_runtime::{Backend, RunError};

use crate::error::Error;
use crate::raise::raise;
use crate::target::Written;
pub use run::Inputs;
use run::{Outputs, inputs};

/// A float model has all of its weights in one stage, and is loaded whole: a larger one is not run, and the declarations of
/// its outputs count instead.
const MOST_FLOAT_BYTES: u64 = 1 << 28;

/// Why what was written is wrong: a fault of zqc or of the storage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// The file breaks rules of ONNX that the model it was made of keeps.
    #[error("the file is no valid model: {0}")]
    Invalid(Faults),
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
    /// The model in the file gives an output of another shape or type.
    #[error("output \"{output}\" is {found}, and should be {expected}")]
    Shape {
        /// Name of the output.
        output: String,
        /// Type and shape of the output.
        found: String,
        /// Those that the model gave before, or declares.
        expected: String,
    },
}

/// Checks that the file in `path` holds the lowered model, and runs it on `backend` if there is one, on the calibration
/// sample if there is one; the result in words.
pub(crate) fn verify(path: &Path, to_hold: &Written, backend: Option<&dyn Backend>) -> Result<String, Error> {
    let Written { source, lowered, sample, .. } = *to_hold;
    let fault = |source: VerifyError| Error::Verify { source };
    let mut written = onnx::read(path).map_err(|source| fault(source.into()))?;
    let same = || Ok::<_, WriteError>(Content::of(&written)? == Content::of(lowered)?);
    if !same().map_err(|source| fault(source.into()))? {
        return Err(fault(VerifyError::Differs));
    }
    check_validity(&written, source).map_err(fault)?;
    let read_back = "the file was read back and matches";
    let Some(backend) = backend else { return Ok(read_back.to_string()) };
    raise(&mut written).map_err(|source| fault(source.into()))?;
    let not_run = |reason: String| Ok(format!("{read_back}; no run, as {reason}"));
    let expect = || {
        let mut quantized = to_hold.quantized.clone();
        raise(&mut quantized)?; // layers that an earlier zqc quantized, where the pass was left out
        let inputs = inputs(&quantized, sample)?;
        let expected = Outputs::of(&quantized, backend, &inputs)?;
        Ok::<_, Error>((inputs, expected))
    };
    let (inputs, expected) = match expect() {
        Ok(expected) => expected,
        Err(error) => return not_run(error.to_string()),
    };
    let found = Outputs::of(&written, backend, &inputs).map_err(|source| fault(source.into()))?;
    found.check_values(&expected).map_err(fault)?;
    match float_outputs(source, backend, &inputs) {
        Some(float) => found.check_shapes(&float, &source.graph).map_err(fault)?,
        None => found.check_declarations(&written.graph).map_err(fault)?,
    }
    if !found.has_finite() {
        return Ok(format!("{read_back}; no finite output to compare"));
    }
    Ok(format!("{read_back}, and its outputs are those of the quantized model"))
}

/// What the float model gives, if it can be run, and loaded beside the others.
fn float_outputs(source: &Model, backend: &dyn Backend, inputs: &Inputs) -> Option<Outputs> {
    if source.source_bytes > MOST_FLOAT_BYTES {
        return None;
    }
    let mut float = source.clone();
    raise(&mut float).ok()?;
    Outputs::of(&float, backend, inputs).ok()
}

/// Checks that no rule of ONNX is broken but those that the model was read with.
fn check_validity(written: &Model, source: &Model) -> Result<(), VerifyError> {
    let known = match onnx::to_proto(source) {
        Ok(source) => strict::faults(&source),
        // Text that was quantized before breaks no rule of ONNX, as it is none.
        Err(WriteError::NotLowered { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut faults = strict::faults(&onnx::to_proto(written)?);
    faults.retain(|fault| !known.contains(fault));
    if faults.is_empty() { Ok(()) } else { Err(VerifyError::Invalid(Faults(faults))) }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::LazyLock;

    use zqc_ir::{Change, Model, NewNode, Op, Patch, onnx};
    use zqc_runtime::backend;

    use super::{VerifyError, verify};
    use crate::{Compiler, Error, Method, Options, Portable, Text, Written};

    fn bundled() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/model.onnx")
    }

    /// The bundled model, quantized in groups of this size, and as it is written.
    fn compiled(group_size: usize) -> (Model, Model) {
        let options = Options {
            method: Method::Rtn,
            group_size: Some(group_size),
            lorc_rank: Some(0),
            ..Options::default()
        };
        let source = onnx::read(&bundled()).unwrap();
        let text = Text { of: Box::new(Portable) };
        let quantized =
            Compiler::for_target(options.clone(), Box::new(text)).compile_model(source.clone(), []);
        let lowered = Compiler::new(options).compile_model(source, []);
        (quantized.unwrap().0, lowered.unwrap().0)
    }

    fn of<'a>(source: &'a Model, quantized: &'a Model, lowered: &'a Model) -> Written<'a> {
        static OPTIONS: LazyLock<Options> = LazyLock::new(Options::default);
        Written {
            options: &OPTIONS,
            backend: None,
            source,
            quantized,
            lowered,
            has_layers: true,
            sample: None,
        }
    }

    #[test]
    fn what_is_not_what_it_was_to_be_is_told() {
        let (quantized, lowered) = compiled(64);
        let (other, _) = compiled(32);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        onnx::write(&lowered, &path, onnx::Storage::Inline).unwrap();
        let backend = backend("rten", None).unwrap();
        let source = onnx::read(&bundled()).unwrap();
        let verify =
            |quantized: &Model| verify(&path, &of(&source, quantized, &lowered), Some(backend.as_ref()));
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
    /// What the verification says of the bundled model after these edits of what is written, of the quantized model too where
    /// both agree.
    fn after(edit: impl Fn(&mut Model)) -> VerifyError {
        let (mut quantized, mut lowered) = compiled(64);
        edit(&mut quantized);
        edit(&mut lowered);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        onnx::write(&lowered, &path, onnx::Storage::Inline).unwrap();
        let (source, backend) = (onnx::read(&bundled()).unwrap(), backend("rten", None).unwrap());
        match verify(&path, &of(&source, &quantized, &lowered), Some(backend.as_ref())) {
            Err(Error::Verify { source }) => source,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_that_a_runtime_refuses_is_told() {
        let twice =
            after(|model| model.header.opset_import.extend(model.header.opset_import.first().cloned()));
        assert!(
            matches!(&twice, VerifyError::Invalid(_)) && twice.to_string().contains("is imported"),
            "{twice}"
        );
    }

    #[test]
    fn an_output_of_another_rank_than_the_float_model_gives_is_told() {
        let squeezed = after(|model| {
            let graph = &model.graph;
            let (id, node) =
                graph.nodes().find(|(_, node)| node.output(0) == Some(graph.outputs()[0])).unwrap();
            let mut inner = NewNode::restore(graph, node);
            let output = inner.outputs[0].replace("before".to_string());
            let mut squeeze = inner.clone();
            (squeeze.name, squeeze.op) = ("squeeze".to_string(), Op::standard("Squeeze", Vec::new()));
            (squeeze.inputs, squeeze.outputs) = (vec![Some("before".to_string())], vec![output]);
            let change =
                Change { remove: vec![id], add: vec![inner, squeeze], ..Change::new("another rank") };
            Patch { changes: vec![change], ..Patch::default() }.apply(model).unwrap();
        });
        assert!(matches!(squeezed, VerifyError::Shape { .. }), "{squeezed}");
    }
}
