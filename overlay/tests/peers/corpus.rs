//! A small Debian, with files of every kind, and two upgrades of it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, utimensat,
};

use crate::archive::directory;
use crate::programs::run;
use crate::world::World;

const PACKAGES: [&str; 7] = [
    "base-files",
    "dash",
    "debianutils",
    "grep",
    "libc6",
    "login",
    "sed",
];

/// GNU tar of `tree`, with all it can keep.
pub(crate) fn tar(world: &World, tree: &Path, name: &str) -> PathBuf {
    let archive = world.path(name);
    let arguments = [
        OsStr::new("--format=pax"),
        "--sort=name".as_ref(),
        "--numeric-owner".as_ref(),
        "--xattrs".as_ref(),
        "--xattrs-include=*".as_ref(),
        "--sparse".as_ref(),
        "-C".as_ref(),
        tree.as_ref(),
        "-cf".as_ref(),
        archive.as_ref(),
        ".".as_ref(),
    ];
    run("tar", &arguments, world).unwrap();
    archive
}

/// GNU tar's unpacking of all but whiteouts.
pub(crate) fn extract(world: &World, archive: &Path, target: &Path) {
    let arguments = [
        OsStr::new("--numeric-owner"),
        "--same-owner".as_ref(),
        "--xattrs".as_ref(),
        "--xattrs-include=*".as_ref(),
        "--exclude=.wh.*".as_ref(),
        "-C".as_ref(),
        target.as_ref(),
        "-xpf".as_ref(),
        archive.as_ref(),
    ];
    run("tar", &arguments, world).unwrap();
}

/// Debian packages as they are installed on this machine, and what else there may be in an image.
pub(crate) fn base(world: &World) -> PathBuf {
    let (tree, list) = (world.directory("base"), world.path("list"));
    fs::write(&list, installed(world)).unwrap();
    let archive = world.path("packages.tar");
    let arguments = [
        OsStr::new("--no-recursion"),
        "--null".as_ref(),
        "--xattrs".as_ref(),
        "--format=pax".as_ref(),
        "-C".as_ref(),
        "/".as_ref(),
        "-T".as_ref(),
        list.as_ref(),
        "-cf".as_ref(),
        archive.as_ref(),
    ];
    run("tar", &arguments, world).unwrap();
    extract(world, &archive, &tree);
    fs::remove_file(archive).unwrap();
    oddities(&directory(&tree, "odd"));
    at(&tree, ".", 1_500_000_000, 999_999_999);
    tree
}

/// Their paths with no symlink on the way, and those of all directories above.
fn installed(world: &World) -> Vec<u8> {
    let arguments = [&["-L"][..], &PACKAGES].concat();
    let listed = run("dpkg-query", &arguments, world).unwrap();
    let mut paths = BTreeSet::new();
    for path in listed.lines().map(Path::new) {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        let Ok(parent) = parent.canonicalize() else {
            continue;
        };
        let path = parent.join(name);
        let mine = ["/tmp", "/run", "/var/lib", "/proc", "/sys", "/dev"];
        let large = path.to_string_lossy().contains("gconv");
        if !large
            && path.symlink_metadata().is_ok()
            && !mine.iter().any(|own| path.starts_with(own))
        {
            paths.extend(path.ancestors().map(Path::to_owned));
        }
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        let link = Path::new("/").join(link);
        if link.is_symlink() {
            paths.insert(link);
        }
    }
    let named = paths.iter().filter_map(|path| path.strip_prefix("/").ok());
    let named = named.filter(|path| path.components().next().is_some());
    let bytes = named.flat_map(|path| [path.as_os_str().as_bytes(), b"\0"].concat());
    bytes.collect()
}

