//! Weight solvers of `zqc`: Hessians, GPTQ, round to nearest, constrained scales, low-rank compensation. Pure maths on slices,
//! without any notion of a graph; what they yield is of [`zqc_formats`], whose conventions on shapes hold here too.
//!
//! Work is spread over the current rayon pool in partitions that do not depend on the number of threads, so the same
//! input gives the same bytes however many threads there are.

mod cholesky;
mod columns;
mod constraint;
mod correction;
mod error;
mod gptq;
mod grouping;
mod held_out;
mod hessian;
mod inverse_factor;
mod levels;
mod lorc;
mod order;
mod row_scales;
mod rtn;
mod scale_search;
mod step_search;
mod weight;

pub use constraint::{ScaleConstraint, Snap};
pub use correction::{Correction, CrossMoment};
pub use error::SolveError;
pub use gptq::{Gptq, GptqOptions};
pub use grouping::Grouping;
pub use held_out::HeldOut;
pub use hessian::Hessian;
pub use lorc::{Metric, lorc};
pub use order::Order;
pub use rtn::rtn;
pub use scale_search::ScaleSearch;

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
