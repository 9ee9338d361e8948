//! Work with few fds.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

#[path = "archive/mod.rs"]
mod archive;

use std::ffi::CStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use archive::Archive;
use cofferdam_overlay::{Apply, Diff, Digest, Expected, LayerRef, LayerStore};
use cofferdam_testkit::{Need, have, in_mount_namespace, turns};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};

const FDS: u64 = 192;

const VARIABLE: &str = "COFFERDAM_FDS";

/// Runs the test `name` with so many fds, in a process of its own: a limit is a whole process's.
fn with_fds(name: &str, fds: u64) {
    if !have(&[Need::Root]) {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(VARIABLE, fds.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}

/// In such a process, with a tmpfs of its own; else nothing is done.
fn in_world(size: &CStr, work: impl FnOnce(&Path) + Send) {
    let Some(fds) = std::env::var(VARIABLE)
        .ok()
        .and_then(|fds| fds.parse().ok())
    else {
        return;
    };
    let limit = Rlimit {
        current: Some(fds),
        maximum: Some(fds),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    in_mount_namespace(|| {
        let world = std::env::temp_dir();
        mount("tmpfs", &world, "tmpfs", MountFlags::empty(), size).unwrap();
        work(&world);
    });
}

#[test]
fn a_store_needs_few_however_much_is_in_it() {
    with_fds("few", FDS);
}

/// Run by the test above.
#[test]
fn few() {
    in_world(c"size=64m", |world| {
        leftovers(world);
        layers(world);
        deep_stack(world);
    });
}

#[test]
fn five_hundred_layers_are_not_too_many() {
    with_fds("many_layers", 1024);
}

/// Run by the test above: each layer has the same deep directories, and something of its own in them.
#[test]
fn many_layers() {
    in_world(c"size=128m", |world| {
        let layers: Vec<_> = (0..500).rev().map(|n| layer(world, n)).collect();
        on_top(world, &layers);
        changed(world, &layers);
        stored(world);
    });
}

const DEEP: &str = "a/b/c/d/e/f/g/h";

fn layer(world: &Path, n: usize) -> PathBuf {
    let layer = world.join(format!("layers/{n}"));
    fs::create_dir_all(layer.join(DEEP)).unwrap();
    fs::set_permissions(
        layer.join("a/b"),
        Permissions::from_mode(0o700 + n as u32 % 64),
    )
    .unwrap();
    fs::write(layer.join(DEEP).join(format!("{n}")), n.to_string()).unwrap();
    layer
}

/// What is unpacked asks for each of its names in all of them.
fn on_top(world: &Path, layers: &[PathBuf]) {
    let mut archive = Archive::new().link("l", format!("{DEEP}/0"));
    let some = turns(20, 3);
    for n in 0..some {
        archive = archive
            .file(format!("{DEEP}/new{n}"), "")
            .file(format!("{DEEP}/.wh.{n}"), "")
            .file(format!("{DEEP}/.wh.gone{n}"), "");
    }
    let target = world.join("target");
    fs::create_dir(&target).unwrap();
    let apply = Apply::new(&target).lower(layers);
    apply.tar(&*archive.end()).unwrap();
    assert_eq!(fs::read_to_string(target.join("l")).unwrap(), "0");
    // Of the top layer, 499.
    let mode = target.join("a/b").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700 + 499 % 64);
    // Whiteouts of what is there and none of what is not, and the new files. The whiteout of what is linked to is its copy.
    let count = fs::read_dir(target.join(DEEP)).unwrap().count();
    assert_eq!(count, 2 * some);
}

fn changed(world: &Path, layers: &[PathBuf]) {
    let upper = world.join("upper");
    for name in [DEEP, "a/b/c/d", "a/b"] {
        let directory = upper.join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("new"), "").unwrap();
        for gone in ["0", "250", "nothing"] {
            let whiteout = directory.join(gone);
            mknodat(CWD, whiteout, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
    }
    let diff = Diff::of(&upper).lower(layers);
    let changes: Vec<_> = diff.changes().unwrap().map(Result::unwrap).collect();
    let deleted: Vec<_> = changes
        .iter()
        .filter(|change| change.metadata.is_none())
        .map(|change| change.path.strip_prefix(DEEP).unwrap().to_str().unwrap())
        .collect();
    assert_eq!(deleted, ["0", "250"]);
    let target = world.join("committed");
    fs::create_dir(&target).unwrap();
    diff.commit(&target).unwrap();
}

/// The same in a store, side by side.
fn stored(world: &Path) {
    let store = LayerStore::open(world.join("many"))
        .unwrap()
        .with_threads(4);
    let count = turns(150, 30);
    let layer = |n: usize| Archive::new().file(format!("{DEEP}/{n}"), "").end();
    let tars: Vec<_> = (0..count).map(layer).collect();
    let layers = tars.iter().map(|tar| {
        let expected = Expected::diff_id(Digest::of(tar));
        (&tar[..], expected)
    });
    let top = store.apply_all(None, layers).unwrap().unwrap();
    assert_eq!(top.directories().len(), count);
    drop(store.commit(Some(&top), world.join("upper")).unwrap());
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
