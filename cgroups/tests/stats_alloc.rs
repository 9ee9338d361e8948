//! What a sample, a watch and a pressure file cost in allocations: none.
#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as well")]

#[allow(
    unused_macros,
    unused_imports,
    reason = "not every test binary uses all of it"
)]
mod support;
#[path = "stats_alloc/sys.rs"]
mod sys;

use std::time::Duration;

use cofferdam_cgroups::{Limits, Resource};
use cofferdam_testkit::{Need, have};
use support::{Scene, have_controllers};

#[global_allocator]
static COUNTING: sys::Counting = sys::Counting;

/// How many allocations it makes.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = sys::count();
    work();
    sys::count() - before
}

#[test]
fn allocations_are_counted() {
    assert_eq!(allocations(|| drop(Box::new(1_u8))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn no_sample_after_the_first_allocates() {
    if !have_controllers(&["memory", "pids", "cpu"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(64 << 20).pids_max(8).cpus(0.5));
    let mut stats = cgroup.stats().unwrap();
    let first = stats.sample().unwrap();
    assert!(first.cpu.is_some() && first.memory.is_some() && first.pids.is_some());
    let more = allocations(|| {
        for _ in 0..1000 {
            stats.sample().unwrap();
        }
    });
    assert_eq!(more, 0);
    cgroup.remove().unwrap();
}

#[test]
fn neither_does_a_pressure_file_or_a_watch() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let mut stats = cgroup.stats().unwrap();
    stats.pressure(Resource::Cpu).unwrap();
    let mut watch = cgroup.watch_state().unwrap();
    let more = allocations(|| {
        stats.pressure(Resource::Cpu).unwrap();
        watch.wait(Duration::from_millis(3)).unwrap();
    });
    assert_eq!(more, 0);
    cgroup.remove().unwrap();
}
