//! The operators for ONNX Runtime's CUDA provider, on the kernels of `zqc-cuda`. Their nodes put work on the stream of the session and
//! do not wait for it.
//!
//! The functions that [`runs`] names have such operators, where [`is_available`]. The nodes of all others run on the CPU, as those of every
//! function do elsewhere; ONNX Runtime copies what passes from one to the other.

mod element;
mod gpu;
mod linear;
mod node;
mod quantize;
mod support;
mod table;

pub(crate) use node::Node;
pub(crate) use support::{PROVIDER, is_available, is_on_host, runs};
