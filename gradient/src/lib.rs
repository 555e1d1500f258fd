//! Reverse-mode differentiation of an ONNX graph into an ONNX graph, which any back end runs.
//!
//! * [`differentiate()`] adds to a model the nodes that compute gradients of one of its values with respect to others.
//! * [`segments()`] finds the values through which all of a decoder's computation goes, and [`blocks()`] cuts it there, so that it can
//!   be differentiated block by block.
//!
//! Every operator has a rule, a small function that writes its gradient by operators of opset 13 and later. At one without a rule the gradient
//! stops, and [`Differentiated::stopped`] names it.

mod backward;
mod blocks;
mod broadcast;
mod differentiate;
mod error;
mod flow;
mod rules;
mod segments;

pub use blocks::{Block, blocks};
pub use differentiate::{Differentiated, Stopped, differentiate};
pub use error::GradientError;
pub use segments::segments;

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
