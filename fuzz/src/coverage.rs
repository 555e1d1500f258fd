//! The branches that inputs take, counted where the build says so (`fuzz/coverage.toml`).

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The counters of the program, one byte a branch.
static COUNTERS: AtomicPtr<AtomicU64> = AtomicPtr::new(null_mut());
static WORDS: AtomicUsize = AtomicUsize::new(0);

/// Tells where the counters lie; what the compiler adds to the program calls it before `main`. See "Inline 8bit-counters" in
/// Clang's documentation of SanitizerCoverage.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let skip = start.align_offset(align_of::<AtomicU64>());
    let bytes = (stop as usize).saturating_sub(start as usize + skip);
    COUNTERS.store(start.wrapping_add(skip).cast(), Relaxed);
    WORDS.store(bytes / size_of::<AtomicU64>(), Relaxed);
}

/// What was seen of each branch so far.
pub struct Coverage {
    counters: &'static [AtomicU64],
    /// Per branch a bit for each range of counts: 1, 2, 3, 4.., 8.., 16.., 32.., 128...
    seen: Vec<[u8; 8]>,
}

impl Coverage {
    /// Nothing seen yet.
    pub fn new() -> Self {
        let start = COUNTERS.load(Relaxed);
        let counters: &[AtomicU64] = match WORDS.load(Relaxed) {
            0 => &[],
            // SAFETY: the compiler's counters lie between the two pointers that it gave, for as long as the program runs, and the
            // start was aligned above. Threads that count at the same time can lose a count, no more.
            words => unsafe { std::slice::from_raw_parts(start, words) },
        };
        Coverage { counters, seen: vec![[0; 8]; counters.len()] }
    }

    /// Forgets what was counted since the last time.
    pub fn clear(&self) {
        self.counters.iter().filter(|word| word.load(Relaxed) != 0).for_each(|word| word.store(0, Relaxed));
    }

    /// Whether a branch was taken as often as never before since the counters were cleared.
    pub fn grows(&mut self) -> bool {
        let mut grew = false;
        for (word, seen) in self.counters.iter().zip(&mut self.seen) {
            let word = word.load(Relaxed);
            if word == 0 {
                continue;
            }
            for (count, seen) in word.to_ne_bytes().into_iter().zip(seen) {
                let range = range(count);
                grew |= *seen & range != range;
                *seen |= range;
            }
        }
        grew
    }

    /// Branches taken so far.
    pub fn branches(&self) -> usize {
        self.seen.as_flattened().iter().filter(|&&seen| seen != 0).count()
    }
}

/// The bit of the range in which a count lies; none for 0.
fn range(count: u8) -> u8 {
    match count {
        0 => 0,
        1..=3 => 1 << (count - 1),
        4..=7 => 1 << 3,
        8..=15 => 1 << 4,
        16..=31 => 1 << 5,
        32..=127 => 1 << 6,
        128.. => 1 << 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use super::{Coverage, range};

    #[test]
    fn ranges_are_apart() {
        let ranges: Vec<u8> = [1, 2, 3, 4, 8, 16, 32, 128].map(range).to_vec();
        assert_eq!(ranges, [1, 2, 4, 8, 16, 32, 64, 128]);
        assert_eq!([0, 7, 15, 31, 127, 255].map(range), [0, 8, 16, 32, 64, 128]);
    }

    #[test]
    fn a_branch_and_a_higher_count_of_it_are_new_once() {
        static COUNTERS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
        let mut coverage = Coverage { counters: &COUNTERS, seen: vec![[0; 8]; 2] };
        assert!(!coverage.grows());
        let mut takes = |counts: [u8; 8]| {
            coverage.clear();
            COUNTERS[1].store(u64::from_ne_bytes(counts), Relaxed);
            (coverage.grows(), coverage.branches())
        };
        assert_eq!(takes([0, 1, 0, 0, 0, 0, 0, 0]), (true, 1));
        assert_eq!(takes([0, 1, 0, 0, 0, 0, 0, 0]), (false, 1));
        assert_eq!(takes([0, 9, 0, 0, 0, 0, 0, 0]), (true, 1));
        assert_eq!(takes([0, 15, 0, 0, 0, 0, 0, 1]), (true, 2));
        assert_eq!(takes([0, 8, 0, 0, 0, 0, 0, 1]), (false, 2));
    }
}
