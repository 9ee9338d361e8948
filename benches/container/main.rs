//! How long everything takes that `docker run --network app --publish ... --memory ...` does, to the end of a program that does
//! nothing: layers, a network with names, a published port, limits. Then what a hundred containers on one network change about
//! that, and how much memory of this process each of them takes.
//!
//! `cargo bench --bench container [-- --quick]`, as root. A line for each: `row <id> <who> min=<n> p50=<n> unit=<us|bytes>`.
#![allow(clippy::print_stdout, reason = "this is what it is for")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod peers;
#[path = "../start/sys.rs"]
#[allow(dead_code, reason = "of the other bench it takes two programs")]
mod sys;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cofferdam::{Container, ContainerBuilder, Network, Rootfs, Running};
use cofferdam_testkit::NetNs;

/// Between two starts: the kernel takes namespaces down in the background, and waits for RCU.
const PAUSE: Duration = Duration::from_millis(30);

const CROWD: usize = 100;

/// How many of the crowd a row is made of.
const SAMPLE: usize = 10;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 15 } else { 100 };
    let root = Root::new();
    NetNs::new().run(|| {
        let network = Network::bridge("bench").create().unwrap();
        full(rounds, &root, &network);
        ports(rounds, &root, &network);
        crowd(&root, &network);
        network.remove().unwrap();
    });
    peers::rows("container/full", rounds / 3, &root.0);
}

fn container(root: &Root, program: &str, network: &Network) -> ContainerBuilder {
    Container::builder()
        .rootfs(Rootfs::layers([&root.0]))
        .network(network)
        .memory_max(64 << 20)
        .pids_max(64)
        .command(program)
}

/// From nothing to the program's exit; and what it takes beside that to have nothing left.
fn full(rounds: usize, root: &Root, network: &Network) {
    let (mut starts, mut exits, mut removals) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        std::thread::sleep(PAUSE);
        let builder = container(root, "/bin/true", network);
        let builder = builder.publish("127.0.0.1:18080:80".parse().unwrap());
        let start = Instant::now();
        let mut running = builder.start().unwrap();
        starts.push(start.elapsed());
        assert!(running.wait().unwrap().success());
        exits.push(start.elapsed());
        let start = Instant::now();
        running.remove().unwrap();
        removals.push(start.elapsed());
    }
    row("container/full", "ours", exits);
    row("container/full-start", "ours", starts);
    row("container/remove", "ours", removals);
}

/// What it takes to start with a port of all addresses, of which sockets answer at those that no rule leads, and without.
fn ports(rounds: usize, root: &Root, network: &Network) {
    let rules = Network::bridge("rules").without_proxy().create().unwrap();
    let sides = [
        ("one-address", network, "127.0.0.1:18080:80"),
        ("rules-alone", &rules, "18080:80"),
        ("all-addresses", network, "18080:80"),
    ];
    let mut starts = sides.map(|_| Vec::new());
    let mut removals = sides.map(|_| Vec::new());
    for _ in 0..rounds {
        for (side, (_, network, port)) in sides.iter().enumerate() {
            std::thread::sleep(PAUSE);
            let builder = container(root, "/bin/true", network).publish(port.parse().unwrap());
            let start = Instant::now();
            let mut running = builder.start().unwrap();
            starts[side].push(start.elapsed());
            assert!(running.wait().unwrap().success());
            let start = Instant::now();
            running.remove().unwrap();
            removals[side].push(start.elapsed());
        }
    }
    for ((who, ..), (starts, removals)) in sides.iter().zip(starts.into_iter().zip(removals)) {
        row("container/port-start", who, starts);
        row("container/port-remove", who, removals);
    }
    rules.remove().unwrap();
}

/// A hundred at once.
fn crowd(root: &Root, network: &Network) {
    let before = resident();
    let mut running: Vec<Running> = Vec::with_capacity(CROWD);
    let mut times = Vec::new();
    for number in 0..CROWD {
        std::thread::sleep(PAUSE);
        let port = format!("127.0.0.1:{}:80", 20_000 + number);
        let builder = container(root, "/bin/pause", network).publish(port.parse().unwrap());
        let start = Instant::now();
        running.push(builder.start().unwrap());
        times.push(start.elapsed());
    }
    let grown = resident().saturating_sub(before);
    row("container/first", "ours", times[..SAMPLE].to_vec());
    row("container/100th", "ours", times[CROWD - SAMPLE..].to_vec());
    let each = grown / CROWD as u64;
    println!("row container/rss-per-running ours min={each} p50={each} unit=bytes");
    for running in running {
        running.remove().unwrap();
    }
}

/// The memory of this process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmRSS:")).unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1024
}

fn row(id: &str, who: &str, mut times: Vec<Duration>) {
    times.sort();
    let micros = |at: usize| times[at].as_secs_f64() * 1e6;
    println!(
        "row {id} {who} min={:.0} p50={:.0} unit=us",
        micros(0),
        micros(times.len() / 2)
    );
}

/// A root directory with nothing in it but a program that does nothing, one that waits for ever, and places for mounts.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        let path =
            std::env::temp_dir().join(format!("cofferdam-bench-full-{}", std::process::id()));
        for directory in ["bin", "dev", "proc", "sys", "etc"] {
            fs::create_dir_all(path.join(directory)).unwrap();
        }
        for (name, elf) in [("true", sys::true_elf()), ("pause", sys::pause_elf())] {
            let program = path.join("bin").join(name);
            fs::write(&program, elf).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Root(path)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}
