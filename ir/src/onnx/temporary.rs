//! Folders for files that are not finished yet. They lie beside what the files become, so that a rename moves them there,
//! and go when they are dropped or when a signal ends the process.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

/// The folders that there are now.
static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn open() -> MutexGuard<'static, Vec<PathBuf>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every temporary folder of this process, and lets nobody make another: for a signal handler that ends the
/// process right after.
pub fn remove_temporaries() {
    for _ in 0..100 {
        match OPEN.try_lock() {
            Ok(folders) => {
                for folder in folders.iter() {
                    let _ = std::fs::remove_dir_all(folder); // nobody is left to tell
                }
                return std::mem::forget(folders);
            }
            // Whoever holds the lock lets go of it soon, unless it is the thread that is here.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A folder of our own.
pub(super) struct TemporaryFolder(TempDir);

impl TemporaryFolder {
    /// An empty folder beside `path`.
    pub(super) fn beside(path: &Path) -> std::io::Result<Self> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut open = open();
        let folder = tempfile::Builder::new().prefix(".zqc-").suffix(".tmp").tempdir_in(parent)?;
        open.push(folder.path().to_path_buf());
        Ok(Self(folder))
    }

    /// The place of the file `name` in it.
    pub(super) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        open().retain(|folder| folder != self.0.path());
    }
}
