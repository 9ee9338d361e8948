//! What an overlay does, however it was mounted: each test takes the function that mounts it.
#![allow(
    clippy::unwrap_used,
    reason = "in tests/ clippy sees only functions marked as tests"
)]

#[path = "../files/mod.rs"]
mod files;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, process, thread};

use cofferdam_overlay::{ErrorKind, Overlay, OverlayMount, Result};
use cofferdam_testkit::{Need, as_root_of_a_user_namespace, have, in_mount_namespace};
use files::{at, directory, names, read, tmpfs};
use rustix::fs::{fstatfs, getxattr, inotify};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_remount};

const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;

/// The way to mount that is under test.
pub(crate) type Detached = fn(&Overlay) -> Result<OverlayMount>;

/// Makes a test of each function named, with `$detached` as the way to mount.
macro_rules! tests {
    ($detached:path) => {
        table::tests!($detached;
            the_top_layer_wins
            what_is_written_goes_to_the_upper_and_stays_there
            what_is_written_to_a_scratch_upper_is_gone_with_it
            a_deleted_file_of_a_layer_is_hidden
            a_directory_made_again_is_empty
            a_read_only_overlay_refuses_writes
            a_read_only_overlay_cannot_be_made_writable_by_its_mount
            a_single_read_only_layer_is_an_overlay_too
            an_upper_without_the_xattrs_it_needs_is_refused
            it_is_in_no_mount_table
            it_ends_with_its_last_fd
            up_to_500_layers_are_stacked
            layers_over_500_are_refused_with_the_limit
            a_layer_that_is_missing_or_no_directory_is_named
            upper_and_work_on_different_filesystems_are_refused
            a_stack_the_kernel_refuses_is_an_error_with_a_reason
            a_missing_upper_or_work_is_named
            an_upper_the_kernel_cannot_work_with_is_an_error
            a_scratch_upper_has_its_size
            the_root_looks_like_the_top_layers
            layers_may_have_any_name
            paths_may_climb_over_the_root
            a_relative_layer_is_below_the_working_directory
            threads_mount_at_once
            the_hosts_root_is_a_layer_or_named_as_none
            only_a_scratch_upper_is_volatile
            it_can_be_attached_and_taken_away
            unmounting_it_from_another_mount_namespace_is_an_error
            all_of_it_works_in_a_user_namespace
        );
    };
    ($detached:path; $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                table::$name($detached);
            }
        )*
    };
}
pub(crate) use tests;

pub(crate) fn the_top_layer_wins(detached: Detached) {
    in_world(|world| {
        let (top, bottom) = (world.join("top"), world.join("bottom"));
        write(&top.join("both"), "top");
        write(&bottom.join("both"), "bottom");
        write(&bottom.join("below"), "bottom");
        for overlay in [
            Overlay::builder([&top, &bottom]),
            Overlay::builder([&top, &bottom]).scratch(),
        ] {
            let mount = detached(&overlay).unwrap();
            assert_eq!(read(at(&mount, "both")), "top");
            assert_eq!(read(at(&mount, "below")), "bottom");
        }
    });
}

pub(crate) fn what_is_written_goes_to_the_upper_and_stays_there(detached: Detached) {
    in_world(|world| {
        let (layer, upper, work) = (
            world.join("a"),
            directory(world, "u"),
            directory(world, "w"),
        );
        write(&layer.join("file"), "lower");
        let overlay = Overlay::builder([&layer]).upperdir(&upper, &work);
        let mount = detached(&overlay).unwrap();
        fs::write(at(&mount, "file"), "changed").unwrap();
        fs::write(at(&mount, "new"), "made").unwrap();
        drop(mount);
        assert_eq!(read(upper.join("file")), "changed");
        assert_eq!(read(upper.join("new")), "made");
        assert_eq!(read(layer.join("file")), "lower");
        assert_eq!(names(&layer), ["file"]);

        let again = detached(&overlay).unwrap();
        assert_eq!(read(at(&again, "file")), "changed");
        fs::write(at(&again, "new"), "made again").unwrap();
        assert_eq!(read(upper.join("new")), "made again");
    });
}

