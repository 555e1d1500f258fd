//! `If`, `Loop` and `Scan`: each region is run by an interpreter of its own, so that it may hold operators of ours, which no
//! back end knows, and control flow in turn.
//!
//! The semantics are those of ONNX since version 9 of `Scan`; the older one, with a batch dimension, is refused.

mod kind;
mod operator;
mod run;

pub use operator::Control;
pub use run::Watch;

#[cfg(all(test, feature = "rten"))]
mod tests;
