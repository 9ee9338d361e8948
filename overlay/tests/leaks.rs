//! What is left after overlays were made and could not be made. Alone in its binary: fds are the whole process's.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use cofferdam_overlay::{Applied, ErrorKind, Flatten, Overlay, RedirectDir, Switch, flatten};
use cofferdam_testkit::{Need, Snapshot, have, in_mount_namespace, refuse_syscall};
use rustix::mount::{MountFlags, mount};

#[test]
fn nothing_is_left_with_or_without_fsopen() {
    if !have(&[Need::Root, Need::Filesystem("overlay")]) {
        return;
    }
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        mount("tmpfs", &world, "tmpfs", MountFlags::empty(), c"size=64m").unwrap();
        for name in ["a", "b", "upper", "work", "target", "other", "full"] {
            fs::create_dir(world.join(name)).unwrap();
        }
        fs::write(world.join("file"), "").unwrap();
        fs::write(world.join("full/file"), "").unwrap();
        let other = world.join("other");
        mount("tmpfs", &other, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();

        let before = Snapshot::take();
        use_it_all(&world);
        before.assert_same("cofferdam-overlay");

        refuse_syscall(libc::SYS_fsopen);
        use_it_all(&world);
        let mount = Overlay::builder([world.join("a")]).scratch().detached();
        assert_eq!(mount.unwrap().applied(), Applied::Classic);
        before.assert_same("cofferdam-overlay");
    });
}

/// Each way to succeed and to fail, some rounds of it.
fn use_it_all(world: &Path) {
    let at = |name: &str| world.join(name);
    let layers = || Overlay::builder([at("a"), at("b")]);
    for _ in 0..5 {
        for overlay in [
            Overlay::builder([at("a")]),
            layers(),
            layers().scratch(),
            layers().upperdir(at("upper"), at("work")),
        ] {
            let detached = overlay.detached().unwrap();
            drop(detached.as_fd().try_clone_to_owned().unwrap());
            drop(detached.into_fd());
            drop(overlay.mount(at("target")).unwrap());
            overlay.mount(at("target")).unwrap().unmount().unwrap();
            overlay.mount(at("gone")).unwrap_err();
            overlay.mount(at("file")).unwrap_err();
            let mut mounted = overlay.mount(at("target")).unwrap();
            mounted.effective().unwrap();
            let open = File::open(at("target")).unwrap();
            assert_eq!(mounted.unmount().unwrap_err().kind(), ErrorKind::Busy);
            drop(open);
            mounted.unmount().unwrap();
        }
        use_what_came_later(world);
        for overlay in [
            Overlay::builder([at("gone")]),
            Overlay::builder([at("a"), at("file")]).scratch(),
            Overlay::builder([at("gone"), at("a")]).scratch(),
            layers().upperdir(at("upper"), at("other")),
            layers().upperdir(at("gone"), at("work")),
            // The upper is a layer as well: the kernel refuses it when everything is set up.
            layers().upperdir(at("a"), at("a")),
            layers().upperdir(at("a"), at("work")),
            layers().index(Switch::On),
            layers()
                .scratch()
                .metacopy(Switch::On)
                .redirect_dir(RedirectDir::NoFollow),
            layers().copy_fallback(at("full")).index(Switch::On),
            Overlay::builder(vec![at("a"); 501]).copy_fallback(at("full")),
            Overlay::builder(vec![at("a"); 501]),
        ] {
            overlay.detached().unwrap_err();
        }
    }
}

/// What is read back, copied, locked and cleaned.
fn use_what_came_later(world: &Path) {
    let at = |name: &str| world.join(name);
    let layers = || Overlay::builder([at("a"), at("b")]);
    let _support = Overlay::probe();
    let options = layers().scratch().metacopy(Switch::On).nosuid().noatime();
    options.detached().unwrap().effective().unwrap();
    let kept = layers()
        .upperdir(at("upper"), at("work"))
        .volatile(Switch::On);
    let mut mount = kept.detached().unwrap();
    let lock = mount.take_lock().unwrap();
    assert_eq!(kept.detached().unwrap_err().kind(), ErrorKind::Busy);
    drop((mount.into_fd(), lock));
    assert_eq!(kept.detached().unwrap_err().kind(), ErrorKind::Unsynced);
    Overlay::clean_volatile(at("upper"), at("work")).unwrap();
    for how in [Flatten::Copy, Flatten::HardLink] {
        flatten([at("a"), at("b")], at("flat"), how).unwrap();
        fs::remove_dir_all(at("flat")).unwrap();
        flatten([at("a"), at("file")], at("flat"), how).unwrap_err();
    }
    let many = Overlay::builder(vec![at("a"); 501]).copy_fallback(at("flat"));
    assert_eq!(many.detached().unwrap().applied(), Applied::Copied);
    fs::remove_dir_all(at("flat")).unwrap();
}
