//! Number formats, packing and weight solvers of `zqc`: pure maths on slices, without any notion of a graph.
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

mod cholesky;
mod columns;
mod constraint;
mod correction;
mod error;
mod format;
mod gptq;
mod grid;
mod grouping;
mod held_out;
mod hessian;
mod integer;
mod inverse_factor;
mod ladder;
mod lorc;
mod low_rank;
mod matrix;
mod minifloat;
mod order;
mod pack;
mod quantized;
mod row_scales;
mod rtn;
mod scale_search;
mod scales;
mod signature;
mod step_search;
mod token;
mod weight_format;

pub use constraint::{ScaleConstraint, Snap};
pub use correction::{Correction, CrossMoment};
pub use error::SolveError;
pub use format::{Format, ParseFormatError};
pub use gptq::{Gptq, GptqOptions};
pub use grouping::Grouping;
pub use held_out::HeldOut;
pub use hessian::Hessian;
pub use ladder::Ladder;
pub use lorc::{Metric, lorc};
pub use low_rank::{FactorFormat, Factors, LowRank};
pub use matrix::{matmul, transpose};
pub use order::Order;
pub use pack::{pack_nibbles, transpose_nibbles, unpack_nibbles};
pub use quantized::{QuantizedMatrix, relative_error};
pub use rtn::rtn;
pub use scale_search::ScaleSearch;
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
