//! All that there is to a tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cofferdam_overlay::Digest;
use rustix::fs::llistxattr;

use crate::archive::xattr;

pub(crate) type Tree = BTreeMap<PathBuf, String>;

/// By path the type, mode, owner, mtime, xattrs, contents, and what else is the same inode. Not how many links it has: overlayfs
/// counts those that upper layers hide.
pub(crate) fn tree(root: &Path) -> Tree {
    let (mut found, mut inodes) = (Tree::new(), BTreeMap::new());
    let mut todo = BTreeSet::from([PathBuf::new()]);
    while let Some(relative) = todo.pop_first() {
        let path = root.join(&relative);
        let stat = path.symlink_metadata().unwrap();
        let mut text = format!(
            "{:o} {}:{} {}.{:09}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec()
        );
        if !stat.is_dir() {
            let first = inodes.entry(stat.ino()).or_insert_with(|| relative.clone());
            text += &format!(" {} as {}", stat.size(), first.display());
        }
        text += &format!(" {:x}{}", stat.rdev(), xattrs(&path));
        if stat.is_dir() {
            let names = fs::read_dir(&path).unwrap();
            todo.extend(names.map(|name| relative.join(name.unwrap().file_name())));
        } else if stat.is_symlink() {
            text += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        } else if stat.is_file() {
            text += &format!(" {}", Digest::of(fs::read(&path).unwrap()));
        }
        found.insert(relative, text);
    }
    found
}

/// Without those that overlayfs shows for itself.
fn xattrs(path: &Path) -> String {
    let mut list = vec![0; 4096];
    let length = llistxattr(path, &mut list).unwrap();
    let mut names: Vec<_> = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    let one = |name: &[u8]| {
        let name = std::str::from_utf8(name).unwrap();
        format!(" {name}={:?}", xattr(path, name).unwrap())
    };
    names.into_iter().map(one).collect()
}

/// Fails with the first entries that differ.
pub(crate) fn same(what: &str, ours: &Tree, theirs: &Tree) {
    let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differences: Vec<_> = paths
        .into_iter()
        .filter(|path| ours.get(*path) != theirs.get(*path))
        .map(|path| {
            let name = String::from_utf8_lossy(path.as_os_str().as_bytes());
            format!("{name}\n  {:?}\n  {:?}", ours.get(path), theirs.get(path))
        })
        .collect();
    let shown = &differences[..differences.len().min(10)];
    assert!(
        differences.is_empty(),
        "{what}: {} of {} differ:\n{}",
        differences.len(),
        ours.len(),
        shown.join("\n")
    );
}
