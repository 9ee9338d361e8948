//! Layers as one plain directory: the same as an overlay of them shows, and what takes its place where there is none.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

mod files;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, str};

use cofferdam_overlay::{Applied, ErrorKind, Flatten, Overlay, Switch, flatten};
use cofferdam_testkit::{Need, have, in_mount_namespace, refuse_syscall};
use files::{at, directory, names, tmpfs};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, makedev,
    mknodat, setxattr, utimensat,
};

#[test]
fn it_is_what_an_overlay_shows() {
    in_world(|world| {
        let layers = stack(world);
        let mount = Overlay::builder(&layers).detached().unwrap();
        let shown = listing(&at(&mount, ""));
        for how in [Flatten::Copy, Flatten::HardLink] {
            let target = world.join(format!("{how:?}"));
            let made = flatten(&layers, &target, how).unwrap();
            let listed = listing(&target);
            assert_eq!(listed, shown, "{how:?}");
            let directories = listed.values().filter(|entry| entry.starts_with("40"));
            assert_eq!(made.directories, directories.count() as u64);
            assert_eq!(made.directories + made.files, listed.len() as u64);
        }
        // The stack is as it was.
        let again = Overlay::builder(&layers).detached().unwrap();
        assert_eq!(listing(&at(&again, "")), shown);
    });
}

#[test]
fn a_copy_is_another_file_and_a_link_is_not() {
    in_world(|world| {
        let layers = stack(world);
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        let (copy, link) = (world.join("copy"), world.join("link"));
        flatten(&layers, &copy, Flatten::Copy).unwrap();
        flatten(&layers, &link, Flatten::HardLink).unwrap();
        let file = inode(layers[2].join("kept/one"));
        assert_ne!(inode(copy.join("kept/one")), file);
        assert_eq!(inode(link.join("kept/one")), file);
        // Names of one file stay that.
        assert_eq!(inode(copy.join("kept/one")), inode(copy.join("two")));
    });
}

#[test]
fn holes_stay_holes() {
    in_world(|world| {
        let a = directory(world, "a");
        let file = File::create(a.join("sparse")).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        File::create(a.join("hole"))
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        let target = world.join("t");
        let made = flatten([&a], &target, Flatten::Copy).unwrap();
        assert!(made.bytes < 1 << 20, "{made:?}");
        let copy = fs::metadata(target.join("sparse")).unwrap();
        assert_eq!(copy.len(), 64 << 20);
        assert!(copy.blocks() < 2048, "{}", copy.blocks());
        assert_eq!(fs::metadata(target.join("hole")).unwrap().len(), 8 << 20);
        let mut middle = [0; 6];
        let copy = File::open(target.join("sparse")).unwrap();
        copy.read_exact_at(&mut middle, 32 << 20).unwrap();
        assert_eq!(&middle, b"middle");
    });
}

#[test]
fn a_deep_stack_is_one_layer() {
    in_world(|world| {
        let layers: Vec<_> = (0..600)
            .map(|n| {
                let layer = directory(world, &format!("l/{n}"));
                fs::write(layer.join("all"), n.to_string()).unwrap();
                fs::write(layer.join(n.to_string()), "").unwrap();
                layer
            })
            .collect();
        let target = world.join("t");
        let made = flatten(&layers, &target, Flatten::HardLink).unwrap();
        assert_eq!((made.directories, made.files), (1, 601));
        assert_eq!(fs::read_to_string(target.join("all")).unwrap(), "0");
        let mount = Overlay::builder([&target]).scratch().detached().unwrap();
        assert_eq!(names(&at(&mount, "")).len(), 601);
    });
}

#[test]
fn what_is_mounted_below_a_layer_is_not_in_it() {
    in_world(|world| {
        let a = directory(world, "a");
        let below = directory(&a, "below");
        tmpfs(&below, "size=64k");
        fs::write(below.join("foreign"), "").unwrap();
        let target = world.join("t");
        flatten([&a], &target, Flatten::Copy).unwrap();
        assert!(names(&target.join("below")).is_empty());
    });
}

