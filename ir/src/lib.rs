//! The intermediate representation of zqc: a dataflow graph, on which petgraph's algorithms run, that holds any ONNX model
//! without loss, a few typed operators of our own, patches and their builder, a verifier and a textual form.

mod fresh_names;
pub mod functions;
pub mod graph;
pub mod model;
mod model_file;
mod node_names;
pub mod onnx;
pub mod op;
pub mod operands;
pub mod opset;
pub mod patch;
mod region;
pub mod tensor;
pub mod text;
pub mod types;
mod uses;
pub mod verify;

pub use fresh_names::FreshNames;
pub use graph::{Graph, Node, NodeId, RegionId, Source, ValueId};
pub use model::Model;
pub use model_file::read;
pub use node_names::NodeNames;
pub use op::Op;
pub use patch::{Change, ChangeBuilder, NewNode, NodeBuilder, Patch, PatchBuilder, ValueRef};
pub use tensor::Tensor;
pub use types::Type;

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
