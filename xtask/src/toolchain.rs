//! What builds for the VM's processor: the toolchain in use, or for a foreign one Debian's, unpacked in the target directory.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::apt::{Apt, extract, need};
use crate::arch::Arch;
use crate::command::output;
use crate::kernel::Scratch;

/// Debian's newest compiler, which its browsers are built with, and the standard library of the same.
const COMPILER: &str = "rustc-web";
const LIBRARY: &str = "libstd-rust-web-dev";

#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) arch: Arch,
    /// In place of the toolchain in use.
    rustc: Option<PathBuf>,
}

impl Toolchain {
    pub(crate) fn find(arch: Arch, apt: &Apt, cache: &Path) -> Result<Self> {
        if !arch.is_foreign() {
            return Ok(Toolchain { arch, rustc: None });
        }
        let packages = [
            format!("gcc-{}-linux-gnu", arch.name().replace('_', "-")),
            format!("libc6-dev-{}-cross", arch.debian()),
        ];
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        need(&linker(arch), &packages)?;
        need(
            &format!("/usr/{}-linux-gnu/lib/libc.a", arch.name()),
            &packages,
        )?;
        let rustc = if in_use_has(arch) {
            None
        } else {
            Some(debian(apt, cache)?)
        };
        Ok(Toolchain { arch, rustc })
    }

    /// Has cargo use it.
    pub(crate) fn apply(&self, cargo: &mut Command) {
        if self.arch.is_foreign() {
            let target = self.arch.target().to_uppercase().replace('-', "_");
            cargo.env(format!("CARGO_TARGET_{target}_LINKER"), linker(self.arch));
        }
        if let Some(rustc) = &self.rustc {
            cargo.env("RUSTC", rustc);
        }
    }
}

fn linker(arch: Arch) -> String {
    format!("{}-linux-gnu-gcc", arch.name())
}

/// Whether the toolchain in use has the target's standard library, as by `rustup target add`.
fn in_use_has(arch: Arch) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let mut command = Command::new(rustc);
    command.args(["--print", "target-libdir", "--target", &arch.target()]);
    output(&mut command).is_ok_and(|path| Path::new(path.trim_end()).is_dir())
}

/// The compiler of Debian's packages.
fn debian(apt: &Apt, cache: &Path) -> Result<PathBuf> {
    let tree = cache.join("toolchain");
    let rustc = tree.join("rustc");
    if !rustc.is_file() {
        let scratch = Scratch::in_directory(cache)?;
        for deb in apt.download_missing(&[COMPILER, LIBRARY])? {
            extract(&deb, &scratch.0)?;
            fs::remove_file(&deb)?;
        }
        let library = apt.download(LIBRARY, &scratch.0)?;
        extract(&library, &scratch.0)?;
        fs::remove_file(&library)?;
        write_wrapper(&scratch.0)?;
        fs::rename(&scratch.0, &tree)?;
    }
    Ok(rustc)
}

/// A `rustc` that finds the libraries beside it.
fn write_wrapper(tree: &Path) -> Result<()> {
    let script = "#!/bin/sh\nhere=${0%/*}\n\
        LD_LIBRARY_PATH=$(echo \"$here\"/usr/lib/*-linux-gnu) exec \"$here/usr/bin/rustc\" \"$@\"\n";
    let path = tree.join("rustc");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
