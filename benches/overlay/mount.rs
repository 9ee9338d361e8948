//! A detached overlay with a throw-away upper: to mount it and to close it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_overlay::Overlay;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::{in_world, row};

/// `mount/<layers>` and `unmount/<layers>`.
pub(crate) fn rows(quick: bool) {
    in_world("64m", |world| {
        let layers: Vec<_> = (0..500).map(|n| world.join(n.to_string())).collect();
        layers
            .iter()
            .for_each(|layer| fs::create_dir(layer).unwrap());
        for (count, rounds) in [(1, 400), (10, 400), (128, 200), (500, 100)] {
            compare(&layers[..count], if quick { 20 } else { rounds });
        }
        kept(world, &layers[..10], if quick { 20 } else { 400 });
    });
}

/// `mount/10+upperdir`, one that was never mounted, and `mount/10+upperdir-again`, where ours also asks the kernel whether
/// another overlay uses it.
fn kept(world: &Path, layers: &[PathBuf], rounds: usize) {
    let mut samples: [Samples; 4] = Default::default();
    for round in 0..rounds {
        let [ours, floor] = ["ours", "floor"].map(|who| {
            let parent = make_in(world, &format!("{who}-{round}"));
            (make_in(&parent, "upper"), make_in(&parent, "work"))
        });
        let overlay = Overlay::builder(layers).upperdir(&ours.0, &ours.1);
        for again in [0, 2] {
            samples[again].take(|| overlay.detached().unwrap());
            samples[again + 1].take(|| {
                let context = stack(layers);
                on_top(&context, &open(CWD, &floor.0), &open(CWD, &floor.1));
                attached_nowhere(&context)
            });
        }
    }
    let rows = [
        ("mount/10+upperdir", "ours"),
        ("mount/10+upperdir", "floor"),
        ("mount/10+upperdir-again", "ours"),
        ("mount/10+upperdir-again", "floor"),
    ];
    for ((id, who), samples) in rows.into_iter().zip(samples) {
        row(id, who, samples.mount);
    }
}

fn make_in(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).unwrap();
    path
}

/// Takes turns, so that what else the machine does falls on both, and each comes after the other as often.
fn compare(layers: &[PathBuf], rounds: usize) {
    let overlay = Overlay::builder(layers).scratch();
    let mut ours = Samples::default();
    let mut floor = Samples::default();
    for round in 0..rounds {
        if round % 2 == 0 {
            ours.take(|| overlay.detached().unwrap());
            floor.take(|| bare(layers));
        } else {
            floor.take(|| bare(layers));
            ours.take(|| overlay.detached().unwrap());
        }
    }
    let count = layers.len();
    row(&format!("mount/{count}"), "ours", ours.mount);
    row(&format!("mount/{count}"), "floor", floor.mount);
    row(&format!("unmount/{count}"), "ours", ours.close);
    row(&format!("unmount/{count}"), "floor", floor.close);
}

#[derive(Default)]
struct Samples {
    mount: Vec<Duration>,
    close: Vec<Duration>,
}

impl Samples {
    fn take<T>(&mut self, mounted: impl FnOnce() -> T) {
        let start = Instant::now();
        let mounted = mounted();
        let done = Instant::now();
        drop(mounted);
        self.mount.push(done - start);
        self.close.push(done.elapsed());
    }
}

/// The system calls without which there is no such mount.
fn bare(layers: &[PathBuf]) -> OwnedFd {
    let overlay = stack(layers);
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&tmpfs, "size", "1073741824").unwrap();
    fsconfig_create(&tmpfs).unwrap();
    let tmpfs = attached_nowhere(&tmpfs);
    let [upper, work] = ["upper", "work"].map(|name| {
        mkdirat(&tmpfs, name, Mode::RWXU).unwrap();
        open(&tmpfs, Path::new(name))
    });
    fsconfig_set_flag(&overlay, "volatile").unwrap();
    on_top(&overlay, &upper, &work);
    attached_nowhere(&overlay)
}

fn stack(layers: &[PathBuf]) -> OwnedFd {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for layer in layers {
        let layer = open(CWD, layer);
        fsconfig_set_fd(&overlay, "lowerdir+", &layer).unwrap();
    }
    overlay
}

fn on_top(overlay: &OwnedFd, upper: &OwnedFd, work: &OwnedFd) {
    fsconfig_set_fd(overlay, "upperdir", upper).unwrap();
    fsconfig_set_fd(overlay, "workdir", work).unwrap();
    fsconfig_create(overlay).unwrap();
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
