//! Uppers in a user namespace where tmpfs takes no `user.*` xattrs: before Linux 6.6 they are on another filesystem. Elsewhere
//! all other tests are about these.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

mod files;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use cofferdam_overlay::{Apply, Diff, Expected, LayerStore, Marks, Overlay};
use cofferdam_testkit::{Need, as_root_of_a_user_namespace, have, in_mount_namespace};
use files::{at, directory, names, tmpfs};
use rustix::fs::{XattrFlags, setxattr};

const WORLD: &str = "COFFERDAM_ROOTLESS_WORLD";

#[test]
fn uppers_on_ext4_work_where_tmpfs_cannot_be_one() {
    let needs = [
        Need::Root,
        Need::Filesystem("overlay"),
        Need::Filesystem("ext4"),
        Need::Program("mke2fs"),
    ];
    if !have(&needs) || env::var_os(WORLD).is_some() {
        return;
    }
    in_mount_namespace(|| {
        let world = env::temp_dir();
        tmpfs(&world, "size=64m");
        if setxattr(&world, "user.a", b"", XattrFlags::empty()).is_ok() {
            return;
        }
        let ext4 = ext4(&world);
        let mut child = Command::new(env::current_exe().unwrap());
        child
            .args(["--exact", "in_a_user_namespace", "--nocapture"])
            .env(WORLD, &ext4);
        let output = as_root_of_a_user_namespace(&mut child).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(names(&ext4.join("upper")), ["again", "changed", "gone"]);
    });
}

/// A filesystem in a file of `world`, mounted there.
fn ext4(world: &Path) -> PathBuf {
    let (image, target) = (world.join("image"), directory(world, "ext4"));
    fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let run = |program: &str, arguments: &[&str], paths: &[&Path]| {
        let mut command = Command::new(program);
        let output = command.args(arguments).args(paths).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
    };
    run("mke2fs", &["-F"], &[&image]);
    run("mount", &["-t", "ext4", "-o", "loop"], &[&image, &target]);
    target
}

/// Run by the test above.
#[test]
fn in_a_user_namespace() {
    let Some(world) = env::var_os(WORLD).map(PathBuf::from) else {
        return;
    };
    assert_eq!(Marks::detect().unwrap(), Marks::User);
    let lower = directory(&world, "lower");
    for name in ["again/old", "gone", "changed"] {
        directory(&lower, Path::new(name).parent().unwrap().to_str().unwrap());
        fs::write(lower.join(name), "lower").unwrap();
    }
    let (upper, work) = (directory(&world, "upper"), directory(&world, "work"));
    let overlay = Overlay::builder([&lower]).upperdir(&upper, &work);
    let mount = overlay.detached().unwrap();
    fs::remove_dir_all(at(&mount, "again")).unwrap();
    fs::create_dir(at(&mount, "again")).unwrap();
    fs::write(at(&mount, "again/new"), "upper").unwrap();
    fs::remove_file(at(&mount, "gone")).unwrap();
    fs::write(at(&mount, "changed"), "upper").unwrap();
    drop(mount);

    let diff = Diff::of(&upper).lower([&lower]);
    let mut tar = Vec::new();
    diff.write_tar(&mut tar).unwrap();
    let applied = directory(&world, "applied");
    Apply::new(&applied).lower([&lower]).tar(&tar[..]).unwrap();
    let committed = directory(&world, "committed");
    diff.commit(&committed).unwrap();
    for layer in [&upper, &applied, &committed] {
        let shown = Overlay::builder([layer, &lower]).detached().unwrap();
        assert_eq!(names(&at(&shown, "")), ["again", "changed"], "{layer:?}");
        assert_eq!(names(&at(&shown, "again")), ["new"], "{layer:?}");
    }
    in_a_store(&world, &lower, &upper);
}

fn in_a_store(world: &Path, lower: &Path, upper: &Path) {
    let store = LayerStore::open(world.join("store")).unwrap();
    let mut tar = Vec::new();
    Diff::of(lower).write_tar(&mut tar).unwrap();
    let base = store.apply(None, &tar[..], Expected::default()).unwrap();
    let top = store.commit(Some(&base), upper).unwrap();
    let shown = Overlay::builder(top.directories()).detached().unwrap();
    assert_eq!(names(&at(&shown, "")), ["again", "changed"]);
    assert_eq!(names(&at(&shown, "again")), ["new"]);
    assert_eq!(store.check().unwrap(), []);
}
