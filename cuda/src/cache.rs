//! Compiled kernels on disk, so that the next process starts at once.

use std::env;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use crate::environment::CACHE_FOLDER;

/// A folder of cubins by the hash of what they were made from. They are run on the device as they are, so the folder and
/// all that is taken from it belong to the user of the process, and nobody else may enter it. A cache that cannot be
/// read or written is slower, not wrong: nothing here fails.
#[derive(Debug, Default)]
pub struct Cache(Option<PrivateFolder>);

impl Cache {
    /// The folder `zqc` in the one that [`CACHE_FOLDER`] names, or in the user's cache folder.
    pub fn from_environment() -> Self {
        let folder = |name: &str| env::var_os(name).map(PathBuf::from);
        let user = || {
            let xdg = folder("XDG_CACHE_HOME").filter(|path| path.is_absolute());
            xdg.or_else(|| Some(folder("HOME")?.join(".cache")))
        };
        let parent = folder(CACHE_FOLDER).or_else(user).filter(|folder| !folder.as_os_str().is_empty());
        let owner = geteuid().as_raw();
        Self(parent.map(|parent| PrivateFolder { path: parent.join("zqc"), owner }))
    }

    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let bytes = self.0.as_ref()?.read(&key.file_name()).ok()?;
        let (checksum, cubin) = bytes.split_first_chunk::<32>()?;
        (Sha256::digest(cubin).as_slice() == checksum).then(|| cubin.to_vec())
    }

    pub fn put(&self, key: &Key, cubin: &[u8]) {
        if let Some(folder) = &self.0 {
            let _ = folder.write(&key.file_name(), &[&Sha256::digest(cubin), cubin]);
        }
    }
}

/// A folder of one user.
#[derive(Debug)]
struct PrivateFolder {
    path: PathBuf,
    owner: u32,
}

impl PrivateFolder {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.close_to_others()?;
        let path = self.path.join(name);
        self.check(&path, Metadata::is_file)?;
        fs::read(path)
    }

    /// Writes a file at once: other processes see it whole or not at all.
    fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        self.close_to_others()?;
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.persist(self.path.join(name)).map_err(|error| error.error)?;
        Ok(())
    }

    /// Takes from others the permissions on the folder that a umask left them.
    fn close_to_others(&self) -> io::Result<()> {
        let found = self.check(&self.path, Metadata::is_dir)?;
        if found.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(&self.path, Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Refuses what is of another kind, a link included, or of another user.
    fn check(&self, path: &Path, is_expected: impl Fn(&Metadata) -> bool) -> io::Result<Metadata> {
        let found = fs::symlink_metadata(path)?;
        let is_ours = is_expected(&found) && found.uid() == self.owner;
        if is_ours { Ok(found) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

/// The hash of everything that a cubin depends on.
pub struct Key([u8; 32]);

impl Key {
    /// The hash of `parts`, each preceded by its length, so that different lists of parts never hash the same bytes.
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
    use std::os::unix::fs::symlink;

    use super::*;

    fn cache(path: PathBuf) -> Cache {
        Cache(Some(PrivateFolder { path, owner: geteuid().as_raw() }))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_was_put_is_got_and_damage_is_a_miss() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path().join("new"));
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

    #[test]
    fn nobody_else_may_enter_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("several/levels/zqc");
        let (cache, key) = (cache(path.clone()), Key::new(["source"]));
        cache.put(&key, b"cubin");
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(key.file_name())), 0o600);
        // As an earlier version made it under a umask of a group.
        for loose in [0o775, 0o777, 0o755] {
            fs::set_permissions(&path, Permissions::from_mode(loose)).unwrap();
            assert!(cache.get(&key).is_some());
            assert_eq!(mode(&path), 0o700);
            fs::set_permissions(&path, Permissions::from_mode(loose)).unwrap();
            cache.put(&key, b"cubin");
            assert_eq!(mode(&path), 0o700);
        }
    }

    #[test]
    fn what_is_of_another_user_is_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("zqc");
        let (ours, key, other) = (cache(path.clone()), Key::new(["source"]), Key::new(["other"]));
        ours.put(&key, b"cubin");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let strangers = Cache(Some(PrivateFolder { path: path.clone(), owner: geteuid().as_raw() ^ 1 }));
        assert_eq!(strangers.get(&key), None);
        strangers.put(&other, b"cubin");
        assert_eq!(ours.get(&other), None);
        assert_eq!(mode(&path), 0o700, "ours has taken the permissions");
    }

    #[test]
    fn links_are_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let (path, link) = (parent.path().join("zqc"), parent.path().join("link"));
        let (real, key) = (cache(path.clone()), Key::new(["source"]));
        real.put(&key, b"cubin");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        symlink(&path, &link).unwrap();
        let linked = cache(link);
        linked.put(&Key::new(["other"]), b"cubin");
        assert_eq!(linked.get(&key), None);
        assert_eq!(mode(&path), 0o755, "a folder that a link leads to is not touched");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);

        let target = Key::new(["target"]);
        symlink(path.join(key.file_name()), path.join(target.file_name())).unwrap();
        assert_eq!(real.get(&target), None);
        assert_eq!(real.get(&key).as_deref(), Some(b"cubin".as_slice()));
    }
}
