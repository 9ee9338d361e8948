//! Changes as the tar of a layer.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use cofferdam_overlay::{Diff, Digest, ErrorKind, IdRange, OmittedPart};
use cofferdam_testkit::{Need, have};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat, setxattr};

use crate::apply::{apply, entries};
use crate::tree::tree;
use crate::world::{World, in_world, root_of, write};

/// Whether the tar, applied to a copy of the only layer, gives what the overlay shows.
pub(crate) fn assert_gives_the_merged_tree(world: &World, what: &str) {
    let copy = world.base.join("copy");
    fs::create_dir(&copy).unwrap();
    let mut lower = Vec::new();
    Diff::of(&world.lowers[0]).write_tar(&mut lower).unwrap();
    apply(&lower, &copy);
    apply(&world.tar().0, &copy);
    let mount = world.mount();
    let (merged, applied) = (tree(&root_of(&mount)), tree(&copy));
    for (path, seen) in &merged {
        assert_eq!(applied.get(path), Some(seen), "{path:?} {what}");
    }
    assert_eq!(merged.len(), applied.len(), "{what}");
    fs::remove_dir_all(copy).unwrap();
}

#[test]
fn it_holds_all_there_is_of_a_file() {
    in_world(1, |world| {
        write(world.lowers[0].join("d/old"), "x");
        world.change(|root| {
            fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o1750)).unwrap();
            write(root.join("d/file"), "content");
            chown(root.join("d/file"), Some(70_000), Some(3_000_000)).unwrap();
            fs::set_permissions(root.join("d/file"), fs::Permissions::from_mode(0o6755)).unwrap();
            setxattr(
                root.join("d/file"),
                "trusted.a",
                b"1\n\0=2",
                XattrFlags::empty(),
            )
            .unwrap();
            let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let name = "security.capability";
            setxattr(root.join("d/old"), name, &capability, XattrFlags::empty()).unwrap();
            symlink("a".repeat(3000), root.join("long-link")).unwrap();
            symlink("target", root.join("link")).unwrap();
            lsetxattr(root.join("link"), "trusted.a", b"l", XattrFlags::empty()).unwrap();
            write(root.join("n".repeat(200)).join("m".repeat(200)), "deep");
            write(root.join(OsStr::from_bytes(b"\xff\xfe \n\x01")), "bytes");
            mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
            let device = makedev(511, 1_000_000);
            mknodat(
                CWD,
                root.join("block"),
                FileType::BlockDevice,
                Mode::RUSR,
                device,
            )
            .unwrap();
            let device = makedev(1, 3);
            mknodat(
                CWD,
                root.join("null"),
                FileType::CharacterDevice,
                Mode::RUSR,
                device,
            )
            .unwrap();
            let before = File::create(root.join("before")).unwrap();
            before
                .set_modified(SystemTime::UNIX_EPOCH - Duration::from_millis(1500))
                .unwrap();
        });
        assert_gives_the_merged_tree(world, "");
    });
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    in_world(1, |world| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let fill = |names: [&str; 3]| {
            for name in names {
                write(world.upper.join(name), name);
                File::open(world.upper.join(name))
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
            }
            fs::hard_link(world.upper.join("a"), world.upper.join("link")).unwrap();
            for name in ["d", "."] {
                File::open(world.upper.join(name))
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
            }
            world.tar()
        };
        let first = fill(["a", "b", "d/c"]);
        for entry in fs::read_dir(&world.upper).unwrap() {
            let path = entry.unwrap().path();
            fs::remove_file(&path)
                .or_else(|_| fs::remove_dir_all(&path))
                .unwrap();
        }
        let second = fill(["d/c", "b", "a"]);
        assert_eq!(first, second);
        assert_eq!(first.1.diff_id, Digest::of(&first.0));
        assert_eq!(
            (first.1.size, first.1.blob),
            (first.0.len() as u64, first.1.diff_id)
        );
    });
}

#[test]
fn hard_links_of_the_upper_are_links_and_whiteouts_are_not() {
    in_world(1, |world| {
        for name in ["gone1", "gone2", "d/gone3"] {
            write(world.lowers[0].join(name), "");
        }
        world.change(|root| {
            write(root.join("a"), "shared");
            fs::hard_link(root.join("a"), root.join("d/b")).unwrap();
            fs::hard_link(root.join("a"), root.join("z")).unwrap();
            for name in ["gone1", "gone2", "d/gone3"] {
                fs::remove_file(root.join(name)).unwrap();
            }
        });
        let (tar, _) = world.tar();
        let links: Vec<_> = entries(&tar)
            .into_iter()
            .filter(|entry| entry.kind == b'1')
            .collect();
        let names: Vec<_> = links
            .iter()
            .map(|entry| (&*entry.path, &*entry.link))
            .collect();
        assert_eq!(names, [(&b"d/b"[..], &b"a"[..]), (b"z", b"a")]);
        assert_gives_the_merged_tree(world, "");
    });
}

#[test]
fn escaped_xattrs_are_as_the_overlay_shows_them() {
    in_world(1, |world| {
        fs::create_dir(world.upper.join("d")).unwrap();
        for name in ["trusted.overlay.overlay.opaque", "trusted.overlay.origin"] {
            setxattr(world.upper.join("d"), name, b"1", XattrFlags::empty()).unwrap();
        }
        let (tar, _) = world.tar();
        let entry = entries(&tar)
            .into_iter()
            .find(|entry| entry.path == b"d/")
            .unwrap();
        let names: Vec<_> = entry
            .xattrs
            .keys()
            .map(|name| String::from_utf8_lossy(name))
            .collect();
        assert_eq!(names, ["trusted.overlay.opaque"]);
    });
}

