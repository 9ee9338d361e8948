//! How long a start takes, to the program's execve(2): six namespaces, pivot_root, `/dev`, `/proc`, `/sys`, masks,
//! capabilities, no_new_privs. Beside it the floor, a bare clone3(2) whose child makes the system calls that this takes and no
//! others; and other programs that do the same, where they are installed, to the end of a program that does nothing.
//!
//! `cargo bench --bench start [-- --quick]`, as root. A line for each: `row <id> <who> min=<n> p50=<n> unit=us`.
#![allow(clippy::print_stdout, reason = "this is what it is for")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod peers;
mod sys;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam::{Container, Rootfs};

/// Between two starts: the kernel takes namespaces down in the background, and waits for RCU.
const PAUSE: Duration = Duration::from_millis(5);

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 40 } else { 300 };
    let root = Root::new();
    sides("start/full", rounds, &root.0);
    let ballast = sys::Ballast::new(4 << 30);
    sides("start/full@4GiB", rounds, &root.0);
    drop(ballast);
    peers::rows("start/full", rounds / 4, &root.0);
}

/// Ours and the floor, in turns.
fn sides(id: &str, rounds: usize, root: &Path) {
    let floor = sys::Floor::new(root);
    let container = Container::builder()
        .name("bench")
        .rootfs(Rootfs::directory(root))
        .command("/bin/true")
        .build()
        .unwrap();
    let ours = || {
        let start = Instant::now();
        let mut running = container.start().unwrap();
        let took = start.elapsed();
        assert!(running.wait().unwrap().success());
        took
    };
    let mut rows = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        // Whoever goes first finds the other's leftovers: they take turns.
        for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            std::thread::sleep(PAUSE);
            rows[side].push(if side == 0 { ours() } else { floor.start() });
        }
    }
    for (who, times) in ["ours", "floor"].iter().zip(rows) {
        row(id, who, times);
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

/// A root directory with nothing in it but a program that does nothing, and places for mounts.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("cofferdam-bench-{}", std::process::id()));
        for directory in ["bin", "dev", "proc", "sys"] {
            fs::create_dir_all(path.join(directory)).unwrap();
        }
        let program = path.join("bin/true");
        fs::write(&program, sys::true_elf()).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Root(path)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}
