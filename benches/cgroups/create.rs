//! A cgroup's life: made, limited in memory, swap, processes and CPU time, given a process, removed.
//!
//! Two kinds of rows. Back to back, the kernel is still ready for the next move of a process and each is cheap; 50 ms apart
//! (`@50ms`) each move waits for RCU, as it does in a program that does something else in between.
//!
//! On a hybrid machine ours and the floor make four directories, one of them in v2 to kill by; cgroups-rs makes three.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use cgroups_rs::CgroupPid;
use cgroups_rs::fs::cgroup_builder::CgroupBuilder;
use cgroups_rs::fs::{MaxValue, hierarchies};
use cofferdam_cgroups::{CgroupName, Hierarchy, Limits};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::sys::Sleeper;
use crate::{Side, in_turns};

const MEMORY: u64 = 64 << 20;
const PIDS: u32 = 64;
const APART: Duration = Duration::from_millis(50);

pub(crate) fn rows(rounds: usize, rounds_apart: usize) {
    let hierarchy = Hierarchy::detect().unwrap();
    let name = format!("cofferdam-bench-{}", std::process::id());
    let limits = Limits::new().memory_max(MEMORY).pids_max(PIDS).cpus(0.5);
    let floor = Floor::like(&hierarchy, &name, &limits);
    let sleeper = Sleeper::new();
    let pid = sleeper.pid();
    let home = || floor.places.iter().for_each(|place| place.take_back(pid));

    let mut ours = || {
        let name = CgroupName::new(name.as_str()).unwrap();
        twice(
            || {
                let cgroup = hierarchy.create(&name, &limits).unwrap();
                cgroup.add(pid).unwrap();
                cgroup
            },
            home,
            |cgroup| cgroup.remove().unwrap(),
        )
    };
    let mut lowest = || twice(|| floor.create(pid), home, |()| floor.remove());
    let mut theirs = || {
        twice(
            || {
                let cgroup = cgroups_rs(&name);
                cgroup
                    .add_task_by_tgid(CgroupPid::from(u64::from(pid)))
                    .unwrap();
                cgroup
            },
            home,
            |cgroup| cgroup.delete().unwrap(),
        )
    };
    for (id, rounds, pause) in [
        ("cgroup/create4+add+remove", rounds, Duration::ZERO),
        ("cgroup/create4+add+remove@50ms", rounds_apart, APART),
    ] {
        let mut sides: [Side<'_>; 3] = [
            (id, "ours", &mut ours),
            (id, "floor", &mut lowest),
            (id, "cgroups-rs", &mut theirs),
        ];
        in_turns(rounds, pause, &mut sides);
    }
}

/// The time of both halves, without what is between them.
fn twice<T>(first: impl FnOnce() -> T, between: impl FnOnce(), second: impl FnOnce(T)) -> Duration {
    let start = Instant::now();
    let made = first();
    let took = start.elapsed();
    between();
    let start = Instant::now();
    second(made);
    took + start.elapsed()
}

/// With these controllers only: with all of them it takes twice the time.
fn cgroups_rs(name: &str) -> cgroups_rs::fs::Cgroup {
    let hierarchy = hierarchies::auto();
    // Memory and swap together in v1, swap alone in v2.
    let swap = if hierarchy.v2() { 0 } else { MEMORY as i64 };
    CgroupBuilder::new(name)
        .set_specified_controllers(["memory", "pids", "cpu"].map(str::to_owned).into())
        .memory()
        .memory_hard_limit(MEMORY as i64)
        .memory_swap_limit(swap)
        .done()
        .pid()
        .maximum_number_of_processes(MaxValue::Value(PIDS.into()))
        .done()
        .cpu()
        .quota(50_000)
        .period(100_000)
        .done()
        .build(hierarchy)
        .unwrap()
}

/// Raw calls: the same directories as ours, the same files, each opened by its path below a directory that is kept open.
struct Floor {
    name: String,
    places: Vec<Place>,
}

/// One hierarchy.
struct Place {
    parent: OwnedFd,
    home: OwnedFd,
    /// Below the parent, and what to write.
    writes: Vec<(String, String)>,
    procs: String,
}

/// In the order in which the kernel takes them.
const FILES: [&str; 7] = [
    "memory.max",
    "memory.swap.max",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "pids.max",
    "cpu.max",
    "cpu.cfs_quota_us",
];

impl Floor {
    /// Reads off a cgroup of ours what there is to do.
    fn like(hierarchy: &Hierarchy, name: &str, limits: &Limits) -> Self {
        let model = CgroupName::new(name).unwrap();
        let model = hierarchy.create(&model, limits).unwrap();
        let places = model.paths().map(|path| Place::like(path, name)).collect();
        model.remove().unwrap();
        Floor {
            name: name.to_owned(),
            places,
        }
    }

    fn create(&self, pid: u32) {
        let pid = pid.to_string();
        for place in &self.places {
            let mode = Mode::from_raw_mode(0o755);
            rustix::fs::mkdirat(&place.parent, &self.name, mode).unwrap();
            for (file, value) in &place.writes {
                place.write(file, value);
            }
        }
        for place in &self.places {
            place.write(&place.procs, &pid);
        }
    }

    fn remove(&self) {
        for place in &self.places {
            rustix::fs::unlinkat(&place.parent, &self.name, AtFlags::REMOVEDIR).unwrap();
        }
    }
}

impl Place {
    fn like(model: &Path, name: &str) -> Self {
        let parent = model.parent().unwrap();
        let open = |path: &Path, flags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        // A cgroup without limits of this hierarchy has files like these too.
        let limited = |value: &str| !["max", "-1"].contains(&value) && value.len() < 19;
        let writes = FILES.iter().filter_map(|file| {
            let value = fs::read_to_string(model.join(file)).ok()?;
            let value = value.trim_end();
            limited(value).then(|| (format!("{name}/{file}"), value.to_owned()))
        });
        Place {
            parent: open(parent, OFlags::PATH | OFlags::DIRECTORY),
            home: open(&parent.join("cgroup.procs"), OFlags::WRONLY),
            writes: writes.collect(),
            procs: format!("{name}/cgroup.procs"),
        }
    }

    fn write(&self, file: &str, value: &str) {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.parent, file, flags, Mode::empty()).unwrap();
        rustix::io::write(file, value.as_bytes()).unwrap();
    }

    fn take_back(&self, pid: u32) {
        rustix::io::write(&self.home, pid.to_string().as_bytes()).unwrap();
    }
}