#[test]
fn owners_are_mapped_back_or_refused() {
    in_world(1, |world| {
        write(world.upper.join("a"), "");
        chown(world.upper.join("a"), Some(100_007), Some(100_008)).unwrap();
        for root in [&world.upper, &world.lowers[0]] {
            chown(root, Some(100_000), Some(100_000)).unwrap();
        }
        let range = IdRange {
            inside: 0,
            outside: 100_000,
            count: 65_536,
        };
        let diff = world.diff().ids([range], [range]);
        let mut tar = Vec::new();
        diff.write_tar(&mut tar).unwrap();
        let owners: Vec<_> = entries(&tar)
            .iter()
            .map(|entry| (entry.uid, entry.gid))
            .collect();
        assert_eq!(owners, [(0, 0), (7, 8)]);
        chown(world.upper.join("a"), Some(5), Some(100_008)).unwrap();
        let error = diff.write_tar(Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(
            error.to_string(),
            "write a to a layer: user 5 has no id in the layer"
        );
    });
}

#[test]
fn later_times_are_clamped() {
    in_world(1, |world| {
        let old = SystemTime::UNIX_EPOCH + Duration::new(10, 5);
        File::create(world.upper.join("old"))
            .unwrap()
            .set_modified(old)
            .unwrap();
        write(world.upper.join("new"), "");
        let mut tar = Vec::new();
        world
            .diff()
            .clamp_modified(1000)
            .write_tar(&mut tar)
            .unwrap();
        let times: Vec<_> = entries(&tar).iter().map(|entry| entry.modified).collect();
        assert_eq!(times, [(1000, 0), (1000, 0), (10, 5)]);
    });
}

#[test]
fn sockets_are_left_out_and_told() {
    in_world(1, |world| {
        let listener = std::os::unix::net::UnixListener::bind(world.upper.join("socket")).unwrap();
        setxattr(
            world.upper.join("."),
            "trusted.a=b",
            b"",
            XattrFlags::empty(),
        )
        .unwrap();
        let (tar, written) = world.tar();
        drop(listener);
        assert_eq!(entries(&tar).len(), 1);
        let what: Vec<_> = written
            .skipped
            .iter()
            .map(|skipped| &skipped.what)
            .collect();
        assert_eq!(
            what,
            [
                &OmittedPart::Xattr(b"trusted.a=b".to_vec()),
                &OmittedPart::Socket
            ]
        );
        assert_eq!(written.skipped[1].path, Path::new("socket"));
    });
}

#[test]
fn names_that_would_be_whiteouts_are_refused() {
    in_world(1, |world| {
        write(world.upper.join("d/.wh.x"), "");
        assert_eq!(world.changes(), ["A d", "A d/.wh.x"]);
        let error = world.diff().write_tar(Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("d/.wh.x"));
    });
}

#[test]
fn a_compressed_layer_is_the_same_layer() {
    in_world(1, |world| {
        write(world.upper.join("a"), &"text".repeat(100_000));
        let (tar, plain) = world.tar();
        let mut compressed = Vec::new();
        let written = world.diff().write_tar_gz(&mut compressed, 6).unwrap();
        assert_eq!((written.diff_id, written.size), (plain.diff_id, plain.size));
        assert_eq!(written.blob, Digest::of(&compressed));
        assert_eq!(written.blob_size, compressed.len() as u64);
        assert_eq!(&compressed[..10], b"\x1f\x8b\x08\0\0\0\0\0\0\xff");
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..])
            .read_to_end(&mut read)
            .unwrap();
        assert_eq!(read, tar);
    });
}

#[test]
fn a_writer_that_fails_is_an_error() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("no more tape"))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    in_world(1, |world| {
        write(world.upper.join("a"), "");
        let error = world.diff().write_tar(Full).unwrap_err().to_string();
        assert!(error.contains("no more tape"), "{error}");
    });
}

#[test]
fn ten_thousand_entries_and_deep_trees_are_read_back_by_tar() {
    if !have(&[Need::Program("tar")]) {
        return;
    }
    in_world(1, |world| {
        for n in 0..10_000 {
            write(world.upper.join(format!("{}/{n}", n % 100)), "x");
        }
        let deep: std::path::PathBuf = std::iter::repeat_n("directory", 200).collect();
        write(world.upper.join(deep).join("file"), "deep");
        write(world.upper.join(OsStr::from_bytes(b"\xff")), "");
        setxattr(
            world.upper.join("1"),
            "trusted.a",
            b"1",
            XattrFlags::empty(),
        )
        .unwrap();
        let (tar, written) = world.tar();
        assert_eq!(written.entries, 1 + 100 + 10_000 + 200 + 1 + 1);
        assert_eq!(listed(&tar), written.entries as usize);
    });
}

/// How many entries GNU tar lists, without a complaint.
fn listed(tar: &[u8]) -> usize {
    let mut child = Command::new("tar")
        .args(["--list", "--verbose", "--file=-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(tar).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        output.stdout.split(|byte| *byte == b'\n').count() - 1
    })
}
