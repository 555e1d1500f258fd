//! Compiled kernels on disk, so that the next process starts at once.

use std::env;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

/// The environment variable that names the folder; an empty one turns the cache off.
pub const FOLDER: &str = "ZQC_CACHE";

/// A folder of cubins by the hash of what they were made from. A cache that cannot be read or written is
/// slower, not wrong: nothing here fails.
#[derive(Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// The folder that [`FOLDER`] names, or `zqc` in the user's cache folder.
    pub fn from_environment() -> Self {
        let folder = |name: &str| env::var_os(name).map(PathBuf::from);
        let user = || {
            let xdg = folder("XDG_CACHE_HOME").filter(|path| path.is_absolute());
            Some(xdg.or_else(|| Some(folder("HOME")?.join(".cache")))?.join("zqc"))
        };
        let folder = folder(FOLDER).or_else(user);
        Self { folder: folder.filter(|folder| !folder.as_os_str().is_empty()) }
    }

    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let bytes = fs::read(self.folder.as_ref()?.join(key.file_name())).ok()?;
        let (checksum, cubin) = bytes.split_first_chunk::<32>()?;
        (Sha256::digest(cubin).as_slice() == checksum).then(|| cubin.to_vec())
    }

    pub fn put(&self, key: &Key, cubin: &[u8]) {
        let Some(folder) = &self.folder else { return };
        let write = || {
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&Sha256::digest(cubin))?;
            file.write_all(cubin)?;
            file.persist(folder.join(key.file_name())).map_err(|e| e.error)
        };
        let _: std::io::Result<_> = write();
    }
}

/// The hash of everything that a cubin depends on.
pub struct Key([u8; 32]);

impl Key {
    /// Of parts, each with its length, so that no two lists of parts are taken for one another.
    pub fn new<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    fn file_name(&self) -> String {
        let hexadecimal: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        hexadecimal + ".cubin"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_got_and_damage_is_a_miss() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: Some(folder.path().join("new")) };
        let key = Key::new(["source", "option"]);
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"cubin");
        assert_eq!(cache.get(&key).as_deref(), Some(b"cubin".as_slice()));
        assert_eq!(cache.get(&Key::new(["sourceoption"])), None);

        let file = folder.path().join("new").join(key.file_name());
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(cache.get(&key), None);
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let cache = Cache::default();
        let key = Key::new(["source"]);
        cache.put(&key, b"cubin");
        assert_eq!(cache.get(&key), None);
    }
}
