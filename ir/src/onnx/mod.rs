//! The ONNX front end and writer.

mod content;
mod data_file;
mod external;
mod folder;
mod instantiate;
mod place;
pub mod proto;
mod read;
pub mod strict;
mod temporary;
mod unknown;
mod write;

pub use content::Content;
pub(crate) use data_file::has_large;
pub use data_file::{data_files, is_data_file};
pub use external::{ExternalError, map_file};
pub use folder::{FolderError, StagedFolder};
pub use instantiate::instantiate;
pub use read::{ModelError, ReadError, from_proto, read, read_bytes};
pub(crate) use read::{OwnOperators, from_text, take_regions};
pub use temporary::remove_temporaries;
pub(crate) use write::stage_message;
pub use write::{
    Staged, Storage, WriteError, check_writable, extract, node_to_proto, stage, to_bytes, to_proto, write,
    write_file,
};
