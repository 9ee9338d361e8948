//! What became of a container's queries.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many queries a container has asked, and what became of them: [`Endpoint::counters`](crate::Endpoint::counters)
/// reads it. Each query is counted once in [`queries`](Self::queries) and once in one of the other fields, but for those in
/// [`failed`](Self::failed) that were forwarded before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages that came, whatever they held.
    pub queries: u64,
    /// Answered from a zone, with or without records.
    pub local: u64,
    /// Sent to an upstream, or answered with what one had said before where [answers are kept](crate::Cache).
    pub forwarded: u64,
    /// Answered with NXDOMAIN, for the container's network is [internal](crate::Scope::internal).
    pub denied: u64,
    /// Answered with SERVFAIL: of those forwarded, the ones that no upstream answered, or answered so; and the ones beyond
    /// [the limits](crate#limits).
    pub failed: u64,
    /// Not plain queries: answered with FORMERR, NOTIMP, REFUSED or BADVERS, or with nothing.
    pub malformed: u64,
}

/// The same, while the server's thread counts. Nobody else writes.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) queries: Count,
    pub(crate) local: Count,
    pub(crate) forwarded: Count,
    pub(crate) denied: Count,
    pub(crate) failed: Count,
    pub(crate) malformed: Count,
}

#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// One more, by the one thread that counts.
    pub(crate) fn up(&self) {
        self.0.store(self.now() + 1, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    pub(crate) fn now(&self) -> Counters {
        Counters {
            queries: self.queries.now(),
            local: self.local.now(),
            forwarded: self.forwarded.now(),
            denied: self.denied.now(),
            failed: self.failed.now(),
            malformed: self.malformed.now(),
        }
    }
}
