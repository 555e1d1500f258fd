//! Why inputs do not fit a model.

use crate::array::ArrayError;

/// Why the inputs of a model could not be completed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The model declares an input that is no tensor of a known element type.
    #[error("input {name:?} of the model is no tensor of a known element type")]
    NotATensor {
        /// Name of the input.
        name: String,
    },
    /// A given array is for no input.
    #[error("the model has no input {name:?}; it has: {inputs}")]
    Unknown {
        /// Name of the array.
        name: String,
        /// The model's inputs.
        inputs: String,
    },
    /// An input is not given and does not follow from those that are.
    #[error(
        "input {name:?} {spec} is not given and cannot be derived: {reason}; give it under this name: in every line of a \
         .jsonl file, where it may stand beside \"text\", or as an array of all samples in an .npz or .safetensors file"
    )]
    Missing {
        /// Name of the input.
        name: String,
        /// Its type and shape.
        spec: String,
        /// Why it cannot be derived.
        reason: String,
    },
    /// A given array has the wrong rank or extents.
    #[error("input {name:?} must be {spec}, not of shape {found:?}")]
    Shape {
        /// Name of the input.
        name: String,
        /// Its type and shape.
        spec: String,
        /// Shape of the array.
        found: Vec<usize>,
    },
    /// A given array has the wrong element type.
    #[error("input {name:?}: {source}")]
    Type {
        /// Name of the input.
        name: String,
        /// The conversion that failed.
        source: ArrayError,
    },
}
