//! The soak itself: a world, threads that work in it, and a look at what is left.

mod explained;
mod files;
mod life;
mod making;
mod networks;
mod random;
mod tally;
mod worker;
mod world;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam::{ContainerBuilder, Network};
use cofferdam_testkit::{NetNs, Snapshot};

use tally::Tally;
use worker::Worker;
use world::World;

/// Longer takes nothing, however slow the machine.
const HANGS: Duration = Duration::from_secs(20);
const REPORT: Duration = Duration::from_secs(10);

/// How long, how many at once, and which random numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) seconds: u64,
    pub(crate) threads: u64,
    pub(crate) seed: u64,
    /// So many failures end it.
    pub(crate) failures: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            seconds: 60,
            threads: 8,
            seed: 1,
            failures: 1,
        }
    }
}

/// All of it, in a network namespace of its own.
pub(crate) fn soak(settings: &Settings) -> Result<(), String> {
    let told = |failure: String| format!("{failure} (seed {})", settings.seed);
    NetNs::new().run(|| in_namespace(settings).map_err(told))
}

fn in_namespace(settings: &Settings) -> Result<(), String> {
    let tally = Tally::new(settings.threads, settings.failures);
    warm_up()?;
    let before = Has::now()?;
    let world = World::new()?;
    println!("at first: {}", before.counts());
    thread::scope(|scope| {
        for number in 0..settings.threads {
            let (world, tally) = (&world, &tally);
            let builder = thread::Builder::new().name(format!("soak-{number}"));
            let work = move || Worker::new(world, tally, settings.seed, number).work();
            if let Err(error) = builder.spawn_scoped(scope, work) {
                tally.end(number);
                tally.fail(format!("spawn a thread: {error}"));
            }
        }
        watch(settings, &world, &tally);
    });
    println!("with all there is: {}", Has::now()?.counts());
    world.remove(&tally);
    tally.print();
    let left = before.same();
    tally.failure().map_or(left, Err)
}

/// What is made once and kept, the first start makes.
fn warm_up() -> Result<(), String> {
    let tally = Tally::new(0, 1);
    let world = World::new()?;
    Worker::new(&world, &tally, 0, 0).talk();
    // The kernel may have to load what networks take, which several at once can be refused for.
    let network = Network::bridge("first").runtime_dir(world.runtime());
    let network = tally.check("warm up", network.create());
    let first = world.container("first").command("sleep").arg("9");
    let running = network
        .iter()
        .fold(first, ContainerBuilder::network)
        .start();
    if let Some(running) = tally.check("warm up", running) {
        let status = tally.check("exec", running.exec("sleep").arg("0").status());
        tally.expect(status.is_some_and(|status| status.success()), || {
            "warm up: it does not end well".to_owned()
        });
        tally.check("remove", running.remove());
    }
    network.and_then(|network| tally.check("remove network at the end", network.remove()));
    world.remove(&tally);
    tally.failure().map_or(Ok(()), Err)
}

/// Until it is over: reports, and ends the process where a thread does not come back.
fn watch(settings: &Settings, world: &World, tally: &Tally) {
    let start = Instant::now();
    let (mut reported, mut done) = (start, 0);
    while start.elapsed().as_secs() < settings.seconds && !tally.is_over() {
        thread::sleep(Duration::from_millis(50));
        guard(settings, world, tally);
        if reported.elapsed() >= REPORT {
            let all = tally.operations();
            let speed = (all - done) as f64 / reported.elapsed().as_secs_f64();
            (reported, done) = (Instant::now(), all);
            println!(
                "{:4} s: {all} operations, {speed:.0} a second, {} containers, {}",
                start.elapsed().as_secs(),
                world.containers(),
                Counts::now()
            );
        }
    }
    tally.over.store(true, Ordering::Relaxed);
    while tally.working() > 0 {
        thread::sleep(Duration::from_millis(10));
        guard(settings, world, tally);
    }
}

fn guard(settings: &Settings, world: &World, tally: &Tally) {
    if let Some(hanging) = tally.longer_than(HANGS) {
        let failures = tally.failure().unwrap_or_default();
        eprintln!(
            "soak: {hanging} takes longer than {HANGS:?} (seed {}) {failures}",
            settings.seed
        );
        for line in stacks() {
            eprintln!("  {line}");
        }
        // Whoever hangs cannot be waited for, and what is left runs on.
        world.kill();
        std::process::exit(1);
    }
}

/// Where each thread is in the kernel.
fn stacks() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let of = |file: &str, task: &std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        text.trim().replace('\n', " ")
    };
    tasks
        .flatten()
        .map(|task| {
            let [name, wait, call] = ["comm", "wchan", "syscall"].map(|file| of(file, &task));
            format!("{name}: {wait} ({call}) {}", of("stack", &task))
        })
        .filter(|line| line.starts_with("soak-"))
        .collect()
}

/// What of the kernel and this process there is.
struct Has {
    snapshot: Snapshot,
    rules: bool,
    threads: usize,
    counts: Counts,
}

impl Has {
    fn now() -> Result<Self, String> {
        let rules = cofferdam::portmap::Portmap::open("cofferdam").and_then(|p| p.exists());
        Ok(Has {
            snapshot: Snapshot::take(),
            rules: rules.map_err(|error| error.to_string())?,
            threads: threads(),
            counts: Counts::now(),
        })
    }

    fn counts(&self) -> String {
        let Snapshot { links, mounts, .. } = &self.snapshot;
        format!(
            "{}, {} links, {} mounts, rules: {}",
            self.counts,
            links.len(),
            mounts.len(),
            self.rules
        )
    }

    /// Links of dead namespaces, and threads that were thrown away, may be listed a moment longer.
    fn same(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = Has::now()?;
            let left = self.left(&now);
            if left.is_empty() {
                println!("at last: {}; nothing is left", now.counts());
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("left at the end: {}", left.join(", ")));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn left(&self, now: &Has) -> Vec<String> {
        let (before, after) = (&self.snapshot, &now.snapshot);
        let mut left = Vec::new();
        let pairs = [
            ("mount", &before.mounts, &after.mounts),
            ("link", &before.links, &after.links),
            ("cgroup", &before.cgroups, &after.cgroups),
            ("fd", &before.fds, &after.fds),
            ("child", &before.children, &after.children),
        ];
        let mine = format!("cofferdam-{}-", std::process::id());
        for (what, before, after) in pairs {
            let other = before.symmetric_difference(after);
            let ours = other.filter(|item| what != "cgroup" || item.contains(&mine));
            left.extend(ours.map(|item| format!("{what} {item}")));
        }
        if self.rules != now.rules {
            left.push("the table of rules".to_owned());
        }
        if self.threads != now.threads {
            left.push(format!("{} threads, not {}", now.threads, self.threads));
        }
        left
    }
}

/// How much this process has.
struct Counts {
    /// KiB.
    resident: u64,
    fds: usize,
    threads: usize,
}

impl Counts {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let word = line.and_then(|line| line.split_whitespace().next());
        Counts {
            resident: word.and_then(|word| word.parse().ok()).unwrap_or_default(),
            fds: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            threads: threads(),
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts {
            resident,
            fds,
            threads,
        } = self;
        write!(f, "{resident} KiB, {fds} fds, {threads} threads")
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}