#[test]
fn what_cannot_be_flattened_is_refused() {
    in_world(|world| {
        let [a, full, empty] = ["a", "full", "empty"].map(|name| directory(world, name));
        fs::write(full.join("file"), "").unwrap();
        let kind = |layers: &[&PathBuf], target: &Path| {
            flatten(layers, target, Flatten::Copy).unwrap_err().kind()
        };
        assert_eq!(kind(&[], &empty), ErrorKind::InvalidInput);
        assert_eq!(kind(&[&a], &full), ErrorKind::AlreadyExists);
        assert_eq!(
            kind(&[&a, &world.join("gone")], &empty),
            ErrorKind::NotFound
        );
        assert_eq!(
            kind(&[&a, &full.join("file")], &empty),
            ErrorKind::InvalidInput
        );
        assert_eq!(kind(&[&a], &world.join("gone/t")), ErrorKind::NotFound);
        if !have(&[Need::Root]) {
            return;
        }
        let secret = directory(world, "secret");
        fs::write(secret.join("file"), "").unwrap();
        let redirected = directory(&a, "redirected");
        let none = XattrFlags::empty();
        setxattr(&redirected, "trusted.overlay.redirect", b"/secret", none).unwrap();
        let error = flatten([&a], &empty, Flatten::Copy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = format!(
            "copy redirected of layer {}: its redirect names another place",
            a.display()
        );
        assert_eq!(error.to_string(), text);
        let metacopy = directory(world, "m");
        fs::write(metacopy.join("file"), "").unwrap();
        setxattr(metacopy.join("file"), "trusted.overlay.metacopy", b"", none).unwrap();
        let error = flatten([&metacopy], world.join("t"), Flatten::Copy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    });
}

#[test]
fn a_whiteout_by_xattr_hides() {
    in_world(|world| {
        if !have(&[Need::Root]) {
            return;
        }
        let [top, bottom] = ["top", "bottom"].map(|name| directory(world, name));
        fs::write(bottom.join("gone"), "").unwrap();
        fs::write(bottom.join("kept"), "").unwrap();
        fs::write(top.join("gone"), "").unwrap();
        fs::write(top.join("new"), "").unwrap();
        let none = XattrFlags::empty();
        setxattr(&top, "trusted.overlay.opaque", b"x", none).unwrap();
        setxattr(top.join("gone"), "trusted.overlay.whiteout", b"y", none).unwrap();
        let target = world.join("t");
        flatten([&top, &bottom], &target, Flatten::Copy).unwrap();
        assert_eq!(names(&target), ["kept", "new"]);
        let mut marks = [0; 8];
        lgetxattr(&target, "trusted.overlay.opaque", &mut marks).unwrap_err();
    });
}

#[test]
fn without_overlayfs_layers_are_copied_if_that_was_asked_for() {
    in_world(|world| {
        let layers = stack(world);
        let target = directory(world, "mounted");
        let shown = listing(&at(&Overlay::builder(&layers).detached().unwrap(), ""));
        let plain = Overlay::builder(&layers).scratch();
        let asked = plain.clone().copy_fallback(world.join("copy"));
        let overlay = asked.detached().unwrap();
        assert_ne!(overlay.applied(), Applied::Copied);
        assert!(!world.join("copy").exists());
        drop(overlay);

        refuse_syscall(libc::SYS_fsopen);
        refuse_syscall(libc::SYS_mount);
        let error = plain.detached().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let copy = asked.detached().unwrap();
        assert_eq!(copy.applied(), Applied::Copied);
        assert_eq!(copy.applied().to_string(), "copied");
        assert_eq!(listing(&at(&copy, "")), shown);
        fs::write(at(&copy, "written"), "").unwrap();
        assert!(world.join("copy/written").exists());
        assert!(copy.effective().is_err());
        let mut attached = copy.attach(&target).unwrap();
        assert!(target.join("written").exists());
        attached.unmount().unwrap();
        assert_eq!(
            asked.detached().unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );

        let frozen = plain.nosuid().read_only().copy_fallback(world.join("ro"));
        let copy = frozen.detached().unwrap();
        let refused = fs::write(at(&copy, "written"), "").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    });
}

#[test]
fn a_stack_the_kernel_cannot_mount_is_copied() {
    in_world(|world| {
        let base = directory(world, "base");
        fs::write(base.join("file"), "lower").unwrap();
        let nested = directory(world, "nested");
        let lower = Overlay::builder([&base]).scratch().mount(&nested).unwrap();
        let (upper, work) = (directory(&nested, "u"), directory(&nested, "w"));
        fs::write(upper.join("new"), "upper").unwrap();
        let plain = Overlay::builder([&base]).upperdir(&upper, &work);
        let error = plain.detached().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let copy = plain.copy_fallback(world.join("copy")).detached().unwrap();
        assert_eq!(copy.applied(), Applied::Copied);
        assert_eq!(names(&at(&copy, "")), ["file", "new"]);
        fs::write(at(&copy, "file"), "written").unwrap();
        assert_eq!(names(&upper), ["new"]);

        let many = Overlay::builder(vec![&base; 501]).copy_fallback(world.join("many"));
        assert_eq!(many.detached().unwrap().applied(), Applied::Copied);
        drop(lower);
    });
}

#[test]
fn no_copy_hides_a_mistake() {
    in_world(|world| {
        let [a, upper, work] = ["a", "u", "w"].map(|name| directory(world, name));
        let with_copy = |overlay: Overlay| overlay.copy_fallback(world.join("copy"));
        let kept = with_copy(Overlay::builder([&a]).upperdir(&upper, &work));
        let first = kept.detached().unwrap();
        for (overlay, kind) in [
            (kept.clone(), ErrorKind::Busy),
            (
                with_copy(Overlay::builder([world.join("gone")])),
                ErrorKind::NotFound,
            ),
            (
                with_copy(Overlay::builder([&a]).upperdir(&a, directory(world, "w2"))),
                ErrorKind::InvalidInput,
            ),
            (
                with_copy(Overlay::builder([&a]).index(Switch::On)),
                ErrorKind::Unsupported,
            ),
        ] {
            let error = overlay.detached().unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
        assert!(!world.join("copy").exists());
        drop(first);
    });
}

/// Neither to mount nor to see trusted xattrs.
#[test]
fn a_user_without_rights_copies_layers_whose_marks_are_seen() {
    const SELF: &str = "a_user_without_rights_copies_layers_whose_marks_are_seen";
    if env::var_os("FLATTEN_USER").is_some() {
        return as_a_user(&env::temp_dir());
    }
    if !have(&[Need::Root, Need::Filesystem("overlay")]) || !Overlay::probe().userxattr {
        return;
    }
    in_world(|world| {
        let program = world.join("flatten");
        fs::copy(env::current_exe().unwrap(), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let home = directory(world, "home");
        chown(&home, Some(65_534), Some(65_534)).unwrap();
        let output = Command::new(&program)
            .args(["--exact", SELF, "--nocapture"])
            .uid(65_534)
            .gid(65_534)
            .env("TMPDIR", &home)
            .env("FLATTEN_USER", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert_eq!(names(&home.join("copy/dir")), ["above"]);
    });
}

fn as_a_user(home: &Path) {
    let [top, bottom] = ["top", "bottom"].map(|name| directory(home, name));
    for file in [top.join("dir/above"), bottom.join("dir/below")] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
    let none = XattrFlags::empty();
    setxattr(top.join("dir"), "user.overlay.opaque", b"y", none).unwrap();
    let copy = Overlay::builder([&top, &bottom]).copy_fallback(home.join("copy"));
    for error in [
        copy.detached().unwrap_err(),
        flatten([&top, &bottom], home.join("flat"), Flatten::Copy).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("trusted.*"), "{error}");
    }
    let copy = copy.scratch().userxattr();
    assert_eq!(
        copy.clone().nosuid().detached().unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
    fs::remove_dir_all(home.join("copy")).unwrap();
    let made = copy.detached().unwrap();
    assert_eq!(made.applied(), Applied::Copied);
    fs::write(at(&made, "dir/above"), "written").unwrap();
}

/// Three layers, the top one first, with everything there can be in them.
fn stack(world: &Path) -> [PathBuf; 3] {
    let layers = ["top", "middle", "bottom"].map(|name| directory(world, name));
    let [top, middle, bottom] = &layers;
    for (path, text) in [
        (bottom.join("kept/one"), "1"),
        (bottom.join("hidden/file"), ""),
        (bottom.join("opaque/below"), ""),
        (bottom.join("file-over-directory/inside"), ""),
        (bottom.join("directory-over-file"), "file"),
        (bottom.join("both/below"), "b"),
        (bottom.join("between/lost"), ""),
        (middle.join("between"), "a file ends it"),
        (middle.join("opaque/middle"), "m"),
        (middle.join("both/middle"), "m"),
        (top.join("between/found"), ""),
        (top.join("both/top"), "t"),
        (top.join("file-over-directory"), "now a file"),
        (top.join("directory-over-file/inside"), ""),
        (top.join("opaque/top"), ""),
    ] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::hard_link(bottom.join("kept/one"), bottom.join("two")).unwrap();
    symlink("/etc/passwd", bottom.join("link")).unwrap();
    symlink("missing", bottom.join("kept/dangling")).unwrap();
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, top.join("hidden"), FileType::CharacterDevice, mode, 0).unwrap();
    mknodat(CWD, bottom.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    let opaque = marks_prefix().to_owned() + "opaque";
    let none = XattrFlags::empty();
    setxattr(middle.join("opaque"), opaque, b"y", none).unwrap();
    if have(&[Need::Root]) {
        let device = makedev(1, 3);
        mknodat(
            CWD,
            bottom.join("null"),
            FileType::CharacterDevice,
            mode,
            device,
        )
        .unwrap();
        chown(bottom.join("kept/one"), Some(7), Some(8)).unwrap();
        chown(middle.join("both"), Some(9), Some(10)).unwrap();
        setxattr(bottom.join("two"), "trusted.mine", b"\x00\xff", none).unwrap();
        let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        setxattr(
            bottom.join("both/below"),
            "security.capability",
            capability,
            none,
        )
        .unwrap();
    }
    let set_mode = |path: PathBuf, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(bottom.join("kept/one"), 0o6755);
    set_mode(middle.join("both"), 0o1711);
    set_mode(top.clone(), 0o711);
    for (n, path) in ["kept/one", "link", "fifo", "kept", "."].iter().enumerate() {
        let stamp = |tv_sec| Timespec {
            tv_sec,
            tv_nsec: 123_456_789 + n as i64,
        };
        let times = Timestamps {
            last_access: stamp(-5),
            last_modification: stamp(1_000_000),
        };
        utimensat(CWD, bottom.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    layers
}

fn marks_prefix() -> &'static str {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    match map.split_whitespace().eq(["0", "0", "4294967295"]) {
        true => "trusted.overlay.",
        false => "user.overlay.",
    }
}

/// All that is in a directory, each with all there is to know of it.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = match path.as_os_str().is_empty() {
            true => root.join("."),
            false => root.join(&path),
        };
        let found = fs::symlink_metadata(&full).unwrap();
        if found.is_dir() {
            let entries = fs::read_dir(&full).unwrap();
            left.extend(entries.map(|entry| path.join(entry.unwrap().file_name())));
        }
        all.insert(path, describe(&full, &found));
    }
    all
}

fn describe(path: &Path, found: &fs::Metadata) -> String {
    let kind = found.file_type();
    let data = match (found.is_file(), found.is_symlink()) {
        (true, _) => String::from_utf8(fs::read(path).unwrap()).unwrap(),
        (_, true) => fs::read_link(path).unwrap().display().to_string(),
        _ if kind.is_char_device() => format!("device {}", found.rdev()),
        _ => String::new(),
    };
    let mut line = Vec::new();
    // Links of a directory and the size of one are the filesystem's own.
    write!(
        line,
        "{:o} {}:{} {}.{} {data:?}",
        found.mode(),
        found.uid(),
        found.gid(),
        found.mtime(),
        found.mtime_nsec()
    )
    .unwrap();
    let mut names = [0; 4096];
    let length = llistxattr(path, &mut names).unwrap();
    let mut names: Vec<_> = str::from_utf8(&names[..length])
        .unwrap()
        .split('\0')
        .collect();
    names.sort_unstable();
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        // Overlayfs hides its own, and a further name of a layer's file may have them.
        if name.starts_with(marks_prefix()) {
            continue;
        }
        let mut value = [0; 4096];
        let length = lgetxattr(path, name, &mut value).unwrap();
        write!(line, " {name}={:?}", &value[..length]).unwrap();
    }
    String::from_utf8(line).unwrap()
}

fn in_world(work: impl FnOnce(&Path) + Send) {
    if !have(&[Need::Namespaces, Need::Filesystem("overlay")]) {
        return;
    }
    in_mount_namespace(|| {
        let world = env::temp_dir();
        tmpfs(&world, "size=128m,mode=0755");
        work(&world);
    });
}
