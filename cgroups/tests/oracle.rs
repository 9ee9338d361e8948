//! Random limits, applied by this crate and by cgroups-rs, give the same kernel files. Where cgroups-rs is known to write
//! something else than its fields say, that is tested as such.
#![cfg(feature = "cgroups-rs")]
#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as well")]

mod support;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cgroups_rs::fs::cgroup::Cgroup as Theirs;
use cgroups_rs::fs::{MaxValue, Resources, hierarchies};
use cofferdam_cgroups::{Cgroup, Limits};
use cofferdam_testkit::{Need, have};
use support::{Scene, is_unified};

const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuset"];

/// Of v2 and of v1: what the limits below are written to.
const FILES: [&str; 13] = [
    "memory.max",
    "memory.low",
    "memory.swap.max",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "pids.max",
    "cpu.max",
    "cpu.weight",
    "cpu.shares",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpuset.cpus",
    "cpuset.mems",
];

const CASES: u32 = 40;

fn here() -> bool {
    let controllers = CONTROLLERS.map(|name| match is_unified() {
        true => Need::Cgroup2Controller(name),
        false => Need::Cgroup1Controller(name),
    });
    have(&[Need::Root]) && have(&controllers)
}

/// xorshift64: a seed gives the same case again.
struct Random(u64);

impl Random {
    /// A failure names the seed; `COFFERDAM_SEED` takes it.
    fn new() -> Self {
        let given = env::var("COFFERDAM_SEED").ok();
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = given.map_or_else(|| now().as_nanos() as u64 | 1, |seed| seed.parse().unwrap());
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn within(&mut self, least: u64, most: u64) -> i64 {
        // Small and large numbers are as likely.
        let span = (most - least + 1) >> (self.next() % 16);
        i64::try_from(least + self.next() % span.max(1)).unwrap()
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next() % n == 0
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (!self.one_in(3)).then(|| value(self))
    }
}

/// Limits that both take to mean the same.
fn resources(random: &mut Random) -> Resources {
    let mut all = Resources::default();
    all.memory.memory_hard_limit = random.maybe(|random| match random.one_in(8) {
        true => -1,
        false => random.within(64 << 10, 4 << 30),
    });
    let hard = all.memory.memory_hard_limit.filter(|bytes| *bytes > 0);
    if is_unified() {
        all.memory.memory_soft_limit = random.maybe(|random| random.within(0, 1 << 30));
    } else {
        // On v2 cgroups-rs writes the total as it is: tested below.
        all.memory.memory_swap_limit =
            hard.and_then(|hard| random.maybe(|random| hard + random.within(0, 1 << 30)));
        all.cpu.shares = random.maybe(|random| random.within(2, 1 << 18).unsigned_abs());
    }
    all.pid.maximum_number_of_processes = random.maybe(|random| match random.one_in(8) {
        true => MaxValue::Max,
        false => MaxValue::Value(random.within(1, 4 << 20)),
    });
    all.cpu.period = random.maybe(|random| random.within(1000, 1_000_000).unsigned_abs());
    all.cpu.quota = random.maybe(|random| match random.one_in(8) {
        true => -1,
        false => random.within(1000, 2_000_000),
    });
    all.cpu.cpus = random.maybe(|_| "0".to_owned());
    all.cpu.mems = random.maybe(|_| "0".to_owned());
    all
}

/// The cgroup of cgroups-rs, with these resources.
fn theirs(name: &str, resources: &Resources) -> Theirs {
    let controllers = CONTROLLERS.map(str::to_owned).to_vec();
    let hierarchy = hierarchies::auto();
    let cgroup = Theirs::new_with_specified_controllers(hierarchy, name, Some(controllers));
    let cgroup = cgroup.unwrap();
    cgroup.apply(resources).unwrap();
    cgroup
}

fn their_paths(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let roots = [""].into_iter().chain(CONTROLLERS);
    let paths = roots.map(|mount| root.join(mount).join(name));
    paths.filter(|path| path.is_dir()).collect()
}

/// What the files say, of those that are there.
fn texts<'p>(paths: impl Iterator<Item = &'p Path>) -> Vec<(&'static str, String)> {
    let paths: Vec<_> = paths.collect();
    let read = |file: &&'static str| {
        let mut texts = paths
            .iter()
            .filter_map(|path| fs::read_to_string(path.join(file)).ok());
        Some((*file, texts.next()?))
    };
    FILES.iter().filter_map(read).collect()
}

