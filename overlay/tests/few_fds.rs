//! Work with few fds. Alone in its binary: the limit is the whole process's.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

use std::fs;
use std::path::Path;

use cofferdam_overlay::{Diff, Digest, Expected, LayerRef, LayerStore};
use cofferdam_testkit::{Need, have, in_mount_namespace};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};

const FDS: u64 = 192;

#[test]
fn a_store_needs_few_however_much_is_in_it() {
    if !have(&[Need::Root]) {
        return;
    }
    let limit = Rlimit {
        current: Some(FDS),
        maximum: Some(FDS),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        mount("tmpfs", &world, "tmpfs", MountFlags::empty(), c"size=64m").unwrap();
        leftovers(&world);
        layers(&world);
        deep_stack(&world);
    });
}

/// As a process leaves them that was killed while it removed a layer of wide directories.
fn leftovers(world: &Path) {
    let store = LayerStore::open(world.join("store")).unwrap();
    let staging = world.join("store/staging");
    for n in 0..3 * FDS {
        fs::create_dir(staging.join(format!("1-{n}-1"))).unwrap();
    }
    LayerStore::open(store.path()).unwrap();
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
}

/// That nobody uses: what is in them does not matter.
fn layers(world: &Path) {
    let store = LayerStore::open(world.join("store")).unwrap();
    let layers = world.join("store/layers");
    for n in 0..3 * FDS {
        fs::create_dir(layers.join(Digest::of(n.to_string()).hex())).unwrap();
    }
    assert_eq!(store.collect().unwrap().layers.len() as u64, 3 * FDS);
    assert_eq!(fs::read_dir(&layers).unwrap().count(), 0);
    let staging = store.path().join("staging");
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
}

/// Directories inside each other that many layers have.
fn deep_stack(world: &Path) {
    let store = LayerStore::open(world.join("deep")).unwrap();
    let (tree, deep) = (world.join("stack"), "a/b/c/d/e/f/g");
    fs::create_dir_all(tree.join(deep)).unwrap();
    let mut top: Option<LayerRef> = None;
    for n in 0..40 {
        for name in [deep, "a/b", "a/b/c/d/z"] {
            fs::create_dir_all(tree.join(name)).unwrap();
            fs::write(tree.join(name).join("file"), format!("{n}")).unwrap();
        }
        let mut tar = Vec::new();
        Diff::of(&tree).write_tar(&mut tar).unwrap();
        top = Some(
            store
                .apply(top.as_ref(), &tar[..], Expected::default())
                .unwrap(),
        );
    }
    let layers = top.as_ref().unwrap().directories();
    let upper = world.join("changed");
    fs::create_dir_all(upper.join(deep)).unwrap();
    for name in [deep, "a/b/c/d", "a", "a/b"] {
        for gone in ["file", "nothing"] {
            let whiteout = upper.join(name).join(gone);
            mknodat(CWD, whiteout, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
    }
    let diff = Diff::of(&upper).lower(&layers);
    let changes: Vec<_> = diff.changes().unwrap().map(Result::unwrap).collect();
    let deleted = changes.iter().filter(|change| change.metadata.is_none());
    let deleted: Vec<_> = deleted
        .map(|change| change.path.to_str().unwrap())
        .collect();
    assert_eq!(deleted, ["a/b/c/d/e/f/g/file", "a/b/file"]);
    drop(store.commit(top.as_ref(), &upper).unwrap());
}
