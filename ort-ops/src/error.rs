//! Why an operator fails.

use std::any::Any;

use crate::element::Element;

/// Why an operator cannot be made or run; the text goes to whoever called ONNX Runtime.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpError {
    /// A call of ONNX Runtime failed.
    #[error("{0}")]
    Runtime(String),
    /// An input that the function does not allow.
    #[error(
        "input {input} is {found}, not {wanted}: the model is damaged, or of another zqc than this library"
    )]
    Input {
        /// Name of the input in the function.
        input: &'static str,
        /// Its type and shape.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// An output of another type than its attribute says.
    #[error("the output is {found:?}, not {wanted:?} as its attribute says: the model is damaged")]
    Output {
        /// Its type in the session.
        found: Element,
        /// The type that the attribute names.
        wanted: Element,
    },
    /// An attribute that the function does not allow.
    #[error("attribute {name} is {value}: the model is damaged, or of another zqc than this library")]
    Attribute {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: i64,
    },
    /// A row that a table does not have.
    #[error("index {index} is out of range: the table has {rows} rows")]
    Index {
        /// The index.
        index: i64,
        /// Rows of the table.
        rows: usize,
    },
    /// A type that ONNX Runtime before 1.20 cannot infer.
    #[error(
        "an output of {0:?} needs ONNX Runtime 1.20 or later; without this library, this one runs the model"
    )]
    OldRuntime(Element),
    /// A layer that cannot be packed.
    #[error(transparent)]
    Pack(#[from] zqc_linear::PackError),
    /// Operands whose shapes do not fit.
    #[error(transparent)]
    Shape(#[from] zqc_linear::ShapeError),
    /// The kernels for CUDA failed.
    #[error(transparent)]
    Cuda(#[from] zqc_cuda::Error),
    /// A type without kernels for CUDA.
    #[error("there are no kernels of {0:?} for CUDA; in a session without the CUDA provider, the model runs")]
    CudaType(Element),
    /// An instruction set that the processor lacks.
    #[error(transparent)]
    Isa(#[from] zqc_linear::IsaError),
    /// An error of the library.
    #[error("internal error, please report it: {0}")]
    Panic(String),
}

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_string()
}
