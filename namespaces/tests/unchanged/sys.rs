//! An allocator that ends whoever allocates in a child that shares this process's memory.
#![allow(unsafe_code, reason = "an allocator is")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

pub(crate) struct DiesInTheChild;

static OWNER: AtomicI32 = AtomicI32::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// From now on this process alone may allocate.
pub(crate) fn arm() {
    OWNER.store(getpid(), Ordering::SeqCst);
}

/// How often that was looked at.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::SeqCst)
}

fn getpid() -> i32 {
    // SAFETY: the call has no arguments.
    unsafe { libc::syscall(libc::SYS_getpid) as i32 }
}

fn check() {
    let owner = OWNER.load(Ordering::Relaxed);
    if owner != 0 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        if getpid() != owner {
            // SAFETY: ends this process at once, without anything of the shared memory being touched.
            unsafe { libc::syscall(libc::SYS_exit_group, 86) };
        }
    }
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for DiesInTheChild {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The THP flag of this process, by `PR_GET_THP_DISABLE`.
pub(crate) fn thp_disable() -> i32 {
    // SAFETY: the call reads no memory.
    unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) }
}

/// What every signal does, by rt_sigaction(2).
pub(crate) fn dispositions() -> Vec<[u64; 4]> {
    let one = |signal: i32| {
        let mut action = [0u64; 4];
        let (new, old) = (std::ptr::null::<u64>(), action.as_mut_ptr());
        // SAFETY: without a new action the call only writes the old one, as large as the kernel's.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, 8) };
        action
    };
    (1..=64).map(one).collect()
}
