//! Starts programs in Linux namespaces from threaded processes of any size, as a library call.
//!
//! ```no_run
//! use cofferdam_namespaces::{Command, Mount, RootFs, Stdio};
//!
//! let out = Command::new("/bin/sh")
//!     .args(["-c", "id; hostname; ls /tmp"])
//!     .root(RootFs::directory("/srv/debian").read_only())
//!     .mount(Mount::tmpfs("/tmp", 64 << 20))
//!     .hostname("box")
//!     .stdout(Stdio::piped())
//!     .spawn()? // about a millisecond later the shell runs
//!     .output()?;
//! assert!(out.status.success());
//! # Ok::<(), cofferdam_namespaces::Error>(())
//! ```
//!
//! # How a start works
//!
//! A [`Command`] compiles to a [`Program`]: a flat list of syscalls. clone3(2) with `CLONE_VM` makes a child that costs the
//! same whatever the caller's size. While it shares the caller's memory it only puts its fds in order and executes the
//! *stub*: a few hundred bytes in a sealed memfd, which run the program in a memory of their own and end in the
//! execve(2) of what was asked for. No libc, no lock and no allocation is touched in between, no monitor process stays
//! behind, and nothing of the caller changes: not its working directory, umask, dumpable flag, signal handlers.
//!
//! # Privileges
//!
//! Root, or `CAP_SYS_ADMIN`, `CAP_SETPCAP` and `CAP_SETGID` in the caller's user namespace. Without them
//! [`Command::id_map`] makes a user namespace in which the program is root, where the machine allows that.
//!
//! # Kernel support
//!
//! Linux 5.12 on x86_64: clone3 (5.3), openat2 (5.6), `CLONE_INTO_CGROUP` (5.7), close_range (5.9), mount_setattr (5.12).
//! What is missing is an error of kind [`Unsupported`](ErrorKind::Unsupported). Tested on 6.1 and 6.18.
//!
//! # What it changes on the host
//!
//! Nothing, but for empty directories and files that mounts need as targets, where the root is a directory that lacks
//! them and is not read-only.
//!
//! # Cleanup
//!
//! All namespaces and mounts end with the last process in them. Dropping a [`Spawned`] kills the program; a caller that
//! is killed leaves it running.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod capabilities;
mod command;
mod compile;
mod error;
mod fds;
mod idmap;
mod mount;
mod namespace;
mod program;
mod spawn;
mod spawned;
mod stage1;
mod stdio;
mod stub;
mod sys;

pub use capabilities::Capabilities;
pub use caps::Capability;
pub use command::Command;
pub use error::{Error, ErrorKind, Result};
pub use idmap::IdMap;
pub use mount::{Mount, RootFs};
pub use namespace::{Namespace, Namespaces};
pub use program::Program;
pub use spawned::Spawned;
pub use stdio::Stdio;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
