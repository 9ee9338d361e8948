use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cofferdam_overlay::{Apply, ErrorKind};

use crate::archive::{Archive, Header, directory, exists, in_world, names, read};
use crate::{applied, fresh, refused};

/// A directory outside, with a file in it and a mode of its own, that nothing may happen to.
struct Victim(PathBuf);

impl Victim {
    fn new(world: &Path) -> Self {
        let path = directory(world, "victim");
        fs::write(path.join("file"), "untouched").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        Victim(path)
    }

    fn assert_untouched(&self) {
        assert_eq!(names(&self.0), ["file"]);
        assert_eq!(read(self.0.join("file")), "untouched");
        assert_eq!(fs::metadata(self.0.join("file")).unwrap().nlink(), 1);
        assert_eq!(fs::metadata(&self.0).unwrap().mode() & 0o7777, 0o750);
    }
}

/// A1.
#[test]
fn dots_in_a_path() {
    in_world(|world| {
        for path in ["../x", "a/../../x", "..", "a/..", "/../x", "./../x"] {
            let error = refused(world, Archive::new().file(path, "x"));
            assert_eq!(error.kind(), ErrorKind::UnsafePath, "{path}");
        }
        assert!(!exists(world.join("x")));
    });
}

/// A2.
#[test]
fn an_absolute_path() {
    in_world(|world| {
        let layer = applied(world, Archive::new().file("/etc/cofferdam-attack", "x"));
        assert_eq!(read(layer.join("etc/cofferdam-attack")), "x");
        assert!(!exists("/etc/cofferdam-attack"));
    });
}

/// A3.
#[test]
fn a_symlink_to_write_through() {
    in_world(|world| {
        let victim = Victim::new(world);
        let up = format!("../../../../../../{}", victim.0.display());
        for target in [victim.0.to_str().unwrap(), &up] {
            let layer = applied(
                world,
                Archive::new()
                    .symlink("ln", target)
                    .file("ln/p", "x")
                    .file("ln/file", "x"),
            );
            let inside = layer.join(victim.0.strip_prefix("/").unwrap());
            assert_eq!(names(&inside), ["file", "p"]);
            victim.assert_untouched();
        }
        let link = victim.0.join("file");
        let layer = applied(
            world,
            Archive::new()
                .symlink("f", link.to_str().unwrap())
                .file("f", "x"),
        );
        assert_eq!(read(layer.join("f")), "x");
        victim.assert_untouched();
    });
}

/// A4: CVE-2026-33056 of the tar crate.
#[test]
fn a_directory_in_the_place_of_a_symlink() {
    in_world(|world| {
        let victim = Victim::new(world);
        let archive = Archive::new()
            .symlink("d", victim.0.to_str().unwrap())
            .add(Header::new("d", b'5').mode(0o777), "")
            .file("d/file", "x");
        let layer = applied(world, archive);
        assert!(fs::symlink_metadata(layer.join("d")).unwrap().is_dir());
        victim.assert_untouched();
    });
}

/// A5.
#[test]
fn a_hard_link_out() {
    in_world(|world| {
        let victim = Victim::new(world);
        let path = victim.0.to_str().unwrap();
        let file = victim.0.join("file");
        refused(world, Archive::new().link("h", "../../victim/file"));
        refused(world, Archive::new().link("h", file.to_str().unwrap()));
        refused(
            world,
            Archive::new().symlink("ln", path).link("h", "ln/file"),
        );
        refused(
            world,
            Archive::new()
                .symlink("ln", "../../../..")
                .link("h", format!("ln{}", file.display())),
        );
        // A link to a symlink is one to the symlink, not to what it points to.
        let archive = Archive::new()
            .symlink("s", file.to_str().unwrap())
            .link("h", "s")
            .file("h", "x");
        applied(world, archive);
        refused(world, Archive::new().link("h", "/"));
        refused(world, Archive::new().link("h", ""));
        victim.assert_untouched();
    });
}

