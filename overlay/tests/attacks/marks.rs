use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use cofferdam_overlay::{Apply, ErrorKind, Overlay, SkippedPart};
use cofferdam_testkit::{Need, have};

use crate::archive::{Archive, Header, exists, in_world, names, read, xattr};
use crate::{applied, fresh, refused};

/// A9: overlayfs's own xattrs, to show what is not there and to hide what is.
#[test]
fn xattrs_of_overlayfs() {
    if !have(&[Need::Root, Need::Filesystem("overlay")]) {
        return;
    }
    in_world(|world| {
        let lower = applied(
            world,
            Archive::new()
                .file("d/secret", "lower")
                .file("real/secret", "lower")
                .file("f", "lower"),
        );
        let layer = fresh(world);
        let archive = Archive::new()
            .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/real")])
            .directory("m/")
            .pax(&[
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ])
            .directory("d/")
            .pax(&[
                ("LIBARCHIVE.xattr.trusted.overlay.metacopy", b""),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/real/secret"),
            ])
            .file("f2", "layer");
        Apply::new(&layer)
            .lower([&lower])
            .tar(&*archive.end())
            .unwrap();
        for (name, mark) in [
            ("m", "redirect"),
            ("d", "opaque"),
            ("f2", "metacopy"),
            ("f2", "redirect"),
        ] {
            assert_eq!(
                xattr(layer.join(name), &format!("trusted.overlay.{mark}")),
                None
            );
            assert!(xattr(layer.join(name), &format!("trusted.overlay.overlay.{mark}")).is_some());
        }
        let mount = Overlay::builder([&layer, &lower])
            .scratch()
            .detached()
            .unwrap();
        let root = format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd());
        assert!(!exists(format!("{root}/m/secret")));
        assert_eq!(read(format!("{root}/d/secret")), "lower");
        assert_eq!(read(format!("{root}/f2")), "layer");
    });
}

/// A10.
#[test]
fn a_raw_whiteout() {
    in_world(|world| {
        let error = refused(
            world,
            Archive::new().add(Header::new("hide", b'3').device(0, 0), ""),
        );
        assert_eq!(error.kind(), ErrorKind::UnsafePath);
        assert_eq!(
            error.to_string(),
            "apply layer: entry hide: a character device 0:0"
        );
    });
}

/// A11: the disk and the memory, for everybody.
#[test]
fn device_nodes_for_everybody() {
    in_world(|world| {
        let archive = Archive::new()
            .add(Header::new("disk", b'4').device(8, 0).mode(0o666), "")
            .add(Header::new("memory", b'3').device(1, 1).mode(0o666), "")
            .end();
        let layer = fresh(world);
        let apply = Apply::new(&layer).devices(cofferdam_overlay::Devices::Skip);
        let applied = apply.tar(&*archive).unwrap();
        assert_eq!(names(&layer), [""; 0]);
        let skipped: Vec<_> = applied
            .skipped
            .iter()
            .map(|skipped| skipped.entry.to_str().unwrap())
            .collect();
        assert_eq!(skipped, ["disk", "memory"]);
    });
}

/// A12: CVE-2021-41091 of docker, where the host's users reach set-id programs of layers.
#[test]
fn set_id_programs_are_reached_by_nobody_meanwhile() {
    if !have(&[Need::Root]) {
        return;
    }
    in_world(|world| {
        let layer = fresh(world);
        fs::set_permissions(&layer, fs::Permissions::from_mode(0o755)).unwrap();
        let suid = Header::new("d/suid", b'0')
            .mode(0o6755)
            .owner(7, 8)
            .size(1 << 20);
        let archive = Archive::new()
            .add(Header::new("./", b'5').mode(0o777), "")
            .add(suid, vec![0; 1 << 20])
            .file("large", vec![0; 1 << 20])
            .end();
        let mut modes = Vec::new();
        let mut look = || modes.push(fs::metadata(&layer).unwrap().mode() & 0o7777);
        Apply::new(&layer).tar_with(&*archive, |_| look()).unwrap();
        assert!(
            modes.len() > 2 && modes.iter().all(|mode| *mode == 0o700),
            "{modes:?}"
        );
        let found = fs::metadata(layer.join("d/suid")).unwrap();
        assert_eq!(
            (found.mode() & 0o7777, found.uid(), found.gid()),
            (0o6755, 7, 8)
        );
    });
}

/// A22.
#[test]
fn labels_of_another_machine() {
    in_world(|world| {
        let layer = fresh(world);
        let names = [
            "security.selinux",
            "security.ima",
            "security.evm",
            "system.nfs4_acl",
        ];
        let keys: Vec<_> = names
            .iter()
            .map(|name| format!("SCHILY.xattr.{name}"))
            .collect();
        let records: Vec<_> = keys
            .iter()
            .map(|key| (key.as_str(), &b"label"[..]))
            .collect();
        let archive = Archive::new()
            .pax(&records)
            .file("f", "")
            .pax(&[("SCHILY.xattr.user.a", b"b")])
            .symlink("s", "f");
        let applied = Apply::new(&layer).tar(&*archive.end()).unwrap();
        for name in names {
            let what = SkippedPart::Xattr(name.into());
            assert!(
                applied.skipped.iter().any(|skipped| skipped.what == what),
                "{name}"
            );
            assert_eq!(xattr(layer.join("f"), name), None);
        }
        // A symlink takes no user.* xattr.
        assert_eq!(applied.skipped_count, 5);
    });
}

/// A capability that cannot be set must not be lost without a word, nor a wrong one set.
#[test]
fn a_capability_of_no_version() {
    in_world(|world| {
        let archive = Archive::new()
            .pax(&[("SCHILY.xattr.security.capability", b"garbage")])
            .file("f", "");
        assert_eq!(refused(world, archive).kind(), ErrorKind::Malformed);
        let archive = Archive::new()
            .pax(&[("SCHILY.xattr.system.posix_acl_access", b"garbage")])
            .file("f", "");
        refused(world, archive);
    });
}

/// A23.
#[test]
fn ids_beyond_their_bits() {
    in_world(|world| {
        let uid =
            |bytes: [u8; 8]| Archive::new().add(Header::new("f", b'0').bytes(108, &bytes), "");
        for bytes in [
            [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            [0x80, 0, 0, 1, 0, 0, 0, 0],
            [0xff; 8],
            [0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 0],
            *b"77777778",
        ] {
            let error = refused(world, uid(bytes));
            assert_eq!(error.kind(), ErrorKind::Malformed, "{bytes:?}");
        }
        for text in [
            "4294967295",
            "4294967296",
            "-1",
            "18446744073709551616",
            " 0",
        ] {
            refused(
                world,
                Archive::new()
                    .pax(&[("uid", text.as_bytes())])
                    .file("f", ""),
            );
            refused(
                world,
                Archive::new()
                    .pax(&[("gid", text.as_bytes())])
                    .file("f", ""),
            );
        }
        if have(&[Need::Root]) {
            let layer = applied(world, uid([0x80, 0, 0, 0, 0x80, 0, 0, 0]));
            assert_eq!(fs::metadata(layer.join("f")).unwrap().uid(), 1 << 31);
        }
    });
}
