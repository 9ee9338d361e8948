//! Fixtures for the suite's tests: what a test needs, namespaces of its own, and a count of what is left.
//!
//! Fixtures panic where they cannot do their work: a test that cannot set up or clean up has failed.

mod need;
mod netns;
mod snapshot;
mod sys;

pub use need::{Need, have};
pub use netns::{NetNs, in_mount_namespace};
pub use snapshot::Snapshot;
