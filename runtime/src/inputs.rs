//! The inputs of a model, and how those that a data set lacks are derived.
//!
//! A data set usually holds token ids only. Masks, positions, token types and empty caches follow from them, by the names that
//! exporters give those inputs; anything else must be given.

mod batches;
mod derive;
mod error;
mod make;
mod meaning;
mod sizes;
mod spec;
mod tokens;

pub use batches::{Packed, pack};
pub use error::InputError;
pub use make::make_inputs;
pub use meaning::{names_cache, names_positions};
pub use spec::{Dimension, InputSpec, Sample};
pub use tokens::{EMBEDDINGS, token_input, token_inputs};
