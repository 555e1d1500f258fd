//! The data file beside a written model: its name follows from its content, so that two models never share one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::proto::{ModelProto, StringStringEntryProto, tensor_proto::DataLocation};
use super::temporary::TemporaryFolder;
use super::write::WriteError;

/// Smaller tensors stay inline, so that shape constants can be read without the data file.
const EXTERNAL_FLOOR: usize = 1024;
/// Offsets are multiples of this, so that a reader can map tensors one by one.
const ALIGNMENT: u64 = 4096;
/// Hexadecimal digits in the name of a data file.
const DIGITS: usize = 16;

/// Moves payloads into a data file in `folder`, for a model that is to be `path`; returns its name and its size.
pub(super) fn move_data_out(
    proto: &mut ModelProto,
    path: &Path,
    folder: &TemporaryFolder,
) -> Result<(String, u64), WriteError> {
    let io = |source| WriteError::Io { path: path.to_path_buf(), source };
    let model_name = path.file_name().and_then(|name| name.to_str());
    let no_name = "its weights go to a file beside it that it names, so its own name must be UTF-8";
    let model_name = model_name.ok_or_else(|| io(std::io::Error::other(no_name)))?;
    let unnamed = folder.join("data");
    let mut file = BufWriter::new(File::create_new(&unnamed).map_err(io)?);
    let mut hash = Sha256::new();
    let mut offset = 0u64;
    let mut moved = Vec::new();
    for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() >= EXTERNAL_FLOOR) else { continue };
        let padding = offset.next_multiple_of(ALIGNMENT) - offset;
        std::io::copy(&mut std::io::repeat(0).take(padding), &mut file).map_err(io)?;
        file.write_all(&raw).map_err(io)?;
        let start = offset + padding;
        offset = start + raw.len() as u64;
        hash.update(start.to_le_bytes());
        hash.update(&raw);
        moved.push((tensor, start, raw.len()));
    }
    let file = file.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{model_name}.{}.data", &digits[..DIGITS]);
    for (tensor, start, length) in moved {
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: Some(key.to_string()),
            value: Some(value),
        };
        tensor.external_data = vec![
            entry("location", name.clone()),
            entry("offset", start.to_string()),
            entry("length", length.to_string()),
        ];
        tensor.data_location = Some(DataLocation::External as i32);
    }
    std::fs::rename(&unnamed, folder.join(&name)).map_err(io)?;
    Ok((name, offset))
}

/// Removes the data files of models that `path` was before; `kept` is that of the model that it is now.
pub(super) fn remove_old_data(path: &Path, kept: Option<&OsStr>) {
    let (Some(name), Some(folder)) = (path.file_name().and_then(|name| name.to_str()), path.parent()) else {
        return;
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let is_data = |other: &str| {
        let digits = other.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".data")?;
        Some(digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let other = entry.file_name();
        if let Some(other) = other.to_str()
            && is_data(other) == Some(true)
            && Some(OsStr::new(other)) != kept
        {
            let _ = std::fs::remove_file(entry.path()); // the new model is in its place and whole without it
        }
    }
}
