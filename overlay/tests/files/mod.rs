//! Directories to test in, and what is in them.
#![allow(dead_code, reason = "not every test binary uses all of it")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use cofferdam_overlay::OverlayMount;
use rustix::mount::{MountFlags, mount};

pub(crate) fn tmpfs(target: &Path, options: &str) {
    let options = CString::new(options).unwrap();
    let none = MountFlags::empty();
    mount("tmpfs", target, "tmpfs", none, options.as_c_str()).unwrap();
}

/// A path below the root of a detached mount.
pub(crate) fn at(mount: &OverlayMount, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd())).join(path)
}

pub(crate) fn directory(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names in it, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
