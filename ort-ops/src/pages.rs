//! Memory of the model's file that is no longer read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use rustix::mm::{Advice, madvise};

/// Bytes of an entry of `/proc/self/pagemap`.
const ENTRY: usize = 8;

/// Less is not worth the look at the map of the process that it takes to know what it is.
const FLOOR: usize = 1 << 16;

/// Lets the kernel take back the whole pages of `bytes` that are mapped from a file, as ONNX Runtime maps external data.
/// They are read again from the file should anything look at them; nothing is lost, and nothing happens to other memory.
pub(crate) fn release(bytes: &[u8]) {
    let page = rustix::param::page_size();
    let start = (bytes.as_ptr() as usize).next_multiple_of(page);
    let end = (bytes.as_ptr() as usize + bytes.len()) & !(page - 1);
    if end < start + FLOOR || !is_clean_file(start, end, page) {
        return;
    }
    // SAFETY: the pages lie within a private mapping of a file, and none of them has been written to, so that they hold what the
    // file does; and nothing writes to a constant of a session.
    let _ = unsafe { madvise(start as *mut _, end - start, Advice::LinuxDontNeed) };
}

/// Whether the range lies within one private mapping of a file, and no page of it has been written to.
fn is_clean_file(start: usize, end: usize, page: usize) -> bool {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return false };
    let mut pages = vec![0; (end - start) / page * ENTRY];
    let read = |pagemap: File| pagemap.read_exact_at(&mut pages, (start / page * ENTRY) as u64);
    maps.lines().any(|line| holds(line, start, end))
        && File::open("/proc/self/pagemap").and_then(read).is_ok()
        && pages.as_chunks().0.iter().all(|&entry| is_of_file(u64::from_le_bytes(entry)))
}

/// Whether a page, by its entry of `/proc/self/pagemap`, is one of a file, or not in memory.
fn is_of_file(entry: u64) -> bool {
    const FILE: u64 = 1 << 61;
    const SWAPPED: u64 = 1 << 62;
    const PRESENT: u64 = 1 << 63;
    entry & SWAPPED == 0 && (entry & PRESENT == 0 || entry & FILE != 0)
}

/// Whether a line of `/proc/self/maps` is a private mapping of a file that the range lies in.
fn holds(line: &str, start: usize, end: usize) -> bool {
    // 7f0c8c000000-7f0c8e000000 rw-p 00001000 fe:00 1234   /models/model.onnx.data
    let mut fields = line.split_ascii_whitespace();
    let range = fields.next().and_then(|range| range.split_once('-'));
    let address = |text| usize::from_str_radix(text, 16).ok();
    let Some((from, to)) = range.and_then(|(from, to)| Some((address(from)?, address(to)?))) else {
        return false;
    };
    let permissions = fields.next().unwrap_or_default();
    let inode = fields.nth(2).unwrap_or_default();
    from <= start && end <= to && permissions.ends_with('p') && inode != "0" && !inode.is_empty()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_private_mappings_of_files_count() {
        let file = "7f0c8c000000-7f0c8e000000 rw-p 00001000 fe:00 1234                       /models/model.onnx.data";
        let heap = "55d5c0000000-55d5c8000000 rw-p 00000000 00:00 0                          [heap]";
        let shared = "7f0c8c000000-7f0c8e000000 rw-s 00001000 fe:00 1234                       /dev/shm/x";
        assert!(holds(file, 0x7f0c8c000000, 0x7f0c8e000000));
        assert!(!holds(file, 0x7f0c8c000000, 0x7f0c8e001000), "it ends before");
        assert!(!holds(heap, 0x55d5c0000000, 0x55d5c0001000));
        assert!(!holds(shared, 0x7f0c8c000000, 0x7f0c8c001000));
        assert!(!holds("", 0, 1) && !holds("nonsense", 0, 1));
    }

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
        let heap = content.clone();
        release(&heap);
        assert_eq!(heap, content, "memory of no file stays");
    }
}
