//! Memory of the model's file that is no longer read.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::mm::{Advice, madvise};

/// Bytes of an entry of `/proc/self/pagemap`.
const ENTRY: usize = 8;

/// Less is not worth the look at its pages that it takes to know what they are.
const FLOOR: usize = 1 << 16;

/// Lets the kernel take back the whole pages of `bytes` that are mapped from a file, as ONNX Runtime maps external data.
/// They are read again from the file should anything look at them; nothing is lost, and nothing happens to other memory.
pub(crate) fn release(bytes: &[u8]) {
    let page = rustix::param::page_size();
    let start = (bytes.as_ptr() as usize).next_multiple_of(page);
    let end = (bytes.as_ptr() as usize + bytes.len()) & !(page - 1);
    if end < start + FLOOR || !is_of_files(start, end, page) {
        return;
    }
    // SAFETY: a page of a file, or of shared memory, stays where it is when this process lets go of it, and so does what was written
    // to it, unless it was by a private mapping: then it is no page of the file any more. Nothing writes to a constant of a session.
    let _ = unsafe { madvise(start as *mut _, end - start, Advice::LinuxDontNeed) };
}

/// Whether all pages of the range are of files, or not in memory.
fn is_of_files(start: usize, end: usize, page: usize) -> bool {
    let mut pages = vec![0; (end - start) / page * ENTRY];
    let read = |pagemap: File| pagemap.read_exact_at(&mut pages, (start / page * ENTRY) as u64);
    File::open("/proc/self/pagemap").and_then(read).is_ok()
        && pages.as_chunks().0.iter().all(|&entry| is_of_file(u64::from_le_bytes(entry)))
}

/// Whether a page, by its entry of `/proc/self/pagemap`, is one of a file, or not in memory.
fn is_of_file(entry: u64) -> bool {
    const FILE: u64 = 1 << 61;
    const SWAPPED: u64 = 1 << 62;
    const PRESENT: u64 = 1 << 63;
    entry & SWAPPED == 0 && (entry & PRESENT == 0 || entry & FILE != 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_given_back_can_still_be_read() {
        let mut file = tempfile::tempfile().expect("a file");
        let content: Vec<u8> = (0..1 << 20).map(|i| (i / 7) as u8).collect();
        file.write_all(&content).expect("written");
        // SAFETY: nothing else has the file.
        let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) }.expect("a mapping");
        assert_eq!(&map[..], &content[..]);
        release(&map);
        assert_eq!(&map[..], &content[..]);
        // SAFETY: nothing else has the file.
        let mut written = unsafe { memmap2::MmapOptions::new().map_copy(&file) }.expect("a mapping");
        written[12345] ^= 1;
        release(&written);
        assert_eq!(written[12345], content[12345] ^ 1, "what was written to it stays");
        // SAFETY: nothing else has the file.
        let mut shared = unsafe { memmap2::MmapOptions::new().map_mut(&file) }.expect("a mapping");
        shared[54321] ^= 1;
        release(&shared);
        assert_eq!(shared[54321], content[54321] ^ 1, "what was written to shared memory stays too");
        let heap = content.clone();
        release(&heap);
        assert_eq!(heap, content, "memory of no file stays");
    }
}
