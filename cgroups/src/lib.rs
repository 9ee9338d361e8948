//! Typed cgroup v2 limits, with a v1 fallback for hybrid machines.
mod cgroup;
mod controller;
mod dir;
mod entry;
mod error;
mod hierarchy;
mod kill;
mod level;
mod limits;
mod member;
mod mount;
mod mountinfo;
mod name;
mod stat;

pub use cgroup::Cgroup;
pub use entry::Entry;
pub use error::{Error, ErrorKind, Result};
pub use hierarchy::{Hierarchy, Mode};
pub use limits::Limits;
pub use name::CgroupName;
