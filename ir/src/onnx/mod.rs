//! The ONNX front end and writer.

mod external;
mod instantiate;
pub mod proto;
mod read;
mod write;

pub use external::ExternalError;
pub use instantiate::instantiate;
pub use read::{ModelError, ReadError, from_proto, read};
pub use write::{Storage, WriteError, check_writable, extract, node_to_proto, to_proto, write, write_file};
