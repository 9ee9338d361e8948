//! A tmpfs with a store, in a mount namespace of its own.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use cofferdam_overlay::{LayerRef, LayerStore, Overlay};
use cofferdam_testkit::{Need, have, in_mount_namespace};

use crate::archive::tmpfs;

pub(crate) struct World(PathBuf);

/// Runs `work` where the machine has `needs` too.
pub(crate) fn in_world(needs: &[Need], work: impl FnOnce(&World) + Send) {
    if !have(&[&[Need::Root, Need::Filesystem("overlay")], needs].concat()) {
        return;
    }
    let notes = || Path::new("/var/lib/containers").exists();
    let noted = notes();
    in_mount_namespace(|| {
        let base = std::env::temp_dir();
        tmpfs(&base, "size=300m,mode=0755");
        work(&World(base));
    });
    assert_eq!(notes(), noted, "left on the host");
}

impl World {
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn store(&self, name: &str) -> LayerStore {
        LayerStore::open(self.path(name)).unwrap()
    }

    /// Has a container on `layers` do `work`, and returns its upper.
    pub(crate) fn upper(&self, layers: &[PathBuf], work: impl FnOnce(&Path)) -> PathBuf {
        let (upper, scratch) = (self.directory("upper"), self.directory("work"));
        shown(&Overlay::builder(layers).upperdir(&upper, &scratch), work);
        upper
    }
}

/// Has `work` look at the layers as a container on them would.
pub(crate) fn view<T>(layer: &LayerRef, work: impl FnOnce(&Path) -> T) -> T {
    shown(&Overlay::builder(layer.directories()), work)
}

fn shown<T>(overlay: &Overlay, work: impl FnOnce(&Path) -> T) -> T {
    let mount = overlay.detached().unwrap();
    let fd = mount.as_fd().as_raw_fd();
    work(Path::new(&format!("/proc/self/fd/{fd}/.")))
}
