//! The ONNX front end and writer.

mod external;
pub mod proto;
mod read;
mod write;

pub use external::{ExternalError, map_file};
pub use read::{ModelError, ReadError, from_proto, read};
pub use write::{Storage, WriteError, check_writable, extract, node_to_proto, to_proto, write, write_file};
