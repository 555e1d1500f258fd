//! Number formats of `zqc` and what is stored in them: quantized matrices, low-rank branches, token-wise quantization, and the
//! names of the functions that compute with them. Nothing here knows how weights are solved, or what a graph is.
//!
//! Shapes follow one convention. A weight matrix is `[N, K]` row-major: `N` output features, `K` input features;
//! scale groups run along `K`, and the last group of a row is short when `K` is no multiple of the group size.
//! Activations are `[T, K]` row-major: one token a row.
//!
//! Work is spread over the current rayon pool in partitions that do not depend on the number of threads, so the same
//! input gives the same bytes however many threads there are.
//!
//! The enums of formats ([`Format`], [`Ladder`], [`ActivationFormat`], [`FactorFormat`]) are exhaustive: kernels, packers and writers of
//! the other crates have a table for each, and do not compile before they know a new one, which is a new major version.

mod error;
mod format;
pub mod grid;
mod integer;
mod ladder;
mod lookup_table;
mod low_rank;
pub mod matrix;
mod minifloat;
mod pack;
mod quantized;
mod scales;
mod signature;
mod token;
mod weight_format;

pub use error::{FormatError, check_length};
pub use format::{Format, Levels, ParseFormatError};
pub use ladder::Ladder;
pub use lookup_table::LookupTable;
pub use low_rank::{FactorFormat, Factors, LowRank};
pub use matrix::{matmul, transpose};
pub use pack::{pack_nibbles, transpose_nibbles, unpack_nibbles};
pub use quantized::{QuantizedMatrix, relative_error};
pub use scales::Scales;
pub use signature::{
    Extra, FUNCTION_DOMAIN, FUNCTION_VERSION, GROUP_SIZE, OUTPUT_TYPE, Operand, Signature, WeightKind,
};
pub use token::{ActivationFormat, SCALE_FLOOR, quantize_dequantize_tokens};
pub use weight_format::WeightFormat;

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
