//! What is left after layers were diffed and stored, and could not be. Alone in its binary: fds are the whole process's.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

use std::fs;
use std::path::Path;

use cofferdam_overlay::{Diff, Expected, LayerStore};
use cofferdam_testkit::{Need, Snapshot, have, in_mount_namespace};
use rustix::mount::{MountFlags, mount};

#[test]
fn nothing_is_left_of_diffs_and_stores() {
    if !have(&[Need::Root, Need::Filesystem("overlay")]) {
        return;
    }
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        mount("tmpfs", &world, "tmpfs", MountFlags::empty(), c"size=64m").unwrap();
        for name in ["lower/d", "upper/d/e"] {
            fs::create_dir_all(world.join(name)).unwrap();
        }
        fs::write(world.join("lower/d/file"), "lower").unwrap();
        fs::write(world.join("upper/d/file"), "upper").unwrap();
        fs::write(world.join("upper/d/.wh.bad"), "").unwrap();
        let before = (Snapshot::take(), threads());
        for _ in 0..5 {
            use_it_all(&world);
        }
        before.0.assert_same("cofferdam-overlay");
        assert_eq!(threads(), before.1);
    });
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// Each way to succeed and to fail.
fn use_it_all(world: &Path) {
    let diff = Diff::of(world.join("upper")).lower([world.join("lower")]);
    assert!(diff.changes().unwrap().count() > 0);
    drop(diff.changes().unwrap().next());
    diff.write_tar(Vec::new()).unwrap_err();
    Diff::of(world.join("upper"))
        .lower([world.join("gone")])
        .changes()
        .unwrap_err();
    let layer = world.join("layer");
    fs::create_dir(&layer).unwrap();
    diff.commit(&layer).unwrap();
    diff.commit(&layer).unwrap_err();
    fs::remove_dir_all(layer).unwrap();

    let store = LayerStore::open(world.join("store")).unwrap();
    let mut tar = Vec::new();
    Diff::of(world.join("lower")).write_tar(&mut tar).unwrap();
    let base = store.apply(None, &tar[..], Expected::default()).unwrap();
    store
        .apply(Some(&base), &tar[..1000], Expected::default())
        .unwrap_err();
    store.commit(Some(&base), world.join("upper")).unwrap_err();
    let side_by_side = |layers: [&[u8]; 3]| {
        let store = store.with_threads(3);
        store.apply_all(None, layers.map(|tar| (tar, Expected::default())))
    };
    drop(side_by_side([&tar; 3]).unwrap());
    side_by_side([&tar, &tar[..1000], &tar]).unwrap_err();
    let committed = store.commit(Some(&base), world.join("lower")).unwrap();
    assert_eq!(store.check().unwrap(), []);
    committed.release().unwrap();
    base.persist("base").unwrap();
    drop(store.kept("base").unwrap());
    store.forget("base").unwrap();
    // What was committed is the second of those side by side.
    assert_eq!(store.collect().unwrap().layers.len(), 3);
}
