//! What the examples of layers have in common.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A directory that goes with the value.
pub(crate) struct World(pub(crate) PathBuf);

impl World {
    pub(crate) fn new(example: &str) -> Result<Self> {
        let name = format!("cofferdam-{example}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        Ok(World(path))
    }

    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            println!("{}: {error}", self.0.display());
        }
    }
}

/// A path below the root of a mount that is attached nowhere.
pub(crate) fn at(mount: &impl AsFd, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd())).join(path)
}

/// What is in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?}, not {expected:?}").into())
}

/// The mounts of this mount namespace.
pub(crate) fn mounts() -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(table.lines().map(str::to_owned).collect())
}

/// Fails where there are others than there were.
pub(crate) fn nothing_left(before: &BTreeSet<String>) -> Result<()> {
    let left = mounts()?.difference(before).count();
    println!("left behind: {left} mounts");
    same("mounts left behind", &left, &0)
}