pub(crate) fn what_is_written_to_a_scratch_upper_is_gone_with_it(detached: Detached) {
    in_world(|world| {
        let layer = world.join("a");
        write(&layer.join("file"), "lower");
        let overlay = Overlay::builder([&layer]).scratch();
        let mount = detached(&overlay).unwrap();
        fs::write(at(&mount, "file"), "changed").unwrap();
        assert_eq!(read(at(&mount, "file")), "changed");
        let other = detached(&overlay).unwrap();
        assert_eq!(read(at(&other, "file")), "lower");
        drop(mount);
        assert_eq!(read(layer.join("file")), "lower");
        assert_eq!(names(world), ["a"]);
    });
}

pub(crate) fn a_deleted_file_of_a_layer_is_hidden(detached: Detached) {
    in_world(|world| {
        let layer = world.join("a");
        write(&layer.join("file"), "lower");
        let mount = detached(&Overlay::builder([&layer]).scratch()).unwrap();
        fs::remove_file(at(&mount, "file")).unwrap();
        assert!(names(&at(&mount, "")).is_empty());
        assert_eq!(read(layer.join("file")), "lower");
    });
}

pub(crate) fn a_directory_made_again_is_empty(detached: Detached) {
    in_world(|world| {
        let (layer, upper, work) = (
            world.join("a"),
            directory(world, "u"),
            directory(world, "w"),
        );
        write(&layer.join("dir/file"), "lower");
        for overlay in [
            Overlay::builder([&layer]).scratch(),
            Overlay::builder([&layer]).upperdir(&upper, &work),
        ] {
            let mount = detached(&overlay).unwrap();
            fs::remove_dir_all(at(&mount, "dir")).unwrap();
            fs::create_dir(at(&mount, "dir")).unwrap();
            assert!(names(&at(&mount, "dir")).is_empty());
        }
    });
}

pub(crate) fn a_read_only_overlay_refuses_writes(detached: Detached) {
    in_world(|world| {
        let (top, bottom) = (world.join("top"), world.join("bottom"));
        let (upper, work) = (directory(world, "u"), directory(world, "w"));
        write(&top.join("file"), "top");
        write(&bottom.join("file"), "bottom");
        write(&upper.join("mine"), "upper");
        let layers = || Overlay::builder([&top, &bottom]);
        let with_upper = layers().upperdir(&upper, &work).read_only();
        for overlay in [
            Overlay::builder([&top]),
            Overlay::builder([&top]).scratch().read_only(),
            layers(),
            layers().read_only(),
            layers().scratch().read_only(),
            with_upper.clone(),
        ] {
            let mount = detached(&overlay).unwrap();
            assert_eq!(read(at(&mount, "file")), "top");
            let refused = [
                fs::write(at(&mount, "file"), "changed").unwrap_err(),
                fs::write(at(&mount, "new"), "made").unwrap_err(),
                fs::remove_file(at(&mount, "file")).unwrap_err(),
            ];
            assert!(
                refused
                    .iter()
                    .all(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem),
                "{overlay:?}: {refused:?}"
            );
        }
        let mount = detached(&with_upper).unwrap();
        assert_eq!(read(at(&mount, "mine")), "upper");
    });
}

pub(crate) fn a_read_only_overlay_cannot_be_made_writable_by_its_mount(detached: Detached) {
    in_world(|world| {
        let (top, bottom) = (world.join("top"), directory(world, "bottom"));
        let (upper, work) = (directory(world, "u"), directory(world, "w"));
        let target = directory(world, "target");
        write(&top.join("file"), "top");
        let layers = || Overlay::builder([&top, &bottom]);
        for overlay in [
            Overlay::builder([&top]),
            Overlay::builder([&top]).scratch().read_only(),
            layers(),
            layers().scratch().read_only(),
            layers().upperdir(&upper, &work).read_only(),
        ] {
            let mut mounted = detached(&overlay).unwrap().attach(&target).unwrap();
            mount_remount(&target, MountFlags::BIND, "").unwrap();
            let options = format!(" {} rw,", target.display());
            let table = read(Path::new("/proc/thread-self/mountinfo"));
            assert!(table.contains(&options), "{table}");
            for name in ["file", "new"] {
                let refused = fs::write(target.join(name), "changed").unwrap_err();
                assert_eq!(
                    refused.kind(),
                    io::ErrorKind::ReadOnlyFilesystem,
                    "{overlay:?}"
                );
            }
            mounted.unmount().unwrap();
        }
        assert_eq!(names(&upper), [""; 0]);
        assert_eq!(read(top.join("file")), "top");
    });
}

