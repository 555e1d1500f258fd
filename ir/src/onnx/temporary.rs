//! Folders for files that are not finished yet. They lie beside what the files become, so that a rename moves them there,
//! and go when they are dropped. A process that is killed leaves its folders; the next one that writes to the same place
//! removes them.
//!
//! A folder in use holds a file that its process keeps locked. The lock is gone with the process, however that ends, so
//! a folder whose file can be locked is nobody's any more. Some file systems keep locks within one machine: the file
//! says on which running kernel it was locked, and folders of another one are left alone, as are those without it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

/// What the name of every temporary folder begins and ends with.
const AFFIXES: (&str, &str) = (".zqc-", ".tmp");

/// The file that is locked as long as its folder is in use.
const LOCK: &str = ".zqc-lock";

/// The folders of this process.
static IN_USE: Mutex<Vec<InUse>> = Mutex::new(Vec::new());

struct InUse {
    folder: PathBuf,
    /// `None` where no file can be locked. Closed before the folder is removed: on NFS, an open file stays in it.
    lock: Option<File>,
}

fn in_use() -> MutexGuard<'static, Vec<InUse>> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every temporary folder of this process, and lets nobody make another: for a thread that ends the process right
/// after. It waits, allocates and reads folders, so it is nothing for a signal handler.
pub fn remove_temporaries() {
    let mut folders = in_use();
    for InUse { folder, lock } in folders.drain(..) {
        drop(lock);
        let _ = fs::remove_dir_all(folder); // nobody is left to tell
    }
    std::mem::forget(folders);
}

/// A folder of our own.
pub struct TemporaryFolder(TempDir);

impl TemporaryFolder {
    /// An empty folder beside `path`. Removes those that a killed process left there.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn beside(path: &Path) -> io::Result<Self> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut folders = in_use();
        let kernel = running_kernel();
        if let Some(kernel) = &kernel {
            remove_abandoned(parent, kernel, &folders);
        }
        let (prefix, suffix) = AFFIXES;
        let folder = tempfile::Builder::new().prefix(prefix).suffix(suffix).tempdir_in(parent)?;
        let lock = kernel.and_then(|kernel| mark(folder.path(), &kernel).ok());
        folders.push(InUse { folder: folder.path().to_path_buf(), lock });
        Ok(Self(folder))
    }

    /// The place of the file `name` in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Calls `work`, which [`remove_temporaries`] waits for: for renames that only together leave things whole. `work` must
    /// not make or drop such a folder.
    pub fn uninterrupted<T>(&self, work: impl FnOnce() -> T) -> T {
        let _folders = in_use();
        work()
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        in_use().retain(|in_use| in_use.folder != self.0.path());
    }
}

/// Puts the locked file into a folder. It is locked before it has its name, so that no other process sees it unlocked.
fn mark(folder: &Path, kernel: &str) -> io::Result<File> {
    let nameless = folder.join(".zqc-unlocked");
    let mut file = File::create_new(&nameless)?;
    file.write_all(kernel.as_bytes())?;
    file.try_lock()?;
    fs::rename(&nameless, folder.join(LOCK))?;
    Ok(file)
}

/// Removes the folders in `parent` that a process on this kernel made which is no more.
fn remove_abandoned(parent: &Path, kernel: &str, ours: &[InUse]) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    // By name, as a folder has many paths.
    let ours: Vec<&OsStr> = ours.iter().filter_map(|in_use| in_use.folder.file_name()).collect();
    for entry in entries.flatten() {
        if is_temporary(&entry.file_name())
            && !ours.contains(&entry.file_name().as_os_str())
            && is_abandoned(&entry, kernel)
        {
            let _ = fs::remove_dir_all(entry.path()); // the next run tries again
        }
    }
}

fn is_temporary(name: &OsString) -> bool {
    let (prefix, suffix) = AFFIXES;
    name.to_str().is_some_and(|name| name.starts_with(prefix) && name.ends_with(suffix))
}

fn is_abandoned(entry: &DirEntry, kernel: &str) -> bool {
    let lock = entry.path().join(LOCK);
    // No link is followed, and no pipe opened, which would wait.
    let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
    if !is_folder || !fs::symlink_metadata(&lock).is_ok_and(|lock| lock.is_file()) {
        return false;
    }
    let Ok(mut file) = File::options().read(true).write(true).open(lock) else { return false };
    let mut found = String::new();
    let read = (&mut file).take(2 * kernel.len() as u64).read_to_string(&mut found);
    read.is_ok() && found == kernel && file.try_lock().is_ok()
}

