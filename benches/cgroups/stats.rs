//! How long one sample takes of what a cgroup with limits on memory, swap, processes and CPU time uses; and how many
//! allocations.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cofferdam_cgroups::{Cgroup, CgroupName, Hierarchy, Limits};

const ID: &str = "cgroup/stats";
const ALLOCATIONS: &str = "cgroup/stats-allocations";
/// Samples in one measurement, of which it is the mean: one alone is not much longer than a look at the clock.
const BATCH: u32 = 10;

pub(crate) fn rows(rounds: usize) {
    let cgroup = cgroup();
    let mut stats = cgroup.stats().unwrap();
    let floor = Floor::new(&cgroup);
    let mut buffer = vec![0; 4096];
    let peer = Peer::new(&cgroup);
    let mut sample = || _ = black_box(stats.sample().unwrap());
    let mut ours = || timed(&mut sample);
    let mut least = || timed(|| floor.sample(&mut buffer));
    let mut theirs = || timed(|| peer.sample());
    let mut sides: [super::Side<'_>; 3] = [
        (ID, "ours", &mut ours),
        (ID, "floor", &mut least),
        (ID, "cgroups-rs", &mut theirs),
    ];
    super::in_turns(rounds, Duration::ZERO, &mut sides);
    super::count_row(ALLOCATIONS, "ours", super::counting::sys::count(sample));
    super::count_row(
        ALLOCATIONS,
        "cgroups-rs",
        super::counting::sys::count(|| peer.sample()),
    );
    cgroup.remove().unwrap();
}

fn cgroup() -> Cgroup {
    let name = format!("cofferdam-bench-{}", std::process::id());
    let limits = Limits::new().memory_max(64 << 20).pids_max(64).cpus(0.5);
    let hierarchy = Hierarchy::detect().unwrap();
    let name = CgroupName::new(name).unwrap();
    hierarchy.create(&name, &limits).unwrap()
}

/// The mean of a batch.
fn timed(mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..BATCH {
        work();
    }
    start.elapsed() / BATCH
}

/// The files that [`cofferdam_cgroups::Stats`] reads, kept open and read, and nothing done with what they say.
struct Floor(Vec<File>);

const V2: [&str; 11] = [
    "cpu.stat",
    "memory.current",
    "memory.peak",
    "memory.events",
    "memory.swap.current",
    "memory.swap.peak",
    "memory.zswap.current",
    "pids.current",
    "pids.peak",
    "pids.events",
    "io.stat",
];

const V1: [&str; 10] = [
    "cpu.stat",
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.failcnt",
    "memory.memsw.failcnt",
    "memory.oom_control",
    "memory.memsw.usage_in_bytes",
    "pids.current",
    "pids.peak",
    "pids.events",
];

impl Floor {
    fn new(cgroup: &Cgroup) -> Self {
        let unified = |dir: &Path| dir.join("cgroup.controllers").exists();
        let opened = cgroup.paths().flat_map(|dir| {
            let names = if unified(dir) { &V2[..] } else { &V1[..] };
            names
                .iter()
                .filter_map(|name| File::open(dir.join(name)).ok())
        });
        Floor(opened.collect())
    }

    fn sample(&self, buffer: &mut [u8]) {
        for file in &self.0 {
            black_box(rustix::io::pread(file, &mut *buffer, 0).unwrap());
        }
    }
}

/// cgroups-rs with the controllers that this is about, as it is in its own examples.
struct Peer(cgroups_rs::fs::Cgroup);

impl Peer {
    fn new(cgroup: &Cgroup) -> Self {
        let name = cgroup.path().file_name().unwrap();
        let hierarchy = cgroups_rs::fs::hierarchies::auto();
        let relative = cgroup
            .paths()
            .filter_map(|path| {
                // `/sys/fs/cgroup/memory/a/b` is `a/b` of `memory`.
                let below = path.strip_prefix("/sys/fs/cgroup").ok()?;
                let mut parts = below.components();
                let controller = parts.next()?.as_os_str().to_str()?.to_owned();
                let parent = parts.as_path().parent()?.to_str()?.to_owned();
                Some((controller, parent))
            })
            .collect();
        if hierarchy.v2() {
            let path = cgroup.path().strip_prefix("/sys/fs/cgroup").unwrap();
            return Peer(cgroups_rs::fs::Cgroup::load(hierarchy, path));
        }
        Peer(cgroups_rs::fs::Cgroup::load_with_relative_paths(
            hierarchy, name, relative,
        ))
    }

    fn sample(&self) {
        let cgroup = &self.0;
        let memory: &MemController = cgroup.controller_of().unwrap();
        black_box(memory.memory_stat());
        black_box(memory.memswap());
        let cpu: &CpuController = cgroup.controller_of().unwrap();
        black_box(cpu.cpu());
        let pids: &PidController = cgroup.controller_of().unwrap();
        black_box(pids.get_pid_current().unwrap());
        black_box(pids.get_pid_events().unwrap());
    }
}
