//! A folder that appears whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use zqc_ir::onnx::{TemporaryFolder, follow_links, map_file, resemble};

use crate::manifest::FORMAT;
use crate::reader::{MANIFEST, WEIGHTS};

/// A folder that packages of version 1 had.
const KERNELS_OF_VERSION_1: &str = "kernels";

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

/// A package in a temporary folder, which takes the place of another one or goes when it is dropped.
pub(crate) struct Staging {
    target: PathBuf,
    folder: TemporaryFolder,
    package: PathBuf,
}

impl Staging {
    /// An empty package beside `target`.
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
        if resolved.parent().is_none() {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        }
        let folder = TemporaryFolder::beside(&resolved).map_err(io)?;
        let package = folder.join("package");
        fs::create_dir(&package).map_err(io)?;
        Ok(Self { target: resolved, folder, package })
    }

    /// Where the package lies for now.
    pub fn path(&self) -> &Path {
        &self.package
    }

    /// Puts the package in the place of the target, which disappears. Between the two the target is missing for a moment; a
    /// process that is killed in it leaves what was there as `.zqc-*.old`.
    ///
    /// # Errors
    /// When the operating system refuses; the target is then as it was.
    pub fn commit(self) -> Result<(), StagingError> {
        let io = |source| StagingError::Io { path: self.target.clone(), source };
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        synchronize(&self.package).map_err(io)?;
        self.folder.uninterrupted(|| self.exchange(parent)).map_err(io)?;
        synchronize(parent).map_err(io)
    }

    fn exchange(&self, parent: &Path) -> io::Result<()> {
        if !self.target.exists() {
            return fs::rename(&self.package, &self.target);
        }
        resemble(&self.package, &fs::metadata(&self.target)?)?;
        // Not in the temporary folder, which whoever comes after a killed process removes.
        let previous = tempfile::Builder::new().prefix(".zqc-").suffix(".old").tempdir_in(parent)?;
        fs::rename(&self.target, previous.path())?;
        if let Err(error) = fs::rename(&self.package, &self.target) {
            fs::rename(previous.keep(), &self.target)?;
            return Err(error);
        }
        let _ = fs::rename(previous.path(), self.folder.join("previous")); // else it is removed where it is
        Ok(())
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
    let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    if names.is_empty() {
        return Ok(None);
    }
    let manifest = map_file(&path.join(MANIFEST)).unwrap_or_default();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let ours = |name: &OsString| {
        name == MANIFEST || name == WEIGHTS || name == KERNELS_OF_VERSION_1 && manifest["version"] == 1
    };
    let package = names.iter().all(ours) && manifest["format"] == FORMAT;
    Ok((!package).then_some("a folder is there that is no package"))
}

/// Waits until the entries of a folder are on the disk.
fn synchronize(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