/// What tells the kernel that runs from those of other machines, and from itself after a restart; `None` where it does not say.
fn running_kernel() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder beside `output` as a process leaves it that is killed, and its lock, as that process holds it.
    fn folder_of_another_process(output: &Path, name: &str, kernel: &str) -> (PathBuf, File) {
        let folder = output.with_file_name(name);
        fs::create_dir(&folder).unwrap();
        let lock = mark(&folder, kernel).unwrap();
        fs::create_dir(folder.join("sub")).unwrap();
        fs::write(folder.join("sub/model.onnx"), "half a model").unwrap();
        (folder, lock)
    }

    fn place() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("model.onnx");
        (folder, output)
    }

    #[test]
    fn a_folder_goes_when_its_process_is_gone() {
        let (_place, output) = place();
        let kernel = running_kernel().expect("Linux says which kernel runs");
        let (folder, lock) = folder_of_another_process(&output, ".zqc-other1.tmp", &kernel);
        drop(TemporaryFolder::beside(&output).unwrap());
        assert!(folder.join("sub/model.onnx").exists(), "its process still has it locked");
        drop(lock);
        let ours = TemporaryFolder::beside(&output).unwrap();
        assert!(!folder.exists());
        let second = TemporaryFolder::beside(&output).unwrap();
        assert!(ours.0.path().exists() && second.0.path().exists());
        drop((ours, second));
        assert_eq!(fs::read_dir(output.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn what_may_be_of_somebody_else_stays() {
        let (place, output) = place();
        let kernel = running_kernel().expect("Linux says which kernel runs");
        let elsewhere = "0cf2a1b6-0000-4000-8000-5f5dd4a2e7c1\n";
        let (other_machine, _) = folder_of_another_process(&output, ".zqc-other1.tmp", elsewhere);
        let (other_name, _) = folder_of_another_process(&output, ".zqc-other2.old", &kernel);
        let (unmarked, _) = folder_of_another_process(&output, ".zqc-other3.tmp", &kernel);
        fs::remove_file(unmarked.join(LOCK)).unwrap();
        let (longer, _) =
            folder_of_another_process(&output, ".zqc-other4.tmp", &format!("{kernel}{kernel}."));
        let file = output.with_file_name(".zqc-file.tmp");
        fs::write(&file, "a file").unwrap();
        let mut stay = vec![other_machine, other_name, unmarked, longer, file];
        #[cfg(unix)]
        {
            // A link to what would go if it were there itself, a mark that is a link, and one that is a folder.
            let (target, _) = folder_of_another_process(&place.path().join("elsewhere"), "target", &kernel);
            let link = output.with_file_name(".zqc-link.tmp");
            std::os::unix::fs::symlink(&target, &link).unwrap();
            let (linked, _) = folder_of_another_process(&output, ".zqc-other5.tmp", &kernel);
            fs::remove_file(linked.join(LOCK)).unwrap();
            std::os::unix::fs::symlink(target.join(LOCK), linked.join(LOCK)).unwrap();
            let (odd, _) = folder_of_another_process(&output, ".zqc-other6.tmp", &kernel);
            fs::remove_file(odd.join(LOCK)).unwrap();
            fs::create_dir(odd.join(LOCK)).unwrap();
            stay.extend([target.join("sub/model.onnx"), link, linked, odd]);
        }
        drop(TemporaryFolder::beside(&output).unwrap());
        for path in stay {
            assert!(fs::symlink_metadata(&path).is_ok(), "{path:?} is gone");
        }
    }

    #[test]
    fn our_own_folders_stay_whatever_path_leads_to_them() {
        let (place, output) = place();
        let ours = TemporaryFolder::beside(&output).unwrap();
        // As on a network file system that gives a process every lock that it asks for: ours are known by name.
        in_use().iter_mut().find(|in_use| in_use.folder == ours.0.path()).unwrap().lock = None;
        let detour = place.path().join("..").join(place.path().file_name().unwrap()).join("model.onnx");
        drop(TemporaryFolder::beside(&detour).unwrap());
        assert!(ours.0.path().exists());
    }
}
