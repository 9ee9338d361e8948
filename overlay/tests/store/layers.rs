//! Layers of a store.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use cofferdam_overlay::{Digest, ErrorKind, Expected, Flaw, LayerStore, chain_id};
use cofferdam_testkit::{as_root_of_a_user_namespace, turns};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use crate::rootless::{is_there, runs_there, takes_user_marks};
use crate::world::{in_world, in_world_of, tar};

/// What is read where nothing should be.
struct Unread;

impl Read for Unread {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("it was read"))
    }
}

#[test]
fn layers_are_stacked_and_a_known_one_is_not_read_again() {
    in_world(|world| {
        let base = tar(&world.base, &[("a", "base"), ("d/b", "base")]);
        let app = tar(&world.base, &[("a", "app")]);
        let below = world
            .store
            .apply(None, &base[..], Expected::default())
            .unwrap();
        let top = world
            .store
            .apply(Some(&below), &app[..], Expected::default())
            .unwrap();
        assert_eq!(below.chain_id(), Digest::of(&base));
        assert_eq!(top.diff_ids(), [Digest::of(&base), Digest::of(&app)]);
        assert_eq!(
            top.chain_id(),
            chain_id(Some(below.chain_id()), Digest::of(&app))
        );
        assert_eq!(world.read(&top, "a").as_deref(), Some("app"));
        assert_eq!(world.read(&top, "d/b").as_deref(), Some("base"));
        assert_eq!((below.usage().bytes, below.usage().inodes), (8, 3));

        let expected = Expected::diff_id(Digest::of(&app));
        let again = world.store.apply(Some(&below), Unread, expected).unwrap();
        assert_eq!(again.directories(), top.directories());
        assert_eq!(
            world.store.layer(top.chain_id()).unwrap().directories(),
            top.directories()
        );
        assert_eq!(world.store.check().unwrap(), []);
    });
}

