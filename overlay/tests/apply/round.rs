//! What an upper directory changes, as a layer's tar, applied again.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use cofferdam_overlay::{Apply, Diff, Overlay};
use cofferdam_testkit::{Need, have};

use crate::archive::{directory, in_world};

/// Paths with type, mode, links, mtime and text.
fn seen(layers: &[&Path]) -> BTreeMap<PathBuf, String> {
    let mount = Overlay::builder(layers).detached().unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}/.", mount.as_fd().as_raw_fd()));
    let (mut todo, mut found) = (vec![root.clone()], BTreeMap::new());
    while let Some(path) = todo.pop() {
        let stat = path.symlink_metadata().unwrap();
        let links = if stat.is_dir() { 0 } else { stat.nlink() };
        let time = (stat.mtime(), stat.mtime_nsec());
        let mut text = format!(
            "{:o} {links} {time:?} {:?}",
            stat.mode(),
            fs::read_link(&path).ok()
        );
        if stat.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if stat.is_file() {
            text += &fs::read_to_string(&path).unwrap();
        }
        found.insert(path.strip_prefix(&root).unwrap().to_owned(), text);
    }
    found
}

#[test]
fn the_changes_of_an_upper_are_the_same_when_applied() {
    if !have(&[Need::Root, Need::Filesystem("overlay")]) {
        return;
    }
    in_world(|world| {
        let [lower, upper, work, layer] =
            ["lower", "upper", "work", "layer"].map(|name| directory(world, name));
        for name in [
            "kept/f",
            "changed/f",
            "gone/f",
            "anew/old",
            "d/gone",
            "d/e/f",
        ] {
            let path = lower.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let mount = Overlay::builder([&lower])
            .upperdir(&upper, &work)
            .detached()
            .unwrap();
        let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd()));
        fs::write(root.join("changed/f"), "changed").unwrap();
        fs::remove_dir_all(root.join("gone")).unwrap();
        fs::remove_file(root.join("d/gone")).unwrap();
        fs::remove_dir_all(root.join("anew")).unwrap();
        fs::create_dir(root.join("anew")).unwrap();
        fs::write(root.join("anew/new"), "new").unwrap();
        fs::hard_link(root.join("anew/new"), root.join("link")).unwrap();
        symlink("anew", root.join("symlink")).unwrap();
        drop(mount);
        let mut tar = Vec::new();
        let written = Diff::of(&upper)
            .lower([&lower])
            .write_tar(&mut tar)
            .unwrap();
        let applied = Apply::new(&layer)
            .lower([&lower])
            .diff_id(written.diff_id)
            .tar(&*tar)
            .unwrap();
        assert_eq!(applied.skipped, []);
        assert_eq!(seen(&[&layer, &lower]), seen(&[&upper, &lower]));
        assert_eq!(seen(&[&layer, &lower]).len(), 12);
    });
}
