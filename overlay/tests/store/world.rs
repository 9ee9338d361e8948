//! A tmpfs with a store, in a mount namespace of its own.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use cofferdam_overlay::{Diff, LayerRef, LayerStore, Overlay};
use cofferdam_testkit::{Need, have, in_mount_namespace};
use rustix::mount::{MountFlags, mount};

pub(crate) struct World {
    pub(crate) base: PathBuf,
    pub(crate) store: LayerStore,
}

pub(crate) fn in_world(work: impl FnOnce(&World) + Send) {
    if !have(&[Need::Root, Need::Filesystem("overlay")]) {
        return;
    }
    in_world_of(work);
}

/// The same, whatever the machine can do.
pub(crate) fn in_world_of(work: impl FnOnce(&World) + Send) {
    in_mount_namespace(|| {
        let base = std::env::temp_dir();
        mount("tmpfs", &base, "tmpfs", MountFlags::empty(), c"size=256m").unwrap();
        let store = LayerStore::open(base.join("store")).unwrap();
        work(&World { base, store });
    });
}

impl World {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// The names in a directory of the store.
    pub(crate) fn names(&self, area: &str) -> Vec<String> {
        let names = fs::read_dir(self.path("store").join(area)).unwrap();
        names
            .map(|name| name.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Has a container on `layer` do `work`, and returns its upper.
    pub(crate) fn upper(&self, layer: &LayerRef, work: impl FnOnce(&Path)) -> PathBuf {
        let (upper, scratch) = (self.path("upper"), self.path("work"));
        for directory in [&upper, &scratch] {
            if directory.exists() {
                fs::remove_dir_all(directory).unwrap();
            }
            fs::create_dir(directory).unwrap();
        }
        let overlay = Overlay::builder(layer.directories()).upperdir(&upper, &scratch);
        let mount = overlay.detached().unwrap();
        work(&root_of(mount.as_fd().as_raw_fd()));
        upper
    }

    /// What a container on `layer` reads in a file; None where there is none.
    pub(crate) fn read(&self, layer: &LayerRef, path: &str) -> Option<String> {
        let mount = Overlay::builder(layer.directories()).detached().unwrap();
        fs::read_to_string(root_of(mount.as_fd().as_raw_fd()).join(path)).ok()
    }
}

fn root_of(fd: i32) -> PathBuf {
    format!("/proc/self/fd/{fd}/.").into()
}

/// A layer's tar with these files and their content.
pub(crate) fn tar(base: &Path, files: &[(&str, &str)]) -> Vec<u8> {
    let tree = base.join("tree");
    for (path, content) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let mut tar = Vec::new();
    Diff::of(&tree)
        .clamp_modified(0)
        .write_tar(&mut tar)
        .unwrap();
    fs::remove_dir_all(tree).unwrap();
    tar
}
