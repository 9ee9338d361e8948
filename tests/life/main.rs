//! The life of containers on the real kernel: the verbs of `Running`, handles that come and go, and embedders that are killed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the embedder's way to answer")]

mod killed;
mod lifeline;
mod reference;
mod verbs;

use std::fs;
use std::path::{Path, PathBuf};

use cofferdam::{Container, ContainerBuilder, Rootfs};

/// A container that runs a line of shell in the machine's own files.
fn shell(name: &str, script: &str) -> ContainerBuilder {
    let builder = Container::builder().name(name).rootfs(rootfs());
    builder.command("sh").args(["-c", script])
}

/// Runs until it is told to end, and then with 7.
const UNTIL_TOLD: &str = "trap 'exit 7' TERM; while :; do sleep 0.02; done";

/// `/`, or in a user namespace, where it may not be a layer, `/usr`.
fn rootfs() -> Rootfs {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    Rootfs::layers([if initial { "/" } else { "/usr" }])
}

/// A runtime directory of a test's own, in memory where the machine has that.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let memory = memory.is_dir().then(|| memory.to_owned());
        let parent = memory.unwrap_or_else(std::env::temp_dir);
        Dir(parent.join(format!("cofferdam-{name}-{}", std::process::id())))
    }

    fn records(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // Panics on what is left, but not on top of another panic.
        let removed = fs::remove_dir(&self.0);
        assert!(
            removed.is_ok() || std::thread::panicking(),
            "{:?}",
            self.records()
        );
    }
}

/// Whether such a process runs: a zombie does not.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .trim_start();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}
