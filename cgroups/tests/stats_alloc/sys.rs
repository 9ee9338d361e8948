//! An allocator that counts.
#![expect(unsafe_code, reason = "an allocator is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's, which counts what each thread asks of it.
#[derive(Debug)]
pub(crate) struct Counting;

thread_local! {
    // Initialised as a constant: to count allocates nothing.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has asked for memory so far.
pub(crate) fn count() -> u64 {
    COUNT.get()
}

fn one_more() {
    COUNT.set(COUNT.get() + 1);
}

// SAFETY: all of it is the system's allocator; to count touches a constant-initialised thread-local without Drop only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        one_more();
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` is of this allocator, which is the system's.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        one_more();
        // SAFETY: as above, and the caller keeps to the same contract.
        unsafe { System.realloc(at, layout, size) }
    }
}