#[test]
fn a_layer_that_is_not_what_was_expected_leaves_nothing() {
    in_world(|world| {
        let layer = tar(&world.base, &[("a", &"x".repeat(10_000))]);
        let wrong = Digest::of("other");
        for (bytes, expected) in [
            (&layer[..], Expected::diff_id(wrong)),
            (
                &layer[..],
                Expected::diff_id(Digest::of(&layer)).blob(wrong),
            ),
            (&layer[..5000], Expected::default()),
            (b"no tar", Expected::default()),
        ] {
            world.store.apply(None, bytes, expected).unwrap_err();
            for area in ["layers", "staging", "leases"] {
                assert_eq!(world.names(area), [""; 0], "{area}");
            }
        }
        let error = world.store.layer(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn what_a_container_did_becomes_a_layer_the_same_for_the_same() {
    in_world(|world| {
        let base = tar(
            &world.base,
            &[("a", "base"), ("d/b", "base"), ("d/c", "base")],
        );
        let base = world
            .store
            .apply(None, &base[..], Expected::default())
            .unwrap();
        let upper = world.upper(&base, |root| {
            fs::write(root.join("a"), "changed").unwrap();
            fs::remove_file(root.join("d/b")).unwrap();
        });
        let first = world.store.commit(Some(&base), &upper).unwrap();
        let second = world.store.commit_moving(Some(&base), &upper).unwrap();
        assert_eq!(first.directories(), second.directories());
        assert_eq!(world.read(&first, "a").as_deref(), Some("changed"));
        assert_eq!(world.read(&first, "d/b"), None);
        assert_eq!(world.read(&first, "d/c").as_deref(), Some("base"));
        assert_eq!(world.store.check().unwrap(), []);
    });
}

#[test]
fn an_upper_with_a_file_of_the_largest_size_is_no_layer() {
    in_world(|world| {
        fs::create_dir(world.path("upper")).unwrap();
        let file = fs::File::create(world.path("upper/file")).unwrap();
        file.set_len(i64::MAX as u64).unwrap();
        let error = world.store.commit(None, world.path("upper")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
        for area in ["layers", "staging", "leases"] {
            assert_eq!(world.names(area), [""; 0], "{area}");
        }
    });
}

#[test]
fn what_nobody_uses_is_collected_and_nothing_else() {
    in_world(|world| {
        let layer = |name: &str, parent| {
            let layer = tar(&world.base, &[(name, "")]);
            world
                .store
                .apply(parent, &layer[..], Expected::default())
                .unwrap()
        };
        let base = layer("base", None);
        let kept = layer("kept", Some(&base));
        let unused = layer("unused", Some(&base)).chain_id();
        let used = layer("used", None);
        let (base_id, kept_id) = (base.chain_id(), kept.chain_id());
        base.release().unwrap();
        kept.persist("a/b:1").unwrap();
        assert_eq!(world.store.names().unwrap(), ["a/b:1"]);

        let other = LayerStore::open(world.path("store")).unwrap();
        let collected = other.collect().unwrap();
        assert_eq!((collected.layers, collected.leftovers), (vec![unused], 0));
        let kept = other.kept("a/b:1").unwrap();
        assert_eq!(kept.chain_id(), kept_id);
        assert_eq!(other.layer(base_id).unwrap().chain_id(), base_id);
        let error = used.persist("a/b:1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);

        drop(kept);
        other.forget("a/b:1").unwrap();
        assert_eq!(other.collect().unwrap().layers.len(), 3);
        for area in ["layers", "staging", "leases", "locks", "pins"] {
            assert_eq!(world.names(area), [""; 0], "{area}");
        }
        assert_eq!(other.kept("a/b:1").unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_directory_that_is_something_else_is_not_made_a_store() {
    in_world(|world| {
        let kind = |name: &str| LayerStore::open(world.path(name)).unwrap_err().kind();
        fs::create_dir(world.path("other")).unwrap();
        fs::write(world.path("other/file"), "").unwrap();
        fs::set_permissions(world.path("other"), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(kind("other"), ErrorKind::InvalidInput);
        assert_eq!(fs::read_dir(world.path("other")).unwrap().count(), 1);
        assert_eq!(kind("gone/store"), ErrorKind::NotFound);

        fs::set_permissions(world.path("store"), Permissions::from_mode(0o755)).unwrap();
        assert_eq!(kind("store"), ErrorKind::PermissionDenied);
        fs::set_permissions(world.path("store"), Permissions::from_mode(0o700)).unwrap();
        chown(world.path("store"), Some(1), None).unwrap();
        assert_eq!(kind("store"), ErrorKind::PermissionDenied);
        chown(world.path("store"), Some(0), None).unwrap();
        fs::write(world.path("store/version"), "cofferdam layers 2\n").unwrap();
        assert_eq!(kind("store"), ErrorKind::Unsupported);
    });
}

/// Its layers would be mounted without what they hide.
#[test]
fn a_store_is_not_opened_where_its_marks_are_not_seen() {
    in_world(|world| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args([
                "--exact",
                "layers::opens_what_has_other_marks",
                "--nocapture",
            ])
            .env("COFFERDAM_OTHER_MARKS", world.path("store"));
        let output = as_root_of_a_user_namespace(&mut child).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    });
}

/// Run by the test above.
#[test]
fn opens_what_has_other_marks() {
    let Some(path) = std::env::var_os("COFFERDAM_OTHER_MARKS") else {
        return;
    };
    let error = LayerStore::open(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("user.overlay"), "{error}");
}

#[test]
fn damage_is_found() {
    in_world(|world| {
        let base = tar(&world.base, &[("a", "base")]);
        let base = world
            .store
            .apply(None, &base[..], Expected::default())
            .unwrap();
        let upper = world.upper(&base, |root| fs::write(root.join("b"), "text").unwrap());
        let top = world.store.commit(Some(&base), upper).unwrap();
        let flaws = || {
            world
                .store
                .check()
                .unwrap()
                .into_iter()
                .map(|found| found.flaw)
        };
        let file = top.directories()[0].join("b");
        fs::write(&file, "TEXT").unwrap();
        assert!(flaws().any(|flaw| matches!(flaw, Flaw::Content { .. })));
        fs::write(&file, "longer text").unwrap();
        assert!(flaws().any(|flaw| matches!(flaw, Flaw::Usage { .. })));
        let record = base.directories()[0].parent().unwrap().join("record");
        fs::write(record, "diff sha256:../..\n").unwrap();
        assert_eq!(
            flaws()
                .filter(|flaw| matches!(flaw, Flaw::Record(_)))
                .count(),
            2
        );
        let error = world.store.collect().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!(world.names("layers").len(), 2);
    });
}

#[test]
fn leftovers_are_removed_however_deep() {
    in_world(|world| {
        let staging = world.path("store/staging");
        fs::create_dir(staging.join("1-1-1")).unwrap();
        let mut directory =
            openat(CWD, staging.join("1-1-1"), OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&directory, "directory", Mode::RWXU).unwrap();
            directory = openat(&directory, "directory", OFlags::PATH, Mode::empty()).unwrap();
        }
        drop(directory);
        fs::write(staging.join("1-1-2"), "").unwrap();
        LayerStore::open(world.path("store")).unwrap();
        assert_eq!(world.names("staging"), [""; 0]);
    });
}

#[test]
fn processes_that_apply_the_same_layer_make_one_copy() {
    in_world(|world| {
        let layer = tar(&world.base, &[("a", &"x".repeat(1 << 20)), ("b", "")]);
        fs::write(world.path("layer.tar"), &layer).unwrap();
        let child = |known: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "layers::applies", "--nocapture"])
                .env("COFFERDAM_STORE", world.path("store"))
                .env("COFFERDAM_KNOWN", known);
            command.spawn().unwrap()
        };
        let children = ["1", "1", "0", "0", "1", "0"].map(child);
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(world.names("layers"), [Digest::of(&layer).hex()]);
        assert_eq!(world.names("staging"), [""; 0]);
        assert_eq!(world.names("leases"), [""; 0]);
    });
}

/// Run by the test above.
#[test]
fn applies() {
    let Some(path) = std::env::var_os("COFFERDAM_STORE") else {
        return;
    };
    let layer = fs::read(std::path::Path::new(&path).with_file_name("layer.tar")).unwrap();
    let store = LayerStore::open(path).unwrap();
    let expected = match std::env::var("COFFERDAM_KNOWN").as_deref() {
        Ok("1") => Expected::diff_id(Digest::of(&layer)),
        _ => Expected::default(),
    };
    let applied = store.apply(None, &layer[..], expected).unwrap();
    assert_eq!(applied.chain_id(), Digest::of(&layer));
    assert_eq!(store.collect().unwrap().layers, []);
    assert!(applied.directories()[0].join("b").exists());
}

/// A tar whose root hides all below: no tree gives one.
fn opaque(base: &std::path::Path) -> Vec<u8> {
    const PLACEHOLDER: &[u8] = b"placeholder!";
    let mut tar = tar(base, &[("placeholder!", "")]);
    let at = tar
        .windows(12)
        .position(|window| window == PLACEHOLDER)
        .unwrap();
    let header = &mut tar[at..at + 512];
    header[..12].copy_from_slice(b".wh..wh..opq");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

#[test]
fn what_a_layers_root_hides_is_not_stacked() {
    in_world(|world| {
        let base = tar(&world.base, &[("a", "base")]);
        let top = tar(&world.base, &[("c", "top")]);
        let base = world
            .store
            .apply(None, &base[..], Expected::default())
            .unwrap();
        let opaque = opaque(&world.base);
        let opaque = world
            .store
            .apply(Some(&base), &opaque[..], Expected::default())
            .unwrap();
        let top = world
            .store
            .apply(Some(&opaque), &top[..], Expected::default())
            .unwrap();
        assert_eq!((top.diff_ids().len(), top.directories().len()), (3, 2));
        assert_eq!(world.read(&top, "a"), None);
        assert_eq!(world.read(&top, "c").as_deref(), Some("top"));
        assert_eq!(world.store.check().unwrap(), []);
    });
}

#[test]
fn processes_that_apply_and_collect_at_once_do_not_take_each_others_layers() {
    in_world(|world| {
        for n in 0..3 {
            let layer = tar(&world.base, &[(&*format!("file{n}"), "")]);
            fs::write(world.path(&format!("layer{n}.tar")), layer).unwrap();
        }
        let child = |_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "layers::applies_and_collects", "--nocapture"])
                .env("COFFERDAM_BUSY_STORE", world.path("store"));
            command.spawn().unwrap()
        };
        for mut child in [0, 1, 2, 3].map(child) {
            assert!(child.wait().unwrap().success());
        }
        world.store.collect().unwrap();
        for area in ["layers", "staging", "leases", "locks"] {
            assert_eq!(world.names(area), [""; 0], "{area}");
        }
    });
}

/// Run by the test above.
#[test]
fn applies_and_collects() {
    let Some(path) = std::env::var_os("COFFERDAM_BUSY_STORE") else {
        return;
    };
    let base = std::path::Path::new(&path).parent().unwrap().to_owned();
    let layers = [0, 1, 2].map(|n| fs::read(base.join(format!("layer{n}.tar"))).unwrap());
    let store = LayerStore::open(&path).unwrap();
    for round in 0..turns(100, 20) {
        let mut parent = None;
        for layer in &layers {
            let expected = match round % 2 {
                0 => Expected::diff_id(Digest::of(layer)),
                _ => Expected::default(),
            };
            parent = Some(store.apply(parent.as_ref(), &layer[..], expected).unwrap());
        }
        let top = parent.unwrap();
        store.collect().unwrap();
        assert_eq!(top.directories().len(), 3);
        assert!(top.directories().iter().all(|directory| directory.exists()));
    }
}

#[test]
fn a_user_namespace_has_stores_too() {
    runs_there("layers::rootless");
}

/// Run by the test above.
#[test]
fn rootless() {
    if !is_there() {
        return;
    }
    in_world_of(|world| {
        if !takes_user_marks(&world.base) {
            return;
        }
        let base = tar(&world.base, &[("a", "base"), ("d/b", "base")]);
        let base = world
            .store
            .apply(None, &base[..], Expected::default())
            .unwrap();
        let upper = world.upper(&base, |root| {
            fs::remove_file(root.join("a")).unwrap();
            fs::remove_dir_all(root.join("d")).unwrap();
            fs::create_dir(root.join("d")).unwrap();
        });
        let top = world.store.commit(Some(&base), upper).unwrap();
        assert_eq!(world.read(&top, "a"), None);
        assert_eq!(world.read(&top, "d/b"), None);
        assert_eq!(world.store.check().unwrap(), []);
    });
}
