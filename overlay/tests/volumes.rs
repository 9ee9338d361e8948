//! Named volumes: made once, filled like the directory they take the place of, and never seen half.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use cofferdam_overlay::{ErrorKind, VolumeStore};
use cofferdam_testkit::{Need, have, in_mount_namespace};
use rustix::mount::{MountFlags, mount};

/// A world of its own on a tmpfs.
fn in_world(test: impl FnOnce(&Path) + Send) {
    if !have(&[Need::Root]) {
        return;
    }
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        mount(
            "tmpfs",
            &world,
            "tmpfs",
            MountFlags::empty(),
            c"size=256m,mode=0755",
        )
        .unwrap();
        test(&world);
    });
}

fn root(world: &Path) -> File {
    let data = world.join("root/var/lib/db");
    fs::create_dir_all(data.join("sub")).unwrap();
    fs::write(data.join("sub/file"), "content").unwrap();
    fs::set_permissions(data.join("sub/file"), PermissionsExt::from_mode(0o4640)).unwrap();
    fs::set_permissions(&data, PermissionsExt::from_mode(0o700)).unwrap();
    for path in ["", "sub", "sub/file"] {
        std::os::unix::fs::lchown(data.join(path), Some(70), Some(71)).unwrap();
    }
    fs::set_permissions(data.join("sub/file"), PermissionsExt::from_mode(0o4640)).unwrap();
    File::open(world.join("root")).unwrap()
}

fn shape(path: PathBuf) -> (u32, u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.mode() & 0o7777, found.uid(), found.gid())
}

#[test]
fn a_new_volume_is_like_the_directory_and_an_old_one_as_it_was() {
    in_world(|world| {
        let root = root(world);
        let store = VolumeStore::open(world.join("volumes")).unwrap();
        let target = Path::new("/var/lib/db");
        let used = store.filled("db", &root, target).unwrap();
        assert_eq!(used.path(), store.path("db").unwrap());
        assert_eq!(shape(used.path().to_owned()), (0o700, 70, 71));
        assert_eq!(shape(used.path().join("sub/file")), (0o4640, 70, 71));
        fs::remove_dir_all(used.path().join("sub")).unwrap();
        drop(used);
        let again = store.filled("db", &root, target).unwrap();
        assert_eq!(
            fs::read_dir(again.path()).unwrap().count(),
            0,
            "filled twice"
        );
        let none = store.filled("none", &root, Path::new("/no/such")).unwrap();
        assert_eq!(shape(none.path().to_owned()), (0o755, 0, 0));
        assert_eq!(store.names().unwrap(), ["db", "none"]);
    });
}

#[test]
fn links_of_the_root_lead_nowhere_else() {
    in_world(|world| {
        let root = root(world);
        fs::create_dir(world.join("secret")).unwrap();
        fs::write(world.join("secret/file"), "").unwrap();
        symlink(world.join("secret"), world.join("root/out")).unwrap();
        symlink("../../../secret", world.join("root/up")).unwrap();
        symlink("/var/lib/db", world.join("root/in")).unwrap();
        let store = VolumeStore::open(world.join("volumes")).unwrap();
        for name in ["out", "up", "in"] {
            let used = store
                .filled(name, &root, &Path::new("/").join(name))
                .unwrap();
            let entries = fs::read_dir(used.path()).unwrap();
            let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            let expected: &[&str] = if name == "in" { &["sub"] } else { &[] };
            assert_eq!(names, expected, "{name}");
        }
    });
}

#[test]
fn many_at_once_fill_it_once() {
    in_world(|world| {
        let root = root(world);
        let store = VolumeStore::open(world.join("volumes")).unwrap();
        for turn in 0..20 {
            let name = format!("v{turn}");
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let path = Path::new("/var/lib/db");
                        let used = store.filled(&name, &root, path).unwrap();
                        // Whoever has it has all of it; the first to remove a file does not see it come back.
                        assert!(used.path().join("sub").is_dir());
                        let _first = fs::remove_file(used.path().join("sub/file"));
                        assert!(!used.path().join("sub/file").exists());
                    });
                }
            });
        }
        let left = fs::read_dir(world.join("volumes/removed")).unwrap();
        assert_eq!(left.count(), 0);
    });
}

#[test]
fn it_is_removed_when_nobody_uses_it() {
    in_world(|world| {
        let store = VolumeStore::open(world.join("volumes")).unwrap();
        let (one, two) = (store.volume("db").unwrap(), store.volume("db").unwrap());
        fs::create_dir_all(one.path().join("a/b/c")).unwrap();
        fs::write(one.path().join("a/b/c/file"), "").unwrap();
        drop(one);
        let error = store.remove("db").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        drop(two);
        store.remove("db").unwrap();
        assert_eq!(store.remove("db").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(store.names().unwrap().is_empty());
        assert_eq!(
            fs::read_dir(world.join("volumes/removed")).unwrap().count(),
            0
        );
        assert_eq!(
            fs::read_dir(world.join("volumes/volumes")).unwrap().count(),
            0
        );
    });
}

#[test]
fn users_and_removers_at_once_never_share_a_volume() {
    in_world(|world| {
        let store = VolumeStore::open(world.join("volumes")).unwrap();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let used = store.volume("v").unwrap();
                        fs::write(used.path().join("x"), "").unwrap();
                        assert!(used.path().join("x").exists());
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..300 {
                    if let Err(error) = store.remove("v") {
                        let kind = error.kind();
                        assert!(
                            [ErrorKind::Busy, ErrorKind::NotFound].contains(&kind),
                            "{error}"
                        );
                    }
                }
            });
        });
    });
}

#[test]
fn bad_names_and_directories_are_refused_and_garbage_is_swept() {
    in_world(|world| {
        let store = VolumeStore::open(world.join("volumes")).unwrap();
        for name in ["", "..", "a/b", ".x", "-x", "ä", &"x".repeat(129)] {
            let error = store.volume(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        fs::create_dir_all(world.join("volumes/removed/1-2-3/data/deep")).unwrap();
        let _again = VolumeStore::open(world.join("volumes")).unwrap();
        assert_eq!(
            fs::read_dir(world.join("volumes/removed")).unwrap().count(),
            0
        );
        fs::create_dir(world.join("other")).unwrap();
        fs::write(world.join("other/file"), "").unwrap();
        let mode = PermissionsExt::from_mode(0o700);
        fs::set_permissions(world.join("other"), mode).unwrap();
        let error = VolumeStore::open(world.join("other")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    });
}
