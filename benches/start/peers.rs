//! Other programs that start one in a container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_testkit::in_mount_namespace;

/// A row for each: to the end of the program, their own included, as their users wait for it.
pub(crate) fn rows(id: &str, rounds: usize, root: &Path) {
    in_mount_namespace(|| {
        // Some start nothing where cgroup v1 is beside v2: let them see v2 alone.
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            super::sys::mount_cgroup2();
        }
        rows_here(id, rounds, root);
    });
}

fn rows_here(id: &str, rounds: usize, root: &Path) {
    let bundle = Bundle::new(root);
    let oci = |runtime: &str| {
        let mut command = Command::new(runtime);
        if runtime == "crun" {
            // As in every other row: no cgroup.
            command.arg("--cgroup-manager=disabled");
        }
        let name = format!("cofferdam-bench-{}", std::process::id());
        command
            .arg("--root")
            .arg(bundle.0.join("state"))
            .args(["run", "--bundle"])
            .arg(&bundle.0)
            .arg(name);
        command
    };
    let sides = [
        ("crun", oci("crun")),
        ("runc", oci("runc")),
        ("bwrap", bubblewrap(root)),
    ];
    for (who, mut command) in sides {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..rounds {
            std::thread::sleep(super::PAUSE);
            let start = Instant::now();
            match command.status() {
                Ok(status) if status.success() => times.push(start.elapsed()),
                _ => break,
            }
        }
        if times.len() < rounds {
            println!("row {id} {who} absent");
        } else {
            super::row(id, who, times);
        }
    }
}

fn bubblewrap(root: &Path) -> Command {
    let mut command = Command::new("bwrap");
    command.args([
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup",
    ]);
    command.arg("--bind").arg(root).args([
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--hostname",
        "bench",
    ]);
    command.arg("/bin/true");
    command
}

/// An OCI bundle that asks for what the others do, without a cgroup.
struct Bundle(PathBuf);

impl Bundle {
    fn new(root: &Path) -> Self {
        let path = root.with_extension("bundle");
        fs::create_dir_all(&path).unwrap();
        let config = include_str!("config.json").replace("ROOT", &root.display().to_string());
        fs::write(path.join("config.json"), config).unwrap();
        Bundle(path)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}