pub(crate) fn a_single_read_only_layer_is_an_overlay_too(detached: Detached) {
    in_world(|world| {
        let layer = world.join("a");
        write(&layer.join("file"), "lower");
        let mount = detached(&Overlay::builder([&layer])).unwrap();
        assert_eq!(names(&at(&mount, "")), ["file"]);
        let filesystem = fstatfs(mount.as_fd()).unwrap().f_type as u64;
        assert_eq!(filesystem, OVERLAYFS_SUPER_MAGIC);
        drop(mount);
        // What is mounted on the layer later does not reach the copy, as it would a peer.
        mount_change(world, MountPropagationFlags::SHARED).unwrap();
        let target = directory(world, "target");
        fs::create_dir(layer.join("later")).unwrap();
        let copy = detached(&Overlay::builder([&layer])).unwrap();
        let mut copy = copy.attach(&target).unwrap();
        tmpfs(&layer.join("later"), "size=64k");
        write(&layer.join("later/file"), "above");
        assert!(names(&target.join("later")).is_empty());
        copy.unmount().unwrap();
        write(&layer.join("still-writable"), "");
    });
}

/// ramfs has no xattrs on any kernel, as tmpfs has no `user.*` ones before Linux 6.6.
pub(crate) fn an_upper_without_the_xattrs_it_needs_is_refused(detached: Detached) {
    if !in_user_namespace() || !have(&[Need::Namespaces, Need::Filesystem("overlay")]) {
        return;
    }
    in_mount_namespace(|| {
        let world = env::temp_dir();
        mount("ramfs", &world, "ramfs", MountFlags::empty(), None).unwrap();
        let (layer, upper, work) = (
            directory(&world, "a"),
            directory(&world, "u"),
            directory(&world, "w"),
        );
        assert!(!has_user_xattrs(&world));
        let error = detached(&Overlay::builder([&layer]).upperdir(&upper, &work)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let start = format!("{} takes no user.* xattrs", upper.display());
        assert!(error.to_string().starts_with(&start), "{error}");
    });
}

pub(crate) fn it_is_in_no_mount_table(detached: Detached) {
    in_world(|world| {
        let (top, bottom) = (directory(world, "top"), directory(world, "bottom"));
        // As on a host: what another namespace mounts would come back here.
        let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
        mount_change("/", shared).unwrap();
        let table = || read(Path::new("/proc/thread-self/mountinfo"));
        let before = table();
        for overlay in [
            Overlay::builder([&top]),
            Overlay::builder([&top, &bottom]),
            Overlay::builder([&top, &bottom]).scratch(),
        ] {
            let mount = detached(&overlay).unwrap();
            assert_eq!(table(), before);
            drop(mount);
            assert_eq!(table(), before);
        }
    });
}

pub(crate) fn it_ends_with_its_last_fd(detached: Detached) {
    in_world(|world| {
        let (layer, upper, work) = (
            world.join("a"),
            directory(world, "u"),
            directory(world, "w"),
        );
        write(&layer.join("file"), "lower");
        for overlay in [
            Overlay::builder([&layer]).scratch(),
            Overlay::builder([&layer]).upperdir(&upper, &work),
        ] {
            let mount = detached(&overlay).unwrap();
            let watch = Watch::new(&at(&mount, "file"));
            let copy = mount.as_fd().try_clone_to_owned().unwrap();
            drop(mount.into_fd());
            assert!(!watch.saw_unmount(Duration::ZERO));
            drop(copy);
            assert!(watch.saw_unmount(Duration::from_secs(10)));
        }
    });
}

pub(crate) fn up_to_500_layers_are_stacked(detached: Detached) {
    in_world(|world| {
        let layers: Vec<_> = (0..500).map(|n| world.join(format!("{n}"))).collect();
        for (n, layer) in layers.iter().enumerate() {
            write(&layer.join("which"), &n.to_string());
            write(&layer.join(format!("only-{n}")), "");
        }
        for count in [1, 3, 128, 500] {
            for overlay in [
                Overlay::builder(&layers[..count]).scratch(),
                Overlay::builder(&layers[..count]),
            ] {
                let mount = detached(&overlay).unwrap();
                assert_eq!(read(at(&mount, "which")), "0");
                assert_eq!(names(&at(&mount, "")).len(), count + 1);
            }
        }
    });
}

pub(crate) fn layers_over_500_are_refused_with_the_limit(detached: Detached) {
    in_world(|world| {
        let layer = directory(world, "a");
        let error = detached(&Overlay::builder(vec![&layer; 501]).scratch()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().ends_with("at most 500"), "{error}");
    });
}

pub(crate) fn a_layer_that_is_missing_or_no_directory_is_named(detached: Detached) {
    in_world(|world| {
        let (good, gone, file) = (
            directory(world, "a"),
            world.join("gone"),
            world.join("file"),
        );
        write(&file, "");
        for (bad, kind, errno) in [
            (&gone, ErrorKind::NotFound, "ENOENT"),
            (&file, ErrorKind::InvalidInput, "ENOTDIR"),
        ] {
            for overlay in [
                Overlay::builder([bad]),
                Overlay::builder([&good, bad]),
                Overlay::builder([bad, &good]).scratch(),
            ] {
                let error = detached(&overlay).unwrap_err();
                assert_eq!(error.kind(), kind);
                let expected = format!("open layer {}: {errno}: ", bad.display());
                assert!(error.to_string().starts_with(&expected), "{error}");
            }
        }
    });
}

pub(crate) fn upper_and_work_on_different_filesystems_are_refused(detached: Detached) {
    in_world(|world| {
        let (layer, upper, other) = (
            directory(world, "a"),
            directory(world, "u"),
            directory(world, "other"),
        );
        tmpfs(&other, "size=64k");
        let work = directory(&other, "w");
        let error = detached(&Overlay::builder([&layer]).upperdir(&upper, &work)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(
            error.to_string(),
            format!(
                "upperdir {} and workdir {} must be on the same mount",
                upper.display(),
                work.display()
            )
        );
    });
}

pub(crate) fn a_stack_the_kernel_refuses_is_an_error_with_a_reason(detached: Detached) {
    in_world(|world| {
        let (a, b, work) = (
            directory(world, "a"),
            directory(world, "b"),
            directory(world, "w"),
        );
        for (overlay, reason) in [
            (
                Overlay::builder([&a, &a]).scratch(),
                "the same directory twice",
            ),
            (
                Overlay::builder([&b, &a]).upperdir(&a, &work),
                "upperdir /tmp/a and layer /tmp/a must not be inside",
            ),
            (
                Overlay::builder([&a, world]).upperdir(&b, &work),
                "upperdir /tmp/b and layer /tmp must not be inside",
            ),
            (
                Overlay::builder([&a]).upperdir(&b, &b),
                "upperdir /tmp/b and workdir /tmp/b must not be inside",
            ),
            (
                Overlay::builder([&a]).upperdir(&b, directory(&b, "w")),
                "must not be inside each other",
            ),
            (
                Overlay::builder([&a]).upperdir(directory(&work, "u"), &work),
                "must not be inside each other",
            ),
        ] {
            let error = detached(&overlay).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            let reason = reason.replace("/tmp", world.to_str().unwrap());
            assert!(error.to_string().contains(&reason), "{error}");
        }
    });
}

pub(crate) fn a_missing_upper_or_work_is_named(detached: Detached) {
    in_world(|world| {
        let (layer, upper, gone) = (
            directory(world, "a"),
            directory(world, "u"),
            world.join("gone"),
        );
        for (upper, work, what) in [(&upper, &gone, "workdir"), (&gone, &upper, "upperdir")] {
            let error = detached(&Overlay::builder([&layer]).upperdir(upper, work)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
            let expected = format!("open {what} {}: ENOENT", gone.display());
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    });
}

/// The kernel mounts it read-only, and tells its log only, where it cannot make `work/work`.
pub(crate) fn an_upper_the_kernel_cannot_work_with_is_an_error(detached: Detached) {
    in_world(|world| {
        let (layer, full) = (directory(world, "a"), directory(world, "full"));
        tmpfs(&full, "size=64k,nr_inodes=3");
        let (upper, work) = (directory(&full, "u"), directory(&full, "w"));
        let error = detached(&Overlay::builder([&layer]).upperdir(&upper, &work)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Os, "{error}");
        assert!(error.to_string().contains("read-only"), "{error}");
        assert!(
            error.to_string().contains(work.to_str().unwrap()),
            "{error}"
        );
    });
}

pub(crate) fn a_scratch_upper_has_its_size(detached: Detached) {
    in_world(|world| {
        let layer = directory(world, "a");
        let mount = detached(&Overlay::builder([&layer]).scratch_size(1 << 20)).unwrap();
        let mut file = File::create(at(&mount, "file")).unwrap();
        file.write_all(&[1; 512 << 10]).unwrap();
        let full = file.write_all(&[1; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        fs::remove_file(at(&mount, "file")).unwrap();
        drop(file);
        let full = (0..1100).find_map(|n| File::create(at(&mount, &n.to_string())).err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::StorageFull);
    });
}

pub(crate) fn the_root_looks_like_the_top_layers(detached: Detached) {
    in_world(|world| {
        let (top, bottom) = (directory(world, "top"), directory(world, "bottom"));
        fs::set_permissions(&top, fs::Permissions::from_mode(0o1751)).unwrap();
        if !in_user_namespace() {
            chown(&top, Some(7), Some(8)).unwrap();
        }
        let like = fs::metadata(&top).unwrap();
        for overlay in [
            Overlay::builder([&top, &bottom]).scratch(),
            Overlay::builder([&top, &bottom]),
            Overlay::builder([&top]),
        ] {
            let mount = detached(&overlay).unwrap();
            let root = fs::metadata(at(&mount, "")).unwrap();
            assert_eq!(root.mode(), like.mode());
            assert_eq!((root.uid(), root.gid()), (like.uid(), like.gid()));
        }
    });
}

pub(crate) fn layers_may_have_any_name(detached: Detached) {
    in_world(|world| {
        let mut bytes = b"a,b:c\\d e=\"\n\xff'".to_vec();
        let strange = OsString::from_vec(bytes.clone());
        bytes.resize(200, b'x');
        let component = OsString::from_vec(bytes);
        let long = [&component; 5].iter().collect::<PathBuf>();
        let (strange, long) = (world.join(strange), world.join(long));
        assert!(long.as_os_str().len() > 1000);
        write(&strange.join("file"), "strange");
        write(&strange.join("strange"), "");
        write(&long.join("file"), "long");
        write(&long.join("long"), "");
        let (upper, work) = (directory(&long, "u,p:"), directory(&long, "w,k:"));
        let plain = directory(world, "b");
        for (overlay, first) in [
            (Overlay::builder([&long]), "long"),
            (Overlay::builder([&strange, &long]), "strange"),
            (Overlay::builder([&long, &strange]).scratch(), "long"),
            (
                Overlay::builder([&strange, &plain]).upperdir(&upper, &work),
                "strange",
            ),
        ] {
            let mount = detached(&overlay).unwrap();
            assert_eq!(read(at(&mount, "file")), first);
        }
    });
}

pub(crate) fn paths_may_climb_over_the_root(detached: Detached) {
    in_world(|world| {
        for name in ["a", "b", "u", "w"] {
            directory(world, name);
        }
        let climbing = |name: &str| {
            let below_root = world.strip_prefix("/").unwrap();
            Path::new("/proc/..").join(below_root).join(name)
        };
        let overlay = Overlay::builder([climbing("a"), climbing("b")]);
        let mount = detached(&overlay.upperdir(climbing("u"), climbing("w"))).unwrap();
        fs::write(at(&mount, "file"), "upper").unwrap();
        assert_eq!(read(world.join("u/file")), "upper");
    });
}

pub(crate) fn a_relative_layer_is_below_the_working_directory(detached: Detached) {
    in_world(|world| {
        write(&world.join("a/file"), "lower");
        write(&world.join("b/c/below"), "lower");
        symlink("b/c", world.join("link")).unwrap();
        // This thread, like its mount namespace, has a working directory of its own.
        rustix::process::chdir(world).unwrap();
        let mount = detached(&Overlay::builder(["a", "./link"]).scratch()).unwrap();
        assert_eq!(names(&at(&mount, "")), ["below", "file"]);
    });
}

pub(crate) fn threads_mount_at_once(detached: Detached) {
    in_world(|world| {
        let layers: Vec<_> = (0..8).map(|n| directory(world, &n.to_string())).collect();
        thread::scope(|scope| {
            for (n, layer) in layers.iter().enumerate() {
                write(&layer.join("which"), &n.to_string());
                let overlay = Overlay::builder([layer, &layers[(n + 1) % 8]]).scratch();
                scope.spawn(move || {
                    for round in 0..10 {
                        let mount = detached(&overlay).unwrap();
                        assert_eq!(read(at(&mount, "which")), n.to_string());
                        fs::write(at(&mount, "mine"), round.to_string()).unwrap();
                        assert_eq!(read(at(&mount, "mine")), round.to_string());
                    }
                });
            }
        });
    });
}

/// Where `/` has mounts below it that a user namespace may not uncover, the kernel refuses it as a layer.
pub(crate) fn the_hosts_root_is_a_layer_or_named_as_none(detached: Detached) {
    if !have(&[Need::Namespaces, Need::Filesystem("overlay")]) {
        return;
    }
    if in_user_namespace() {
        let below = env::temp_dir();
        for overlay in [
            Overlay::builder([Path::new("/")]),
            Overlay::builder([Path::new("/"), &below]),
            Overlay::builder([&below, Path::new("/")]),
        ] {
            let error = detached(&overlay).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert!(error.to_string().contains("layer /: E"), "{error}");
        }
        return;
    }
    let host = HostFile::new();
    let mount = detached(&Overlay::builder(["/"]).scratch()).unwrap();
    let merged = at(&mount, host.below_root().to_str().unwrap());
    assert_eq!(read(&merged), "the host's");
    let mut file = File::options().append(true).open(&merged).unwrap();
    file.write_all(b", changed").unwrap();
    let new = merged.with_extension("new");
    fs::write(&new, "").unwrap();
    assert_eq!(read(&merged), "the host's, changed");
    assert_eq!(read(&host.0), "the host's");
    assert!(new.exists());
    assert!(!host.0.with_extension("new").exists());
    assert!(names(&at(&mount, "proc")).is_empty());
    assert!(at(&mount, "dev").is_dir());
}

pub(crate) fn only_a_scratch_upper_is_volatile(detached: Detached) {
    in_world(|world| {
        let (layer, target) = (directory(world, "a"), directory(world, "target"));
        let (upper, work) = (directory(world, "u"), directory(world, "w"));
        for (overlay, volatile) in [
            (Overlay::builder([&layer]).scratch(), true),
            (Overlay::builder([&layer]).upperdir(&upper, &work), false),
        ] {
            let mut mounted = detached(&overlay).unwrap().attach(&target).unwrap();
            let table = read(Path::new("/proc/thread-self/mountinfo"));
            let place = format!(" {} ", target.display());
            let line = table.lines().find(|line| line.contains(&place)).unwrap();
            assert_eq!(line.contains("volatile"), volatile, "{line}");
            assert_eq!(line.contains("userxattr"), in_user_namespace(), "{line}");
            assert!(line.contains(" - overlay overlay rw,"), "{line}");
            mounted.unmount().unwrap();
        }
    });
}

pub(crate) fn it_can_be_attached_and_taken_away(detached: Detached) {
    in_world(|world| {
        let (layer, target) = (world.join("a"), directory(world, "target"));
        write(&layer.join("file"), "lower");
        let overlay = Overlay::builder([&layer]).scratch();
        let table = || read(Path::new("/proc/thread-self/mountinfo"));
        let before = table();

        let mut mounted = detached(&overlay).unwrap().attach(&target).unwrap();
        assert_eq!(read(target.join("file")), "lower");
        assert_eq!(mounted.target(), target);
        let open = File::open(target.join("file")).unwrap();
        let busy = mounted.unmount().unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
        let start = format!("umount {}: EBUSY: ", target.display());
        assert!(busy.to_string().starts_with(&start), "{busy}");
        assert_eq!(read(target.join("file")), "lower");
        mounted.unmount_lazy().unwrap();
        assert!(names(&target).is_empty());
        assert_eq!(io::read_to_string(open).unwrap(), "lower");
        assert_eq!(table(), before);

        let mut idle = detached(&overlay).unwrap().attach(&target).unwrap();
        idle.unmount().unwrap();
        assert_eq!(table(), before);
        idle.unmount().unwrap();
        drop(idle);

        drop(detached(&overlay).unwrap().attach(&target).unwrap());
        assert_eq!(table(), before);

        let kept = detached(&overlay).unwrap().attach(&target).unwrap();
        assert_eq!(kept.persist(), target);
        assert_eq!(read(target.join("file")), "lower");
        rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
        assert_eq!(table(), before);

        let mut gone = detached(&overlay).unwrap().attach(&target).unwrap();
        rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).unwrap();
        gone.unmount().unwrap();

        let error = detached(&overlay).unwrap().attach(world.join("gone"));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(table(), before);
    });
}

pub(crate) fn unmounting_it_from_another_mount_namespace_is_an_error(detached: Detached) {
    in_world(|world| {
        let (layer, target) = (world.join("a"), directory(world, "target"));
        write(&layer.join("file"), "lower");
        let overlay = Overlay::builder([&layer]).scratch();
        let mut mounted = detached(&overlay).unwrap().attach(&target).unwrap();
        let error = in_mount_namespace(|| mounted.unmount()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let start = format!("umount {}: EINVAL: ", target.display());
        assert!(error.to_string().starts_with(&start), "{error}");
        assert!(error.to_string().contains("mount namespace"), "{error}");
        assert_eq!(read(target.join("file")), "lower");
        mounted.unmount().unwrap();
        assert!(names(&target).is_empty());
    });
}

/// Runs all other tests of this binary as root of a user namespace with one id.
pub(crate) fn all_of_it_works_in_a_user_namespace(_: Detached) {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let mut others = Command::new(env::current_exe().unwrap());
    others
        .args(["--test-threads=1", "--skip", "user_namespace"])
        .env_remove("COFFERDAM_STRICT");
    let output = as_root_of_a_user_namespace(&mut others).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("running 0 tests"), "{text}");
}

/// Runs `work` in a mount namespace of its own, with an empty tmpfs to work in.
fn in_world(work: impl FnOnce(&Path) + Send) {
    if !have(&[Need::Namespaces, Need::Filesystem("overlay")]) {
        return;
    }
    in_mount_namespace(|| {
        let world = env::temp_dir();
        tmpfs(&world, "size=64m,mode=0755");
        if in_user_namespace() && !has_user_xattrs(&world) {
            let needs = "user.* xattrs on tmpfs in a user namespace";
            cofferdam_testkit::skip(needs, !cofferdam_testkit::is_emulated());
            return;
        }
        work(&world);
    });
}

fn in_user_namespace() -> bool {
    read(Path::new("/proc/self/uid_map"))
        .split_whitespace()
        .ne(["0", "0", "4294967295"])
}

fn has_user_xattrs(directory: &Path) -> bool {
    let read = getxattr(directory, "user.overlay.opaque", &mut [0; 1]);
    read != Err(Errno::OPNOTSUPP)
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A file on the filesystem of `/` itself, removed when dropped.
struct HostFile(PathBuf);

impl HostFile {
    fn new() -> Self {
        let root = fs::metadata("/").unwrap().dev();
        let exe = env::current_exe().unwrap();
        let places = [&env::temp_dir(), exe.parent().unwrap(), Path::new("/")];
        let place = places
            .into_iter()
            .find(|place| fs::metadata(place).is_ok_and(|found| found.dev() == root))
            .unwrap();
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let path = place.join(format!("cofferdam-{}-{thread}", process::id()));
        fs::write(&path, "the host's").unwrap();
        HostFile(path.canonicalize().unwrap())
    }

    fn below_root(&self) -> &Path {
        self.0.strip_prefix("/").unwrap()
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        let removed = fs::remove_file(&self.0);
        assert!(removed.is_ok() || thread::panicking(), "{removed:?}");
    }
}

/// Tells when the filesystem that a file is on ends, which is when its last mount has.
struct Watch(File);

impl Watch {
    fn new(path: &Path) -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).unwrap();
        inotify::add_watch(&inotify, path, inotify::WatchFlags::ATTRIB).unwrap();
        Watch(File::from(inotify))
    }

    fn saw_unmount(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
            let mut events = inotify::Reader::new(&self.0, &mut buffer);
            while let Ok(event) = events.next() {
                if event.events().contains(inotify::ReadFlags::UNMOUNT) {
                    return true;
                }
            }
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
