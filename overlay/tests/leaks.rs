//! What is left after overlays were made and could not be made. Alone in its binary: fds are the whole process's.
#![expect(unsafe_code, reason = "a seccomp filter has no safe form")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use cofferdam_overlay::{Applied, Overlay};
use cofferdam_testkit::{Need, Snapshot, have, in_mount_namespace};
use rustix::mount::{MountFlags, mount};

#[test]
fn nothing_is_left_with_or_without_fsopen() {
    if !have(&[Need::Root, Need::Filesystem("overlay")]) {
        return;
    }
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        mount("tmpfs", &world, "tmpfs", MountFlags::empty(), c"size=64m").unwrap();
        for name in ["a", "b", "upper", "work", "target", "other"] {
            fs::create_dir(world.join(name)).unwrap();
        }
        fs::write(world.join("file"), "").unwrap();
        let other = world.join("other");
        mount("tmpfs", &other, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();

        let before = Snapshot::take();
        use_it_all(&world);
        before.assert_same("cofferdam-overlay");

        refuse_fsopen();
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
        }
        for overlay in [
            Overlay::builder([at("gone")]),
            Overlay::builder([at("a"), at("file")]).scratch(),
            Overlay::builder([at("gone"), at("a")]).scratch(),
            layers().upperdir(at("upper"), at("other")),
            layers().upperdir(at("gone"), at("work")),
            // The upper is a layer as well: the kernel refuses it when everything is set up.
            layers().upperdir(at("a"), at("a")),
            Overlay::builder(vec![at("a"); 501]),
        ] {
            overlay.detached().unwrap_err();
        }
    }
}

/// Takes fsopen(2) away from this thread and those it starts: it says `ENOSYS` from now on.
fn refuse_fsopen() {
    let number = u32::try_from(libc::SYS_fsopen).unwrap();
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, errno(libc::ENOSYS)),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and the filter it points to outlive the call, which only reads them; the filter ends in a
    // return on every path. Both calls affect this thread alone, which ends with the test.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn errno(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap()
}

fn statement(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    }
}
