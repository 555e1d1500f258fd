//! A folder that appears whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zqc_ir::onnx::{follow_links, resemble};

use crate::manifest::FORMAT;
use crate::reader::{KERNELS, MANIFEST, WEIGHTS};

/// Why a package is not written to a place; what was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The operating system refused.
    #[error("cannot write {path:?}: {source}")]
    Io {
        /// The package or the file in it.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something else is in the place of the package.
    #[error(
        "cannot write {path:?}: {reason}; name a folder that does not exist yet, is empty, or is a package"
    )]
    Occupied {
        /// The place.
        path: PathBuf,
        /// What is there.
        reason: &'static str,
    },
}

/// Finds out, before any work is spent, whether a package can be written at `folder`.
///
/// # Errors
/// When no folder can be made beside it, or something that is no package is in its place.
pub fn check_writable(folder: &Path) -> Result<(), StagingError> {
    Staging::new(folder).map(drop)
}

/// A temporary folder that takes the place of another one, or goes when it is dropped.
pub(crate) struct Staging {
    target: PathBuf,
    folder: TempDir,
}

impl Staging {
    /// An empty folder beside `target`.
    ///
    /// # Errors
    /// When none can be made there, or something that is no package is in the place of `target`.
    pub fn new(target: &Path) -> Result<Self, StagingError> {
        let io = |source| StagingError::Io { path: target.to_path_buf(), source };
        // Where a link leads to is replaced, not the link.
        let resolved = target.canonicalize().or_else(|_| follow_links(target)).map_err(io)?;
        if let Some(reason) = occupied(&resolved).map_err(io)? {
            return Err(StagingError::Occupied { path: target.to_path_buf(), reason });
        }
        let parent = match resolved.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) => Path::new("."),
            None => return Err(io(io::ErrorKind::IsADirectory.into())),
        };
        Ok(Self { folder: temporary(parent).map_err(io)?, target: resolved })
    }

    /// The temporary folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts the temporary folder in the place of the target, which disappears. Between the two the target is missing for a
    /// moment.
    ///
    /// # Errors
    /// When the operating system refuses; the target is then as it was.
    pub fn commit(self) -> Result<(), StagingError> {
        let io = |source| StagingError::Io { path: self.target.clone(), source };
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        synchronize(self.folder.path()).map_err(io)?;
        let previous = if self.target.exists() {
            let occupant = fs::metadata(&self.target).map_err(io)?;
            resemble(self.folder.path(), &occupant).map_err(io)?;
            let previous = temporary(parent).map_err(io)?;
            fs::rename(&self.target, previous.path()).map_err(io)?;
            Some(previous)
        } else {
            None
        };
        if let Err(error) = fs::rename(self.folder.path(), &self.target) {
            if let Some(previous) = previous {
                fs::rename(previous.keep(), &self.target).map_err(io)?;
            }
            return Err(io(error));
        }
        synchronize(parent).map_err(io)
    }
}

/// What is at a place where no package may be written, if it is so.
fn occupied(path: &Path) -> io::Result<Option<&'static str>> {
    if !path.exists() {
        return Ok(None);
    }
    if !path.is_dir() {
        return Ok(Some(if path.is_file() { "a file is there" } else { "a device or a pipe is there" }));
    }
    let mut names =
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    if names.is_empty() {
        return Ok(None);
    }
    let ours = [KERNELS, MANIFEST, WEIGHTS];
    let foreign = names.iter().any(|name| !ours.iter().any(|ours| name == ours));
    let manifest = path.join(MANIFEST);
    // A pipe would wait for a writer.
    let manifest = if manifest.is_file() { fs::read(manifest).unwrap_or_default() } else { Vec::new() };
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let package = !foreign && manifest["format"] == FORMAT;
    Ok((!package).then_some("a folder is there that is no package"))
}

/// An empty folder that goes when it is dropped.
fn temporary(parent: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".zqc-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777)); // less the umask, as any new folder
    builder.tempdir_in(parent)
}

/// Waits until the entries of a folder are on the disk.
fn synchronize(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
