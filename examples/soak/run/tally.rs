//! What was done, which errors came, and who is at what.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::explained;

#[derive(Debug)]
pub(super) struct Tally {
    /// Nobody begins anything more.
    pub(super) over: AtomicBool,
    at: Vec<Mutex<At>>,
    done: Mutex<BTreeMap<&'static str, u64>>,
    explained: Mutex<BTreeMap<&'static str, u64>>,
    failures: Mutex<Vec<String>>,
    /// As many end it.
    most: u64,
}

/// What a thread is at, since when.
#[derive(Clone, Copy, Debug)]
enum At {
    Work(&'static str, Instant),
    Done,
}

impl Tally {
    pub(super) fn new(threads: u64, most: u64) -> Self {
        let start = || Mutex::new(At::Work("start a thread", Instant::now()));
        Tally {
            over: AtomicBool::new(false),
            at: (0..threads).map(|_| start()).collect(),
            done: Mutex::default(),
            explained: Mutex::default(),
            failures: Mutex::default(),
            most,
        }
    }

    pub(super) fn begin(&self, thread: u64, operation: &'static str) {
        self.set(thread, At::Work(operation, Instant::now()));
        *lock(&self.done).entry(operation).or_default() += 1;
    }

    pub(super) fn end(&self, thread: u64) {
        self.set(thread, At::Done);
    }

    fn set(&self, thread: u64, at: At) {
        let thread = usize::try_from(thread).unwrap_or(usize::MAX);
        if let Some(cell) = self.at.get(thread) {
            *lock(cell) = at;
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || lock(&self.failures).len() as u64 >= self.most
    }

    pub(super) fn operations(&self) -> u64 {
        lock(&self.done).values().sum()
    }

    pub(super) fn working(&self) -> usize {
        let working = |at: &&Mutex<At>| matches!(*lock(at), At::Work(..));
        self.at.iter().filter(working).count()
    }

    pub(super) fn longer_than(&self, time: Duration) -> Option<String> {
        self.at.iter().enumerate().find_map(|(thread, at)| {
            let At::Work(operation, since) = *lock(at) else {
                return None;
            };
            (since.elapsed() > time).then(|| format!("{operation} of thread {thread}"))
        })
    }

    /// What came of it, if it did; an error without an explanation ends the soak.
    pub(super) fn check<T>(&self, step: &'static str, result: cofferdam::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                match explained::why(step, &error) {
                    Some(why) => *lock(&self.explained).entry(why).or_default() += 1,
                    None => self.fail(format!("{step}: {:?}: {error}", error.kind())),
                }
                None
            }
        }
    }

    /// Something is not as it should be.
    pub(super) fn fail(&self, what: impl Into<String>) {
        let at = std::thread::current();
        let what = format!("{}: {}", at.name().unwrap_or_default(), what.into());
        eprintln!("soak: {what}");
        lock(&self.failures).push(what);
    }

    pub(super) fn expect(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what());
        }
    }

    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.failures).first().cloned()
    }

    pub(super) fn print(&self) {
        println!("{} operations:", self.operations());
        for (operation, count) in &*lock(&self.done) {
            println!("  {count:8} {operation}");
        }
        let explained = lock(&self.explained);
        let errors: u64 = explained.values().sum();
        println!("{errors} errors, all of them explained:");
        for (why, count) in &*explained {
            println!("  {count:8} {why}");
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
