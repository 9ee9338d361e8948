//! All there is to see of a tree, to be compared.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, llistxattr};
use std::os::unix::ffi::OsStrExt;

pub(crate) type Tree = BTreeMap<PathBuf, Seen>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    mode: u32,
    owner: (u32, u32),
    /// None of the root: its is that of the mount.
    modified: Option<(i64, i64)>,
    device: u64,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same file.
    first: PathBuf,
}

pub(crate) fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    look(root, Path::new(""), &mut found, &mut BTreeMap::new());
    found
}

fn look(root: &Path, path: &Path, found: &mut Tree, links: &mut BTreeMap<u64, PathBuf>) {
    let at = root.join(path);
    let is_root = path.as_os_str().is_empty();
    let metadata = if is_root {
        fs::metadata(&at)
    } else {
        at.symlink_metadata()
    }
    .unwrap();
    let kind = metadata.file_type();
    let content = match () {
        () if kind.is_file() => fs::read(&at).unwrap(),
        () if kind.is_symlink() => fs::read_link(&at).unwrap().into_os_string().into_vec(),
        () => Vec::new(),
    };
    let is_device = kind.is_char_device() || kind.is_block_device();
    let first = match kind.is_dir() {
        true => path.to_owned(),
        false => links
            .entry(metadata.ino())
            .or_insert(path.to_owned())
            .clone(),
    };
    let seen = Seen {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        modified: (!is_root).then(|| (metadata.mtime(), metadata.mtime_nsec())),
        device: if is_device { metadata.rdev() } else { 0 },
        content,
        xattrs: xattrs(&at),
        first,
    };
    found.insert(path.to_owned(), seen);
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(&at)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
            .iter()
            .for_each(|name| look(root, &path.join(name), found, links));
    }
}

pub(crate) fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = [0; 4096];
    let length = llistxattr(path, &mut list).unwrap();
    list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = [0; 4096];
            let name = OsString::from_vec(name.to_vec());
            let length = lgetxattr(path, &name, &mut value).unwrap();
            (name.as_bytes().to_vec(), value[..length].to_vec())
        })
        .collect()
}