/// Applies the same to both and gives what the kernel says of each: ours, theirs.
fn both(scene: &Scene, resources: &Resources) -> [Vec<(&'static str, String)>; 2] {
    // A file of a controller that ours does not need is not there.
    let limits = Limits::try_from(resources).unwrap();
    let ours: Cgroup = scene.create(limits);
    let name = scene.name();
    let theirs = theirs(name.as_str(), resources);
    let paths = their_paths(name.as_str());
    let ours_read = texts(ours.paths());
    let mut theirs_read = texts(paths.iter().map(PathBuf::as_path));
    theirs_read.retain(|(file, _)| ours_read.iter().any(|(known, _)| known == file));
    theirs.delete().unwrap();
    ours.remove().unwrap();
    assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    [ours_read, theirs_read]
}

#[test]
fn the_same_limits_give_the_same_files() {
    if !here() {
        return;
    }
    let scene = Scene::new();
    let mut random = Random::new();
    let mut compared = 0;
    for _ in 0..CASES {
        let seed = random.0;
        let resources = resources(&mut random);
        let [ours, theirs] = both(&scene, &resources);
        assert_eq!(ours, theirs, "COFFERDAM_SEED={seed}: {resources:?}");
        compared += ours.len();
    }
    assert!(compared > CASES as usize, "{compared} files");
}

fn one<'t>(texts: &'t [(&'static str, String)], file: &str) -> &'t str {
    let found = texts.iter().find(|(known, _)| *known == file);
    found.unwrap().1.trim_end()
}

#[test]
fn swap_on_v2_is_the_total_without_memory_where_cgroups_rs_takes_the_total() {
    if !is_unified() || !here() {
        return;
    }
    let scene = Scene::new();
    let mut resources = Resources::default();
    resources.memory.memory_hard_limit = Some(64 << 20);
    resources.memory.memory_swap_limit = Some(96 << 20);
    let [ours, theirs] = both(&scene, &resources);
    assert_eq!(one(&ours, "memory.max"), one(&theirs, "memory.max"));
    assert_eq!(one(&ours, "memory.swap.max"), "33554432");
    assert_eq!(one(&theirs, "memory.swap.max"), "100663296");
}

#[test]
fn shares_on_v2_are_converted_where_cgroups_rs_takes_them_for_a_weight() {
    if !is_unified() || !here() {
        return;
    }
    let scene = Scene::new();
    let mut resources = Resources::default();
    resources.cpu.shares = Some(1024);
    let [ours, theirs] = both(&scene, &resources);
    assert_eq!(one(&ours, "cpu.weight"), "39");
    assert_eq!(one(&theirs, "cpu.weight"), "1024");
}

#[test]
fn what_cgroups_rs_swallows_is_refused() {
    if !here() {
        return;
    }
    let scene = Scene::new();
    let faults: [fn(&mut Resources); 3] = [
        |all| all.memory.memory_hard_limit = Some(-7),
        |all| all.cpu.cpus = Some("0-4096".to_owned()),
        |all| {
            let attrs = &mut all.memory.attrs;
            attrs.insert("memory.doesnotexist".to_owned(), "1".to_owned());
        },
    ];
    for fault in faults {
        let mut resources = Resources::default();
        fault(&mut resources);
        let name = scene.name();
        // It says that all is well.
        theirs(name.as_str(), &resources).delete().unwrap();
        let ours = Limits::try_from(&resources)
            .and_then(|limits| scene.hierarchy.create(&scene.name(), &limits));
        assert!(ours.is_err(), "{resources:?}");
    }
    assert!(scene.left().is_empty());
}
