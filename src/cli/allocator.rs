//! Out of memory: the process ends with a message and an exit code.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;

use super::INTERNAL;
use super::end::end;

/// The system's allocator, which ends the process when there is no memory. For a program's `#[global_allocator]`.
pub struct OrExit;

// SAFETY: every call is passed on to the system's allocator as it came, and its result is given back unless it is null,
// in which case the call does not return.
unsafe impl GlobalAlloc for OrExit {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        or_exit(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the same there.
        or_exit(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `realloc`, which is the same there.
        or_exit(unsafe { System.realloc(old, layout, size) }, size)
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, which is the same there.
        unsafe { System.dealloc(old, layout) }
    }
}

fn or_exit(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        let mut message = [0; 128];
        let mut rest = &mut message[..];
        let _ = writeln!(rest, "error: out of memory allocating {size} bytes; lower --samples or --seq-len");
        let unused = rest.len();
        end(&message[..message.len() - unused], INTERNAL)
    }
    memory
}