fn oddities(root: &Path) {
    let long: OsString = format!("{}/{}", "d".repeat(120), "n".repeat(150)).into();
    let deep: OsString = vec!["deep"; 100].join("/").into();
    for name in ["d/e", "empty", "bye/bye"]
        .map(OsString::from)
        .iter()
        .chain([&long, &deep])
    {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    for (number, size) in [0, 1, 511, 512, 513, 4096, 300_000].into_iter().enumerate() {
        let bytes: Vec<u8> = (0..size)
            .map(|n: usize| (n * 7 + n / 253 + number) as u8)
            .collect();
        fs::write(root.join(format!("d/file{number}")), bytes).unwrap();
    }
    fs::write(root.join(&long).join("f".repeat(200)), "long").unwrap();
    fs::write(root.join(&deep).join("file"), "deep").unwrap();
    fs::write(
        root.join(OsString::from_vec(b"d/not \xff\xfe utf-8\n".to_vec())),
        "odd",
    )
    .unwrap();
    fs::write(root.join("bye/file"), "bye").unwrap();
    sparse(&root.join("sparse"));
    links_and_nodes(root);
    metadata(root);
}

fn sparse(path: &Path) {
    let file = fs::File::create(path).unwrap();
    file.write_all_at(&[1; 5000], 100 << 10).unwrap();
    file.write_all_at(&[2; 4096], 1 << 20).unwrap();
    file.set_len(3 << 20).unwrap();
}

fn links_and_nodes(root: &Path) {
    symlink("../nowhere", root.join("d/symlink")).unwrap();
    symlink("x".repeat(300), root.join("d/long symlink")).unwrap();
    for name in ["hard", "d/e/hard"] {
        fs::hard_link(root.join("d/file3"), root.join(name)).unwrap();
    }
    fs::hard_link(root.join("d/symlink"), root.join("hard symlink")).unwrap();
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("null", FileType::CharacterDevice, 0x103),
        ("disk", FileType::BlockDevice, 0x800),
    ] {
        mknodat(
            CWD,
            root.join(name),
            kind,
            Mode::from_raw_mode(0o640),
            device,
        )
        .unwrap();
    }
}

fn metadata(root: &Path) {
    chown(root.join("d/file1"), Some(3_000_000), Some(77)).unwrap();
    chown(root.join("d/e"), Some(5), Some(6)).unwrap();
    lchown(root.join("d/symlink"), Some(8), Some(9)).unwrap();
    for (name, mode) in [
        ("d/file1", 0o6755),
        ("d/file4", 0),
        ("d/e", 0o3700),
        ("empty", 0o1777),
        ("fifo", 0o622),
    ] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    // cap_net_raw=ep
    let capability = [&[1, 0, 0, 2, 0, 32][..], &[0; 14]].concat();
    for (name, key, value) in [
        ("d/file2", "security.capability", &*capability),
        ("d/file2", "user.binary", b"\0\n=\xff"),
        ("d", "user.d", b"d"),
        ("d/file5", "trusted.a", b"b"),
    ] {
        lsetxattr(root.join(name), key, value, XattrFlags::empty()).unwrap();
    }
    at(root, "d/file0", 1, 500_000_000);
    at(root, "d/file2", 4_000_000_000, 7);
    at(root, "d/symlink", 1_234_567_890, 1);
    at(root, "d/e", 1_234_567_890, 123_456_789);
    at(root, "d", 0, 0);
    at(root, ".", 1_600_000_000, 1);
}

