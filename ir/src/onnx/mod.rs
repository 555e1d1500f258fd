//! The ONNX front end and writer.

mod external;
pub mod proto;
mod read;
mod write;

pub use external::ExternalError;
pub use read::{ReadError, read};
pub use write::{Storage, WriteError, extract, to_proto, write};
