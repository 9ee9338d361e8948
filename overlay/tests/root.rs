//! Overlays on this machine's kernel, in whichever way it can mount them.

use cofferdam_overlay::{Applied, Overlay, OverlayMount, Result};
use cofferdam_testkit::{Need, have};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{FsOpenFlags, fsconfig_set_fd, fsopen};

mod table;

table::tests!(detached);

fn detached(overlay: &Overlay) -> Result<OverlayMount> {
    overlay.detached()
}

#[test]
fn a_kernel_that_takes_fds_is_given_fds() {
    if !have(&[Need::Root, Need::Filesystem("overlay")]) {
        return;
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    let root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let expected = match fsconfig_set_fd(&context, "lowerdir+", &root) {
        Ok(()) => Applied::Native,
        Err(_) => Applied::Classic,
    };
    let mount = Overlay::builder(["/"]).scratch().detached().unwrap();
    assert_eq!(mount.applied(), expected);
}
