//! A detached overlay with a throw-away upper: to mount it and to close it, against the bare system calls.
//!
//! `cargo bench -p cofferdam-overlay [-- --quick]`; needs `CAP_SYS_ADMIN`. Layers are on a tmpfs in a mount namespace of
//! the bench's own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints its figures and stops where it cannot measure"
)]

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_overlay::Overlay;
use cofferdam_testkit::in_mount_namespace;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
};

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        mount("tmpfs", &world, "tmpfs", MountFlags::empty(), c"size=64m").unwrap();
        let layers: Vec<_> = (0..500).map(|n| world.join(n.to_string())).collect();
        layers
            .iter()
            .for_each(|layer| fs::create_dir(layer).unwrap());
        for (count, rounds) in [(1, 400), (128, 200), (500, 100)] {
            compare(&layers[..count], if quick { 20 } else { rounds });
        }
    });
}

/// Takes turns, so that what else the machine does falls on both.
fn compare(layers: &[PathBuf], rounds: usize) {
    let overlay = Overlay::builder(layers).scratch();
    let mut ours = Samples::default();
    let mut floor = Samples::default();
    for _ in 0..rounds {
        ours.take(|| overlay.detached().unwrap().into_fd());
        floor.take(|| bare(layers));
    }
    let count = layers.len();
    for (what, ours, floor) in [
        ("mount", ours.mount, floor.mount),
        ("close", ours.close, floor.close),
    ] {
        row(&format!("overlay/{what}/{count}"), "ours", ours);
        row(&format!("overlay/{what}/{count}"), "floor", floor);
    }
}

#[derive(Default)]
struct Samples {
    mount: Vec<Duration>,
    close: Vec<Duration>,
}

impl Samples {
    fn take(&mut self, mounted: impl FnOnce() -> OwnedFd) {
        let start = Instant::now();
        let fd = mounted();
        let done = Instant::now();
        drop(fd);
        self.mount.push(done - start);
        self.close.push(done.elapsed());
    }
}

fn row(id: &str, who: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let us = |sample: Duration| sample.as_secs_f64() * 1e6;
    let (min, p50) = (us(samples[0]), us(samples[samples.len() / 2]));
    println!("row {id} {who} min={min:.1} p50={p50:.1} unit=us");
}

/// The system calls without which there is no such mount.
fn bare(layers: &[PathBuf]) -> OwnedFd {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for layer in layers {
        let layer = open(CWD, layer);
        fsconfig_set_fd(&overlay, "lowerdir+", &layer).unwrap();
    }
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&tmpfs, "size", "1073741824").unwrap();
    fsconfig_create(&tmpfs).unwrap();
    let tmpfs = attached_nowhere(&tmpfs);
    for (name, key) in [("upper", "upperdir"), ("work", "workdir")] {
        mkdirat(&tmpfs, name, Mode::RWXU).unwrap();
        let directory = open(&tmpfs, Path::new(name));
        fsconfig_set_fd(&overlay, key, &directory).unwrap();
    }
    fsconfig_set_flag(&overlay, "volatile").unwrap();
    fsconfig_create(&overlay).unwrap();
    attached_nowhere(&overlay)
}

fn attached_nowhere(context: &OwnedFd) -> OwnedFd {
    fsmount(
        context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap()
}

fn open(at: impl std::os::fd::AsFd, path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty()).unwrap()
}
