//! A tmpfs with layers, an upper and a work directory, in a mount namespace of its own.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use cofferdam_overlay::{Change, ChangeKind, Diff, Overlay, OverlayMount, Written};
use cofferdam_testkit::{Need, have, in_mount_namespace};
use rustix::mount::{MountFlags, mount};

/// Runs `work` in a world with this many layers, where the machine can make it.
pub(crate) fn in_world(layers: usize, work: impl FnOnce(&World) + Send) {
    if !have(&[Need::Root, Need::Filesystem("overlay")]) {
        return;
    }
    in_world_of(layers, work);
}

/// The same, whatever the machine can do.
pub(crate) fn in_world_of(layers: usize, work: impl FnOnce(&World) + Send) {
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        mount("tmpfs", &world, "tmpfs", MountFlags::empty(), c"size=512m").unwrap();
        let lowers: Vec<_> = (0..layers)
            .map(|n| world.join(format!("lower{n}")))
            .collect();
        let (upper, work_directory) = (world.join("upper"), world.join("work"));
        for made in lowers.iter().chain([&upper, &work_directory]) {
            fs::create_dir(made).unwrap();
        }
        work(&World {
            base: world,
            lowers,
            upper,
            work: work_directory,
        });
    });
}

pub(crate) struct World {
    pub(crate) base: PathBuf,
    /// The top one first.
    pub(crate) lowers: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    work: PathBuf,
}

impl World {
    /// Changes the merged view.
    pub(crate) fn change<T>(&self, work: impl FnOnce(&Path) -> T) -> T {
        let mount = self.mount();
        work(&root_of(&mount))
    }

    pub(crate) fn mount(&self) -> OverlayMount {
        Overlay::builder(&self.lowers)
            .upperdir(&self.upper, &self.work)
            .detached()
            .unwrap()
    }

    pub(crate) fn diff(&self) -> Diff {
        Diff::of(&self.upper).lower(&self.lowers)
    }

    /// Each change as a letter (and `!` for what is opaque) and its path.
    pub(crate) fn changes(&self) -> Vec<String> {
        let told = |change: Change| {
            let letter = match change.kind {
                ChangeKind::Added => "A",
                ChangeKind::Modified => "M",
                ChangeKind::Deleted => "D",
            };
            let opaque = if change.opaque { "!" } else { "" };
            format!("{letter}{opaque} {}", change.path.display())
        };
        self.diff()
            .changes()
            .unwrap()
            .map(|change| told(change.unwrap()))
            .collect()
    }

    pub(crate) fn tar(&self) -> (Vec<u8>, Written) {
        let mut tar = Vec::new();
        let written = self.diff().write_tar(&mut tar).unwrap();
        (tar, written)
    }

    /// The names in the tar.
    pub(crate) fn entries(&self) -> Vec<String> {
        crate::apply::entries(&self.tar().0)
            .iter()
            .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
            .collect()
    }
}

/// The path of a detached mount's root.
pub(crate) fn root_of(mount: &OverlayMount) -> PathBuf {
    format!("/proc/self/fd/{}/.", mount.as_fd().as_raw_fd()).into()
}

pub(crate) fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
