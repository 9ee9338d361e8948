//! GNU tar as the judge: on archives it writes, and of odd headers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use cofferdam_overlay::{Apply, ErrorKind};
use cofferdam_testkit::{Need, have};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, llistxattr, lsetxattr, mknodat,
    utimensat,
};

use crate::archive::{Archive, Header, directory, in_world, names, xattr};

fn tar(arguments: &[&str], directory: &Path) -> Vec<u8> {
    let output = Command::new("tar")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// The VM has another.
fn tar_is_gnus() -> bool {
    let output = Command::new("tar").arg("--version").output().unwrap();
    let gnu = output.stdout.starts_with(b"tar (GNU tar)");
    if !gnu {
        cofferdam_testkit::skip("GNU tar", !cofferdam_testkit::is_emulated());
    }
    gnu
}

/// All of a tree that an archive keeps: by path the type, mode, owner, mtime, links, blocks, xattrs and contents.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut inodes) = (BTreeMap::new(), BTreeMap::new());
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = path.symlink_metadata().unwrap();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let mut text = format!(
            "{:o} {}:{} {}.{:09} {:x}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.rdev()
        );
        if !stat.is_dir() {
            text += &format!(" {} {}", stat.nlink(), stat.blocks());
            let first = inodes.entry(stat.ino()).or_insert(relative.clone());
            text += &format!(" as {}", first.display());
        }
        let mut list = vec![0; 4096];
        let length = llistxattr(&path, &mut list).unwrap();
        let mut xattrs: Vec<_> = list[..length]
            .split(|byte| *byte == 0)
            .filter(|n| !n.is_empty())
            .collect();
        xattrs.sort_unstable();
        for name in xattrs {
            let name = std::str::from_utf8(name).unwrap();
            text += &format!(" {name}={:?}", xattr(&path, name));
        }
        if stat.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&path)
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            names.sort();
            names.reverse();
            todo.extend(names);
        } else if stat.is_symlink() {
            text += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        } else if stat.is_file() {
            text += &format!(
                " {:?}",
                cofferdam_overlay::Digest::of(fs::read(&path).unwrap())
            );
        }
        found.insert(relative, text);
    }
    found
}

