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
//! Programs can be started [in a container that runs](Command::enter), and in namespaces [of others](Namespaces::join).
//!
//! # What a program may do
//!
//! Unless told otherwise, what one in a Docker container may: its [`Capabilities`], its system call filter ([`Seccomp`]), its
//! masks of `/proc` and `/sys`, no_new_privs, a session of its own. Each has its way to ask for more, or for less.
//!
//! # Privileges
//!
//! Root, or `CAP_SYS_ADMIN`, `CAP_SETPCAP` and `CAP_SETGID` in the caller's user namespace. Without them
//! [`Command::id_map`] makes a user namespace in which the program is root, where the machine allows that: with the caller's
//! own ids alone, or with those that `/etc/subuid` delegates to it ([`IdMap::subordinate`]). For the latter `newuidmap` and
//! `newgidmap` are run, the only programs beside the one that is asked for.
//!
//! # Kernel support
//!
//! Linux 5.12 on x86_64 or aarch64, with seccomp filters: openat2 (5.6), setns(2) of a pidfd (5.8), close_range with
//! `CLOSE_RANGE_CLOEXEC` (5.11), mount_setattr (5.12). Where a sandbox refuses clone3(2) or executable memfds, others take
//! their place, as [`Spawned::applied`] says. A call that is missing is an error of kind
//! [`Unsupported`](ErrorKind::Unsupported); on other architectures every start is.
//! Tested on 6.1 and 6.18; on aarch64 on 6.1, and on 6.12 with pages of 16 KiB.
//!
//! # What it changes on the host
//!
//! Nothing, but for empty directories and files that mounts need as targets, where the root is a directory that lacks
//! them and is not read-only. The caller's process keeps one fd after its first start with a root: a mount namespace
//! with one empty tmpfs, which is copied for each start instead of the caller's, however many mounts that has. What the
//! program mounts in a [`shared`](Mount::shared) bind mount is mounted on the host.
//!
//! # Cleanup
//!
//! All namespaces and mounts end with the last process in them. Dropping a [`Spawned`] kills the program; a caller that
//! is killed leaves it running.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod applied;
mod attributes;
mod beside;
mod capabilities;
mod command;
mod compile;
mod error;
mod fds;
mod idmap;
mod label;
#[cfg(feature = "landlock")]
mod landlock;
mod lifeline;
mod lines;
mod minimal;
mod mount;
mod namespace;
mod personality;
mod plan;
mod pool;
mod program;
mod rlimit;
mod scheduling;
mod seccomp;
mod securebits;
mod sources;
mod spawn;
mod spawned;
mod stage1;
mod stdio;
mod stub;
mod sys;
mod sysctl;
mod terminal;
mod user;
mod userns;

pub use applied::{Applied, CgroupEntry, CloneCall, MountOrigin, StubFile};
pub use capabilities::{Capabilities, CapabilitySets};
pub use caps::Capability;
pub use command::{Command, Session};
pub use error::{Error, ErrorKind, Result};
pub use idmap::IdMap;
#[cfg(feature = "landlock")]
#[cfg_attr(docsrs, doc(cfg(feature = "landlock")))]
pub use landlock::{AccessFs, AccessNet, BitFlags, Enforced, Landlock, LandlockAbi, Scope};
pub use mount::{Device, HidePid, Mount, Proc, RootFs};
pub use namespace::{Clock, Namespace, Namespaces};
pub use personality::Personality;
pub use pool::NetPool;
pub use program::Program;
pub use rlimit::Rlimit;
pub use scheduling::{IoPriority, Scheduler};
pub use seccomp::{Action, Arch, Condition, Filter, Instruction, Rule, Seccomp, Syscall};
pub use securebits::SecureBits;
pub use spawned::Spawned;
pub use stdio::Stdio;
pub use terminal::Terminal;
pub use user::User;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
