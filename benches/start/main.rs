//! How long a start takes, to the program's execve(2), and how long it takes to enter a container. A start is six namespaces, pivot_root, `/dev`, `/proc`, `/sys`, masks,
//! capabilities, no_new_privs. Beside it the floor, a bare clone3(2) whose child makes the system calls that this takes and no
//! others; and other programs that do the same, where they are installed, to the end of a program that does nothing.
//!
//! `cargo bench --bench start [-- --quick]`, as root. A line for each: `row <id> <who> min=<n> p50=<n> unit=us`.
#![allow(clippy::print_stdout, reason = "this is what it is for")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod enter;
mod peers;
mod seccomp;
mod sys;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cofferdam::{Container, Rootfs};
use cofferdam_testkit::in_mount_namespace;

/// Between two starts: the kernel takes namespaces down in the background, and waits for RCU.
const PAUSE: Duration = Duration::from_millis(5);

/// As on a host with many containers.
const HOST_MOUNTS: usize = 2000;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 40 } else { 300 };
    seccomp::rows(rounds);
    let root = Root::new();
    let container = container(&root.0);
    let floor = sys::Floor::new(&root.0);
    let ours = || start(&container);
    {
        let crowded = Crowded::new(&container);
        let (id, many) = ("start/full", "start/2000-host-mounts");
        let sides: [Side<'_>; 3] = [
            (id, "ours", &ours),
            (id, "floor", &|| floor.start()),
            (many, "ours", &|| crowded.start()),
        ];
        in_turns(rounds, &sides);
    }
    let ballast = sys::Ballast::new(4 << 30);
    let id = "start/full@4GiB";
    let sides: [Side<'_>; 2] = [(id, "ours", &ours), (id, "floor", &|| floor.start())];
    in_turns(rounds, &sides);
    drop(ballast);
    enter::rows(rounds, &root.0);
    peers::rows("start/full", rounds / 4, &root.0);
}

fn container(root: &Path) -> Container {
    Container::builder()
        .name("bench")
        .rootfs(Rootfs::directory(root))
        .command("/bin/true")
        .build()
        .unwrap()
}

fn start(container: &Container) -> Duration {
    let start = Instant::now();
    let mut running = container.start().unwrap();
    let took = start.elapsed();
    assert!(running.wait().unwrap().success());
    took
}

/// An id, who does it, and how it is done once.
type Side<'s> = (&'s str, &'s str, &'s dyn Fn() -> Duration);

/// A row for each side, measured in turns.
fn in_turns(rounds: usize, sides: &[Side<'_>]) {
    let mut times = vec![Vec::new(); sides.len()];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            // Whoever goes next finds the other's leftovers: everybody comes after everybody.
            let side = (turn * (1 + round % 2) + round) % sides.len();
            let side = if sides.len() == 2 {
                (turn + round) % 2
            } else {
                side
            };
            std::thread::sleep(PAUSE);
            times[side].push(sides[side].2());
        }
    }
    for ((id, who, _), times) in sides.iter().zip(times) {
        row(id, who, times);
    }
}

/// A thread with a great many mounts in a mount namespace of its own, which starts the container when asked to.
struct Crowded {
    ask: mpsc::Sender<()>,
    took: mpsc::Receiver<Duration>,
}

impl Crowded {
    fn new(container: &Container) -> Self {
        let (ask, asked) = mpsc::channel();
        let (tell, took) = mpsc::channel();
        let container = container.clone();
        std::thread::spawn(move || {
            in_mount_namespace(|| {
                let place = std::env::temp_dir();
                let place = place.join(format!("cofferdam-crowd-{}", std::process::id()));
                fs::create_dir(&place).unwrap();
                sys::mount_often(&place, HOST_MOUNTS);
                for () in asked {
                    tell.send(start(&container)).unwrap();
                }
                sys::unmount_all(&place);
                fs::remove_dir(&place).unwrap();
            });
        });
        Crowded { ask, took }
    }

    fn start(&self) -> Duration {
        self.ask.send(()).unwrap();
        self.took.recv().unwrap()
    }
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
        let path = std::env::temp_dir().join(format!("cofferdam-bench-{}", std::process::id()));
        for directory in ["bin", "dev", "proc", "sys"] {
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