fn at(root: &Path, name: impl AsRef<Path>, seconds: i64, nanoseconds: i64) {
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

/// What a first upgrade does to a tree: files and links made, written to, removed and replaced by other kinds.
pub(crate) fn upgrade(root: &Path) {
    let odd = root.join("odd");
    fs::write(root.join("etc/debian_version"), "upgraded\n").unwrap();
    fs::write(root.join("etc/upgraded"), "first").unwrap();
    fs::create_dir_all(odd.join("new/inner")).unwrap();
    fs::write(odd.join("new/inner/file"), "first").unwrap();
    fs::hard_link(odd.join("new/inner/file"), odd.join("new/hard")).unwrap();
    fs::write(odd.join("new/removed later"), "first").unwrap();
    fs::write(odd.join("new/inner/hidden later"), "first").unwrap();
    fs::remove_dir_all(odd.join("bye")).unwrap();
    fs::remove_file(odd.join("fifo")).unwrap();
    fs::remove_file(odd.join("d/file4")).unwrap();
    fs::remove_dir(odd.join("empty")).unwrap();
    fs::write(odd.join("empty"), "a file where a directory was").unwrap();
    fs::remove_file(odd.join("d/long symlink")).unwrap();
    fs::create_dir(odd.join("d/long symlink")).unwrap();
    fs::write(
        odd.join("d/long symlink/file"),
        "a directory where a symlink was",
    )
    .unwrap();
    fs::remove_file(odd.join("disk")).unwrap();
    symlink("null", odd.join("disk")).unwrap();
    fs::set_permissions(odd.join("d/file0"), fs::Permissions::from_mode(0o4711)).unwrap();
    // By the whole second: umoci repack rounds to it.
    for (seconds, name) in [
        "etc/debian_version",
        "etc/upgraded",
        "etc",
        "odd/new/inner/file",
        "odd/new/removed later",
        "odd/new/inner/hidden later",
        "odd/new/inner",
        "odd/new",
        "odd/empty",
        "odd/d/long symlink/file",
        "odd/d/long symlink",
        "odd/disk",
        "odd/d/file0",
        "odd/d",
        "odd",
    ]
    .into_iter()
    .enumerate()
    {
        at(root, name, 1_700_000_000 + seconds as i64, 0);
    }
}

/// What a second upgrade removes.
const REMOVED: [&str; 3] = ["odd/new/removed later", "odd/d/e", "odd/hard symlink"];
/// What it empties.
const EMPTIED: [&str; 2] = ["odd/new/inner", "usr/share/doc/sed"];

/// A layer written by hand, with whiteouts and opaque directories: its tree with their names.
pub(crate) fn second(world: &World) -> PathBuf {
    let tree = world.directory("second");
    for path in REMOVED {
        let path = tree.join(path);
        let mut name = OsString::from(".wh.");
        name.push(path.file_name().unwrap());
        let parent = path.parent().unwrap();
        fs::create_dir_all(parent).unwrap();
        fs::write(parent.join(name), "").unwrap();
    }
    for path in EMPTIED {
        let path = tree.join(path);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(".wh..wh..opq"), "").unwrap();
        fs::write(path.join("instead"), "second").unwrap();
    }
    fs::write(tree.join("odd/empty"), "second").unwrap();
    fs::write(tree.join("odd/d/file2"), "without xattrs").unwrap();
    fs::hard_link(tree.join("odd/empty"), tree.join("odd/hard")).unwrap();
    // GNU tar, and only it, leaves a directory the xattrs that its entry has not.
    lsetxattr(
        tree.join("odd/d"),
        "user.d",
        b"another",
        XattrFlags::empty(),
    )
    .unwrap();
    let mut todo = vec![tree.clone()];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|name| name.unwrap().path()),
            );
        }
        at(
            path.parent().unwrap(),
            path.file_name().unwrap(),
            1_710_000_000,
            987_654_321,
        );
    }
    tree
}

/// What must be gone before the files of [`second`] are put into a tree.
pub(crate) fn make_room(root: &Path) {
    for path in REMOVED.into_iter().chain(EMPTIED) {
        let path = root.join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}

/// What a container on all of them does.
pub(crate) fn container(root: &Path) {
    upgrade_once_more(&root.join("odd"));
    fs::remove_dir_all(root.join("usr/share/doc/grep")).unwrap();
    fs::create_dir(root.join("usr/share/doc/grep")).unwrap();
    fs::write(root.join("usr/share/doc/grep/again"), "container").unwrap();
    fs::remove_file(root.join("etc/upgraded")).unwrap();
    fs::write(root.join("etc/debian_version"), "container\n").unwrap();
    fs::rename(root.join("usr/bin/sed"), root.join("usr/bin/sed.real")).unwrap();
    symlink("sed.real", root.join("usr/bin/sed")).unwrap();
}

fn upgrade_once_more(odd: &Path) {
    fs::write(odd.join("d/file2"), "container").unwrap();
    let capability = [&[1, 0, 0, 2, 0, 32][..], &[0; 14]].concat();
    lsetxattr(
        odd.join("d/file2"),
        "security.capability",
        &capability,
        XattrFlags::empty(),
    )
    .unwrap();
    fs::remove_file(odd.join("sparse")).unwrap();
    fs::create_dir(odd.join("sparse")).unwrap();
    fs::write(odd.join("sparse/one"), "container").unwrap();
    fs::hard_link(odd.join("sparse/one"), odd.join("sparse/two")).unwrap();
    fs::remove_dir_all(odd.join("deep/deep/deep")).unwrap();
    fs::write(odd.join("deep/deep/deep"), "not deep").unwrap();
    chown(odd.join("d/file5"), Some(9), Some(10)).unwrap();
    at(odd, "d/file5", 1_720_000_000, 42);
}
