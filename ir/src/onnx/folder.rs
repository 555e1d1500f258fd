//! A folder that appears whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::place::{follow_links, resemble};
use super::temporary::TemporaryFolder;

/// Why a folder is not written to a place; what was there is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// The operating system refused.
    #[error("cannot write {path:?}: {source}")]
    Io {
        /// The folder or the file in it.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something is there that may not go.
    #[error("cannot write {path:?}: {reason}")]
    Occupied {
        /// The place.
        path: PathBuf,
        /// What is there, and the way out.
        reason: String,
    },
}

/// A folder in a temporary one, which takes the place of another or goes when it is dropped.
pub struct StagedFolder {
    target: PathBuf,
    temporary: TemporaryFolder,
    folder: PathBuf,
}

impl StagedFolder {
    /// An empty folder beside `target`. `keep` says of the names in a folder that is there why it may not go, with the way out;
    /// an empty folder may always.
    ///
    /// # Errors
    /// When none can be made there, or something that may not go is in the place of `target`.
    pub fn new(
        target: &Path,
        keep: impl FnOnce(&Path, &[OsString]) -> Option<String>,
    ) -> Result<Self, FolderError> {
        let io = |source| FolderError::Io { path: target.to_path_buf(), source };
        // Where a link leads to is replaced, not the link.
        let resolved = target.canonicalize().or_else(|_| follow_links(target)).map_err(io)?;
        if let Some(reason) = occupied(&resolved, keep).map_err(io)? {
            return Err(FolderError::Occupied { path: target.to_path_buf(), reason });
        }
        if resolved.parent().is_none() {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        }
        let temporary = TemporaryFolder::beside(&resolved).map_err(io)?;
        let folder = temporary.join("folder");
        fs::create_dir(&folder).map_err(io)?;
        Ok(Self { target: resolved, temporary, folder })
    }

    /// Where the folder lies for now.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Puts the folder in the place of the target, which disappears. Between the two the target is missing for a moment; a
    /// process that is killed in it leaves what was there as `.zqc-*.old`.
    ///
    /// # Errors
    /// When the operating system refuses; the target is then as it was.
    pub fn commit(self) -> Result<(), FolderError> {
        let io = |source| FolderError::Io { path: self.target.clone(), source };
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        synchronize(&self.folder).map_err(io)?;
        self.temporary.uninterrupted(|| self.exchange(parent)).map_err(io)?;
        synchronize(parent).map_err(io)
    }

    fn exchange(&self, parent: &Path) -> io::Result<()> {
        if !self.target.exists() {
            return fs::rename(&self.folder, &self.target);
        }
        resemble(&self.folder, &fs::metadata(&self.target)?)?;
        // Not in the temporary folder, which whoever comes after a killed process removes.
        let previous = tempfile::Builder::new().prefix(".zqc-").suffix(".old").tempdir_in(parent)?;
        fs::rename(&self.target, previous.path())?;
        if let Err(error) = fs::rename(&self.folder, &self.target) {
            fs::rename(previous.keep(), &self.target)?;
            return Err(error);
        }
        let _ = fs::rename(previous.path(), self.temporary.join("previous")); // else it is removed where it is
        Ok(())
    }
}

/// Why nothing may be written at `path`, if it is so.
fn occupied(
    path: &Path,
    keep: impl FnOnce(&Path, &[OsString]) -> Option<String>,
) -> io::Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    if !path.is_dir() {
        let what = if path.is_file() { "a file" } else { "a device or a pipe" };
        return Ok(Some(format!("{what} is there; name a folder")));
    }
    let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok(if names.is_empty() { None } else { keep(path, &names) })
}

/// Waits until the entries of a folder are on the disk.
fn synchronize(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