/// Each kind of file with odd metadata.
fn corpus(world: &Path) -> PathBuf {
    let root = directory(world, "corpus");
    let long = format!("{}/{}", "d".repeat(120), "n".repeat(150));
    for name in ["d/e", "empty", &long] {
        directory(&root, name);
    }
    for (number, size) in [0, 1, 511, 512, 513, 4096, 300_000, 1_000_000]
        .into_iter()
        .enumerate()
    {
        let bytes: Vec<u8> = (0..size)
            .map(|n: usize| (n * 7 + n / 253 + number) as u8)
            .collect();
        fs::write(root.join(format!("d/file{number}")), bytes).unwrap();
    }
    fs::write(root.join(&long).join("f".repeat(200)), "long").unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"d/not \xff\xfe utf-8\n");
    fs::write(root.join(odd), "odd").unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[1; 5000], 100 << 10).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[2; 4096], 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    symlink("../nowhere", root.join("d/symlink")).unwrap();
    symlink("x".repeat(300), root.join("d/long symlink")).unwrap();
    fs::hard_link(root.join("d/file3"), root.join("hard")).unwrap();
    fs::hard_link(root.join("d/symlink"), root.join("hard symlink")).unwrap();
    mknodat(
        CWD,
        root.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    if have(&[Need::Root]) {
        mknodat(
            CWD,
            root.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            0x103,
        )
        .unwrap();
        mknodat(
            CWD,
            root.join("disk"),
            FileType::BlockDevice,
            Mode::from_raw_mode(0o660),
            0x800,
        )
        .unwrap();
        chown(root.join("d/file1"), Some(3_000_000_000), Some(77)).unwrap();
        chown(root.join("d/e"), Some(5), Some(6)).unwrap();
        std::os::unix::fs::lchown(root.join("d/symlink"), Some(8), Some(9)).unwrap();
        let capability = [&[1, 0, 0, 2][..], &[4; 16]].concat();
        lsetxattr(
            root.join("d/file2"),
            "security.capability",
            &capability,
            XattrFlags::empty(),
        )
        .unwrap();
        lsetxattr(
            root.join("d/symlink"),
            "trusted.a",
            b"b",
            XattrFlags::empty(),
        )
        .unwrap();
    }
    for (name, mode) in [
        ("d/file1", 0o6755),
        ("d/file4", 0),
        ("d/e", 0o3700),
        ("empty", 0o1777),
        ("fifo", 0o622),
    ] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    lsetxattr(
        root.join("d/file2"),
        "user.binary",
        b"\0\n=\xff",
        XattrFlags::empty(),
    )
    .unwrap();
    lsetxattr(root.join("d"), "user.d", b"d", XattrFlags::empty()).unwrap();
    for (name, seconds, nanoseconds) in [
        ("d/file0", -5, 500_000_000),
        ("d/symlink", 1, 1),
        ("d/e", 4_000_000_000, 7),
        ("d", 0, 0),
    ] {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, root.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    root
}

#[test]
fn what_gnu_tar_extracts_is_what_is_applied() {
    if !have(&[Need::Program("tar")]) || !tar_is_gnus() {
        return;
    }
    in_world(|world| {
        let corpus = corpus(world);
        for (number, options) in [
            &["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse"][..],
            &[
                "--format=pax",
                "--xattrs",
                "--xattrs-include=*",
                "--sparse",
                "--sparse-version=0.0",
            ],
            &[
                "--format=pax",
                "--xattrs",
                "--xattrs-include=*",
                "--sparse",
                "--sparse-version=0.1",
            ],
            &["--format=gnu", "--sparse"],
            &["--format=gnu"],
            &[
                "--format=ustar",
                "--exclude=dddddd*",
                "--exclude=long*",
                "--exclude=file0",
                "--exclude=file1",
            ],
        ]
        .into_iter()
        .enumerate()
        {
            let archive = tar(
                &[options, &["--numeric-owner", "-c", "."]].concat(),
                &corpus,
            );
            let theirs = directory(world, &format!("theirs{number}"));
            let file = world.join(format!("{number}.tar"));
            fs::write(&file, &archive).unwrap();
            let extract = [
                "--numeric-owner",
                "--same-owner",
                "--xattrs",
                "--xattrs-include=*",
                "-xpf",
                file.to_str().unwrap(),
            ];
            tar(&extract, &theirs);
            let ours = directory(world, &format!("ours{number}"));
            Apply::new(&ours).tar(&*archive).unwrap();
            let (ours, theirs) = (tree(&ours), tree(&theirs));
            for (path, theirs) in &theirs {
                assert_eq!(
                    ours.get(path),
                    Some(theirs),
                    "{} with {options:?}",
                    path.display()
                );
            }
            assert_eq!(ours.len(), theirs.len());
            assert!(ours.len() > 10);
        }
    });
}

fn lists_as_gnu_tar(world: &Path, archive: Archive) {
    let bytes = archive.end();
    let file = world.join("odd.tar");
    fs::write(&file, &bytes).unwrap();
    let listing = tar(&["-tf", file.to_str().unwrap()], world);
    let mut theirs: Vec<_> = String::from_utf8(listing)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    theirs.sort();
    let count = fs::read_dir(world).unwrap().count();
    let layer = directory(world, &format!("odd{count}"));
    Apply::new(&layer).tar(&*bytes).unwrap();
    assert_eq!(names(&layer), theirs);
}

#[test]
fn odd_headers_are_read_as_gnu_tar_reads_them() {
    if !have(&[Need::Program("tar")]) || !tar_is_gnus() {
        return;
    }
    in_world(|world| {
        let header = |name: &str| Header::new(name, b'0');
        // A size by PAX is that of the file, not that of the long name before it, in either order.
        let inner = Archive::new().file("nested", "").end();
        let size = inner.len().to_string();
        let long = "l".repeat(150) + "\0";
        let pax: &[(&str, &[u8])] = &[("size", size.as_bytes())];
        let whole = |archive: Archive| archive.add(header("f"), &inner).file("after", "");
        lists_as_gnu_tar(world, whole(Archive::new().pax(pax)));
        lists_as_gnu_tar(world, whole(Archive::new().pax(pax).extended(b'L', &long)));
        lists_as_gnu_tar(world, whole(Archive::new().extended(b'L', &long).pax(pax)));
        // The last of two long names; numbers between spaces, in base 256, with no end; old types and no magic.
        lists_as_gnu_tar(
            world,
            Archive::new()
                .extended(b'L', "one\0")
                .extended(b'L', "two\0junk")
                .file("f", ""),
        );
        lists_as_gnu_tar(
            world,
            Archive::new()
                .add(header("f").bytes(124, b"   3 \0      "), "abc")
                .file("g", ""),
        );
        lists_as_gnu_tar(
            world,
            Archive::new().add(
                header("f").bytes(124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]),
                "abc",
            ),
        );
        lists_as_gnu_tar(
            world,
            Archive::new()
                .add(header("f").bytes(124, b"000000000003"), "abc")
                .file("g", ""),
        );
        lists_as_gnu_tar(
            world,
            Archive::new().add(
                header("f").bytes(257, &[0; 8]).bytes(156, &[0]).size(3),
                "abc",
            ),
        );
        lists_as_gnu_tar(
            world,
            Archive::new()
                .add(Header::new("f", b'7').size(3), "abc")
                .file("g", ""),
        );
        // A prefix is one of ustar only.
        lists_as_gnu_tar(
            world,
            Archive::new().add(header("f").bytes(345, b"p").bytes(257, b"ustar  \0"), ""),
        );
        // A name of just 100 bytes has no NUL. A link's size is not one of a body.
        lists_as_gnu_tar(
            world,
            Archive::new()
                .file("n".repeat(100), "")
                .add(Header::new("l", b'1').link("n".repeat(100)).size(512), ""),
        );
        // What a global header says of the time holds for all, what a local one says for one.
        lists_as_gnu_tar(
            world,
            Archive::new()
                .extended(b'g', "11 mtime=5\n")
                .pax(&[("path", b"a")])
                .file("x", "")
                .file("y", ""),
        );
    });
}

