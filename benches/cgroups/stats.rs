//! How long one sample of what a container with limits on memory, swap, processes and CPU time uses takes.

use std::time::{Duration, Instant};

use cofferdam_cgroups::{Cgroup, CgroupName, Hierarchy, Limits};

pub(crate) fn rows(rounds: usize) {
    let cgroup = cgroup();
    let mut ours = || timed(|| assert!(cgroup.memory_current().is_ok()));
    let mut sides: [super::Side<'_>; 1] = [("cgroup/stats", "ours", &mut ours)];
    super::in_turns(rounds, Duration::ZERO, &mut sides);
    cgroup.remove().unwrap();
}

fn cgroup() -> Cgroup {
    let name = format!("cofferdam-bench-{}", std::process::id());
    let limits = Limits::new().memory_max(64 << 20).pids_max(64).cpus(0.5);
    let hierarchy = Hierarchy::detect().unwrap();
    let name = CgroupName::new(name).unwrap();
    hierarchy.create(&name, &limits).unwrap()
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
