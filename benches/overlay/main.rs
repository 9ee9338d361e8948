//! What layers cost, each beside the bare system calls that do the same work in the kernel.
//!
//! `cargo bench --bench overlay [-- --quick] [mount|diff|apply|image|flatten]`; needs `CAP_SYS_ADMIN`. A line for each:
//! `row <id> <who> min=<n> p50=<n> unit=us`.
//! All of it is on a tmpfs in a mount namespace of the bench's own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints its figures and stops where it cannot measure"
)]

mod apply;
mod diff;
mod flatten;
mod image;
mod mount;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_testkit::in_mount_namespace;
use rustix::mount::MountFlags;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let all = !["mount", "diff", "apply", "image", "flatten"]
        .into_iter()
        .any(has);
    let quick = has("--quick");
    if all || has("mount") {
        mount::rows(quick);
    }
    if all || has("diff") {
        diff::rows(quick);
    }
    if all || has("apply") {
        apply::rows(quick);
    }
    if all || has("image") {
        image::rows(quick);
    }
    if all || has("flatten") {
        flatten::rows(quick);
    }
}

/// Runs `work` with an empty tmpfs of at most `size`, as tmpfs spells it, in a mount namespace that ends with it.
fn in_world(size: &str, work: impl FnOnce(&Path) + Send) {
    in_mount_namespace(|| {
        let world: PathBuf = std::env::temp_dir();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        let none = MountFlags::empty();
        rustix::mount::mount("tmpfs", &world, "tmpfs", none, options.as_c_str()).unwrap();
        work(&world);
    });
}

fn row(id: &str, who: &str, mut samples: Vec<Duration>) {
    samples.sort();
    let us = |sample: Duration| sample.as_secs_f64() * 1e6;
    let (min, p50) = (us(samples[0]), us(samples[samples.len() / 2]));
    println!("row {id} {who} min={min:.1} p50={p50:.1} unit=us");
}
