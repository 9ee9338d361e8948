//! Fixtures for the suite's tests: what a test needs, namespaces of its own, and a count of what is left.
//!
//! Fixtures panic where they cannot do their work: a test that cannot set up or clean up has failed.

mod children;
mod command;
mod module;
mod need;
mod netns;
mod refuse;
mod snapshot;
mod sys;

pub use children::{ignore_children, leave_no_zombies};
pub use command::as_root_of_a_user_namespace;
pub use module::load_module;
pub use need::{Need, have, is_emulated, skip, turns};
pub use netns::{NetNs, in_mount_namespace};
pub use refuse::refuse_syscall;
pub use snapshot::Snapshot;
