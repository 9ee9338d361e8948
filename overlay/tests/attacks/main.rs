//! Layers made to reach outside of their directory, to hide or fake what is below, or to use up the machine.
//!
//! Each test says in its first line what the layer tries.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

#[path = "../archive/mod.rs"]
mod archive;
mod bombs;
mod marks;
mod paths;
mod race;
mod random;
mod streams;

use std::fs;
use std::path::{Path, PathBuf};

use cofferdam_overlay::{Apply, Error};

use archive::{Archive, directory, names};

fn fresh(world: &Path) -> PathBuf {
    let count = fs::read_dir(world).unwrap().count();
    directory(world, &format!("layer{count}"))
}

/// That the layer is refused, and nothing of it is left.
fn refused(world: &Path, archive: Archive) -> Error {
    let layer = fresh(world);
    let error = Apply::new(&layer).tar(&*archive.end()).unwrap_err();
    assert_eq!(names(&layer), [""; 0], "{error}");
    error
}

fn applied(world: &Path, archive: Archive) -> PathBuf {
    let layer = fresh(world);
    Apply::new(&layer).tar(&*archive.end()).unwrap();
    layer
}
