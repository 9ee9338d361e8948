//! Typed cgroup v2 limits, with a v1 fallback for hybrid machines.
//!
//! ```no_run
//! use std::process::Command;
//!
//! use cofferdam_cgroups::{CgroupName, Hierarchy, Limits};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let limits = Limits::new().memory_max(64 << 20).pids_max(64).cpus(0.5);
//!     let cgroup = Hierarchy::detect()?.create(&CgroupName::new("web-1")?, &limits)?;
//!
//!     let mut child = Command::new("sleep").arg("60").spawn()?;
//!     cgroup.add(child.id())?; // or, a hundred times faster, start it there: `cgroup.entry()`
//!     println!("{} bytes in use", cgroup.memory_current()?);
//!
//!     cgroup.kill()?; // all of it, at once
//!     child.wait()?;
//!     cgroup.remove()?; // waits until it is empty
//!     Ok(())
//! }
//! ```
//!
//! A new process is best born in its cgroup: [`Entry`] has the directory fd for clone3(2) with `CLONE_INTO_CGROUP`,
//! which costs 0.1 ms where moving a running process waits about 10 ms for an RCU grace period. On a hybrid machine the
//! new process also writes `0` into a few fds.
//!
//! What a cgroup uses is read by [`Stats`], from files kept open; [`Cgroup::pressure`] says what its processes wait for.
//! What the kernel tells by itself has an fd, for any event loop, and a `wait`: [`Watch`] for processes that come and go,
//! freezes, OOM kills and failed forks, [`PressureTrigger`] for pressure.
//!
//! # Privileges
//!
//! Root in the initial user namespace; or write access to a delegated v2 cgroup, given to
//! [`Hierarchy::create_in`]. Who lacks it gets [`ErrorKind::PermissionDenied`] with the path.
//!
//! What an ordinary user needs is a cgroup that was given to it: by [`Cgroup::delegate_to`], by a unit of systemd with
//! `Delegate=yes` (with the feature `systemd` a scope can be asked for), or by a container with a writable mount. A
//! process that is in it itself divides it first: [`Hierarchy::own_subtree`]. [`Devices`] need capabilities in the initial
//! user namespace.
//!
//! # Kernel support
//!
//! cgroup v2 with Linux 5.14 for all of it. What older kernels lack is tried, not guessed from a version:
//! `cgroup.kill` (5.14) is replaced by freezing and signalling by pidfd, openat2(2) (5.6) by an openat(2) for each
//! component. `CLONE_INTO_CGROUP` is Linux 5.7. A limit whose file the kernel has not is [`ErrorKind::Unsupported`]; its
//! method says which kernel is the first.
//!
//! Statistics that a kernel does not have are `None`; what cannot be done without it is [`ErrorKind::Unsupported`] naming
//! it: freezing (5.2), `memory.peak` (5.19), `pids.peak` and the switch for pressure (6.1), resetting a [`Peak`] (6.12).
//!
//! On a machine where v1 hierarchies have the controllers ([`Mode::Hybrid`], [`Mode::V1`]) the same limits are written
//! there, into one directory for each hierarchy used; kill and [`Entry::dir`] use the v2 directory where there is one.
//! A limit whose controller no hierarchy has, and one that v1 cannot say, is [`ErrorKind::Unsupported`].
//! [`Limits::best_effort`] leaves such limits out and lists them.
//!
//! | | v2 | a cgroup with v1 directories only |
//! |---|---|---|
//! | [`Entry`], [`Cgroup::add`] | `CLONE_INTO_CGROUP`, `cgroup.procs` | `tasks`, `cgroup.procs` of each directory |
//! | [`Cgroup::kill`] | `cgroup.kill` | held still by `freezer.state`, signalled by pidfd |
//! | [`Cgroup::populated`], [`Cgroup::remove`] | `cgroup.events` | `cgroup.procs`, looked at again and again |
//! | [`Cgroup::freeze`] | `cgroup.freeze` | `freezer.state`, if it is in that hierarchy |
//! | [`Cgroup::watch_pids`] | `pids.events` | the same |
//! | [`Cgroup::watch_state`], [`Cgroup::watch_memory`] | `cgroup.events`, `memory.events` | `Unsupported` |
//! | [`Cgroup::pressure`], [`Cgroup::pressure_trigger`] | `cpu.pressure` and so on | `None`, `Unsupported` |
//! | [`Sample::cpu`](field@Sample::cpu) | `cpu.stat` | `cpuacct.usage`, if it has a directory there |
//! | [`Cgroup::memory_peak`] | `memory.peak`, reset for one reader | `memory.max_usage_in_bytes`, reset for all |
//! | [`Cgroup::memory_reclaim`] | `memory.reclaim` | `Unsupported` |
//! | [`Cgroup::set_devices`] | eBPF | `devices.deny`, `devices.allow` |
//! | [`Cgroup::add_thread`] | `cgroup.threads` of a threaded cgroup | `tasks` |
//! | [`Cgroup::delegate_to`], [`Hierarchy::own_subtree`] | yes | `Unsupported` |
//!
//! On a hybrid machine a cgroup has a v2 directory as well, and the middle column holds for all but memory, huge pages and
//! what else v1 has the controller of.
//!
//! # What it changes on the host
//!
//! It makes one directory, below the caller's own cgroup or at the top of the hierarchy
//! ([`Hierarchy::create`] says when), on a hybrid machine one in each hierarchy used. In v2 it enables the controllers
//! that the limits need in `cgroup.subtree_control` of the levels above, where they are not yet. A device policy is a
//! program attached to the cgroup, which goes with it. Only [`Hierarchy::own_subtree`] moves processes that were not
//! given, and [`Cgroup::delegate_to`] changes owners. Nothing else: no mount.
//!
//! # Cleanup
//!
//! [`Cgroup::remove`] removes the directories and those inside them, and says how it went; dropping a [`Cgroup`] does
//! the same if it is empty; [`Cgroup::persist`] keeps it. What a killed process left is found by
//! [`Hierarchy::find`], by the prefix of its names, and taken up by [`Hierarchy::open`]. Controllers stay enabled.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod apply;
mod cgroup;
mod controller;
#[cfg(any(feature = "oci", feature = "cgroups-rs"))]
mod convert;
mod delegate;
mod device;
mod devices;
mod dir;
mod entry;
mod error;
mod freeze;
mod hierarchy;
mod io_cost;
mod kill;
mod level;
mod limits;
mod member;
mod mount;
mod mountinfo;
mod name;
mod peak;
mod place;
mod pressure;
mod reclaim;
mod site;
mod stat;
mod stats;
mod subtree;
mod sys;
#[cfg(feature = "systemd")]
#[cfg_attr(docsrs, doc(cfg(feature = "systemd")))]
pub mod systemd;
mod threads;
mod wait;
mod watch;

pub use apply::Skipped;
pub use cgroup::Cgroup;
pub use device::Device;
pub use devices::{DeviceAccess, DeviceKind, DeviceRule, Devices};
pub use entry::Entry;
pub use error::{Error, ErrorKind, Result};
pub use hierarchy::{Hierarchy, Mode};
pub use io_cost::{IoCostModel, IoCostQos};
pub use limits::{CpuSet, HugePage, IoMax, Limits, Max, Partition};
pub use name::CgroupName;
pub use peak::Peak;
pub use pressure::{Pressure, PressureTrigger, Resource, Share, Stall};
pub use reclaim::Reclaimed;
pub use stats::{
    CpuTime, DeviceIo, HugetlbUse, IoCount, MemoryEvents, MemoryStat, MemoryUse, PidsUse, Sample,
    Stats, SwapUse, Throttling,
};
pub use subtree::{Others, OwnSubtree};
pub use watch::{PidsEvents, State, Watch, Watched};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