#[test]
fn where_readers_disagree_it_is_refused() {
    in_world(|world| {
        let layer = directory(world, "layer");
        let refused = |archive: Vec<u8>, why: &str| {
            let error = Apply::new(&layer).tar(&*archive).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(names(&layer), [""; 0]);
        };
        let nested = Archive::new().file("nested", "").end();
        refused(
            Archive::new()
                .add(Header::new("d", b'5').size(512), &nested[..512])
                .end(),
            "body",
        );
        refused(
            Archive::new()
                .add(Header::new("s", b'2').link("x").size(512), &nested[..512])
                .end(),
            "body",
        );
        refused(Archive::new().file("d/", "body").end(), "directory's name");
        refused(Archive::new().raw(&[0; 512]).file("f", "").end(), "lone");
        refused(
            Archive::new()
                .pax(&[("path", b"a")])
                .pax(&[("mtime", b"1")])
                .file("f", "")
                .end(),
            "two PAX",
        );
        refused(
            Archive::new()
                .pax(&[("path", b"a")])
                .extended(b'L', "b\0")
                .file("f", "")
                .end(),
            "two names",
        );
        refused(
            Archive::new()
                .extended(b'g', "10 size=0\n")
                .file("f", "x")
                .end(),
            "global",
        );
        refused(
            Archive::new().add(Header::new("f", b'A'), "").end(),
            "unknown type",
        );
        refused(
            Archive::new()
                .add(Header::new("f", b'0').bytes(124, b"9\0"), "")
                .end(),
            "octal",
        );
        refused(
            Archive::new().file("f", "").pax(&[("path", b"a")]).end(),
            "extended header",
        );
        refused(vec![b'x'; 2048], "no tar header");
        let sparse = |map: &[u8]| {
            Archive::new()
                .pax(&[("GNU.sparse.size", b"1000"), ("GNU.sparse.map", map)])
                .file("f", [1; 20])
                .end()
        };
        for map in [
            &b"0,30"[..],
            b"0,10,5,10",
            b"990,20",
            b"0,10",
            b"0",
            b"18446744073709551615,20",
            b"0,18446744073709551615,1,21",
        ] {
            refused(sparse(map), "sparse");
        }
        Apply::new(&layer)
            .tar(&*sparse(b"0,10,980,10,1000,0"))
            .unwrap();
    });
}
