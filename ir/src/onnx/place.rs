//! Where an output file goes: a symbolic link is followed, and nothing but a regular file is replaced.

use std::ffi::OsStr;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::write::WriteError;

/// As many links in a row as Linux follows.
const MOST_LINKS: usize = 40;

/// The place of an output file.
pub(super) struct Place {
    /// As the caller names it.
    named: PathBuf,
    /// Where the links lead to that it names.
    target: PathBuf,
}

impl Place {
    /// The place that `path` names.
    ///
    /// # Errors
    /// [`WriteError::Directory`] and [`WriteError::NotRegular`] when no file can go there.
    pub fn of(path: &Path) -> Result<Self, WriteError> {
        let target = follow_links(path).map_err(|source| WriteError::Io { path: path.into(), source })?;
        let place = Self { named: path.to_path_buf(), target };
        // `folder/` names a folder, whether it is there or not.
        let folder = path.as_os_str().as_encoded_bytes().last().is_some_and(|&byte| byte == b'/');
        if folder || place.target.file_name().is_none() {
            return Err(WriteError::Directory { path: place.named });
        }
        place.check()?;
        Ok(place)
    }

    /// The file, which may not be there yet.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Its name.
    pub fn file_name(&self) -> &OsStr {
        self.target.file_name().unwrap_or_default()
    }

    /// What is known of the file that is there.
    pub fn occupant(&self) -> Option<Metadata> {
        fs::metadata(&self.target).ok()
    }

    /// Moves the file `from` here. It takes mode and owner of a file like `model`: the one that it replaces, or that it
    /// belongs to.
    ///
    /// # Errors
    /// When the operating system refuses, or something else than a regular file is here by now.
    pub fn take(&self, from: &Path, model: Option<&Metadata>) -> Result<(), WriteError> {
        self.check()?;
        let moved = model.map_or(Ok(()), |model| resemble(from, model));
        let moved = moved.and_then(|()| fs::rename(from, &self.target));
        moved.map_err(|source| WriteError::Io { path: self.named.clone(), source })
    }

    /// Whether there is nothing here, or a regular file.
    fn check(&self) -> Result<(), WriteError> {
        // What the name leads to as the system sees it, and not as it reads: `/dev/stdout` leads to a pipe without a path.
        for path in [&self.named, &self.target] {
            let Ok(metadata) = fs::metadata(path) else { continue };
            if metadata.is_dir() {
                return Err(WriteError::Directory { path: self.named.clone() });
            }
            if !metadata.is_file() {
                return Err(WriteError::NotRegular {
                    path: self.named.clone(),
                    kind: kind(metadata.file_type()),
                });
            }
        }
        Ok(())
    }
}

/// The path that a symbolic link leads to in the end, whether something is there or not; any other path as it is.
///
/// # Errors
/// When links lead in a cycle.
pub fn follow_links(path: &Path) -> io::Result<PathBuf> {
    let mut path: PathBuf = path.components().collect();
    for _ in 0..MOST_LINKS {
        let Ok(target) = fs::read_link(&path) else { return Ok(path) };
        path.pop();
        path.push(target);
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

#[cfg(unix)]
fn kind(file_type: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;

    if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn kind(_: FileType) -> &'static str {
    "no regular file"
}

/// Gives a file or a folder the permissions of another, and its owner and group as far as that is permitted.
///
/// # Errors
/// When the permissions cannot be set.
#[cfg(unix)]
pub fn resemble(path: &Path, model: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    let found = fs::metadata(path)?;
    if (found.uid(), found.gid()) != (model.uid(), model.gid())
        && chown(path, Some(model.uid()), Some(model.gid())).is_err()
    {
        let _ = chown(path, None, Some(model.gid())); // an ordinary user gives files to their own groups at most
    }
    let mode = model.mode() & 0o777;
    if found.mode() & 0o777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Permissions and owners are those of Unix: nothing to do.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn resemble(_: &Path, _: &Metadata) -> io::Result<()> {
    Ok(())
}