/// A7.
#[test]
fn a_whiteout_of_what_is_outside() {
    in_world(|world| {
        let victim = Victim::new(world);
        for path in [
            "s/.wh...",
            ".wh.",
            ".wh..",
            ".wh.../x",
            "s/.wh.",
            ".wh.a/x",
            "d/.wh..wh..opq/x/../..",
        ] {
            let error = refused(world, Archive::new().file(path, ""));
            assert_eq!(error.kind(), ErrorKind::UnsafePath, "{path}");
        }
        let lower = directory(world, "lower");
        for target in ["/", victim.0.to_str().unwrap()] {
            let archive = Archive::new()
                .symlink("ln", target)
                .file("ln/.wh.victim", "")
                .file("ln/.wh.file", "")
                .file("ln/.wh..wh..opq", "");
            applied(world, archive.clone());
            Apply::new(fresh(world))
                .lower([&lower])
                .tar(&*archive.end())
                .unwrap();
        }
        victim.assert_untouched();
    });
}

/// A8: CVE-2021-29136 of umoci.
#[test]
fn a_symlink_as_the_root() {
    in_world(|world| {
        let victim = Victim::new(world);
        for path in [".", "/", "./", "//.//"] {
            for kind in [b'0', b'1', b'2', b'6'] {
                let header = Header::new(path, kind).link(victim.0.to_str().unwrap());
                let error = refused(world, Archive::new().add(header, "").file("file", "x"));
                assert!(matches!(
                    error.kind(),
                    ErrorKind::UnsafePath | ErrorKind::Malformed
                ));
            }
        }
        victim.assert_untouched();
    });
}

/// A21: CVE-2024-9676 of containers/storage, where a layer's file is one that never ends.
#[test]
fn a_lower_file_that_is_none() {
    in_world(|world| {
        let victim = Victim::new(world);
        let lower = applied(
            world,
            Archive::new()
                .add(Header::new("fifo", b'6'), "")
                .symlink("etc", victim.0.to_str().unwrap())
                .symlink("file", "/proc/kcore"),
        );
        let layer = fresh(world);
        let archive = Archive::new().link("a", "fifo").link("b", "file");
        Apply::new(&layer)
            .lower([&lower])
            .tar(&*archive.end())
            .unwrap();
        assert_eq!(
            fs::read_link(layer.join("b")).unwrap(),
            Path::new("/proc/kcore")
        );
        let layer = fresh(world);
        let archive = Archive::new().link("a", "etc/file");
        Apply::new(&layer)
            .lower([&lower])
            .tar(&*archive.end())
            .unwrap_err();
        victim.assert_untouched();
    });
}

/// A24.
#[test]
fn names_that_are_too_long_or_odd() {
    in_world(|world| {
        let named = |path: &[u8]| Archive::new().pax(&[("path", path)]).file("f", "");
        assert_eq!(refused(world, named(b"a\0b")).kind(), ErrorKind::Malformed);
        let long = [b"a/".repeat(2500), b"f".to_vec()].concat();
        assert_eq!(
            refused(world, named(&long)).kind(),
            ErrorKind::LimitExceeded
        );
        let deep = [b"a/".repeat(300), b"f".to_vec()].concat();
        assert_eq!(
            refused(world, named(&deep)).kind(),
            ErrorKind::LimitExceeded
        );
        assert_eq!(
            refused(world, named(&b"n".repeat(300))).kind(),
            ErrorKind::UnsafePath
        );
        let archive = Archive::new()
            .pax(&[("linkpath", &b"l".repeat(5000))])
            .symlink("s", "");
        assert_eq!(refused(world, archive).kind(), ErrorKind::InvalidInput);
        refused(world, Archive::new().file("", ""));
        refused(world, Archive::new().symlink("s", ""));
        let layer = applied(world, named(b"d/\xff\xfe\n"));
        let name = fs::read_dir(layer.join("d"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .file_name();
        assert_eq!(name.as_bytes(), b"\xff\xfe\n");
        // By symlinks it would be as deep as they like.
        let mut archive = Archive::new();
        for n in 0..30 {
            let path = format!("{}l", "x/".repeat(n * 15));
            archive = archive
                .pax(&[("path", path.as_bytes()), ("linkpath", &b"x/".repeat(15))])
                .symlink("l", "");
        }
        let error = refused(world, archive);
        assert!(
            matches!(
                error.kind(),
                ErrorKind::LimitExceeded | ErrorKind::UnsafePath
            ),
            "{error}"
        );
    });
}
