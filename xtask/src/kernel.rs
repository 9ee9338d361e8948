//! Debian's kernel and busybox, out of its packages and kept in the target directory; nothing is installed for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::apt::{Apt, extract, newest_deb};
use crate::arch::Arch;
use crate::command::run;

/// What the suite loads or makes the kernel load, as beginnings of paths; what these depend on comes along.
const MODULES: &[&str] = &[
    "kernel/arch/x86/crypto/crc32c",
    "kernel/crypto/crc32c_generic",
    "kernel/drivers/block/loop",
    "kernel/drivers/block/null_blk/",
    "kernel/drivers/net/dummy",
    "kernel/drivers/net/ifb",
    "kernel/drivers/net/ipvlan/",
    "kernel/drivers/net/macvlan",
    "kernel/drivers/net/macvtap",
    "kernel/drivers/net/tap",
    "kernel/drivers/net/tun",
    "kernel/drivers/net/veth",
    "kernel/drivers/net/vrf",
    "kernel/drivers/net/vxlan/",
    "kernel/fs/ext4/",
    "kernel/fs/fuse/fuse",
    "kernel/fs/overlayfs/",
    "kernel/net/8021q/",
    "kernel/net/bridge/",
    "kernel/net/ipv4/inet_diag",
    "kernel/net/ipv4/netfilter/",
    "kernel/net/ipv4/tcp_diag",
    "kernel/net/ipv4/udp_diag",
    "kernel/net/ipv6/netfilter/",
    "kernel/net/netfilter/nf",
    "kernel/net/netfilter/x_tables",
    "kernel/net/netfilter/xt_",
    "kernel/net/sched/",
    "kernel/net/sctp/sctp.ko",
];

/// A kernel with the modules of [`MODULES`] and indexes of just these.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// `lib/modules/VERSION` in here.
    pub(crate) tree: PathBuf,
    pub(crate) version: String,
}

impl Kernel {
    /// The one of `deb`, or of the newest package fetched before, or else of what Debian's archive has.
    /// `busybox` is one that runs here.
    pub(crate) fn fetch(
        arch: Arch,
        apt: &Apt,
        deb: Option<&Path>,
        cache: &Path,
        busybox: &Path,
    ) -> Result<Self> {
        let cache = &cache.join("kernel");
        fs::create_dir_all(cache)?;
        let deb = match deb {
            Some(deb) => deb.to_owned(),
            None => match newest_deb(cache)? {
                Some(deb) => deb,
                None => apt.download(
                    &apt.dependency(&format!("linux-image-{}", arch.debian()))?,
                    cache,
                )?,
            },
        };
        let stem = deb.file_stem().ok_or("--kernel: no file name")?;
        let tree = cache.join(stem);
        if fs::read_to_string(tree.join("wanted")).ok() != Some(MODULES.join("\n")) {
            unpack(&deb, &tree, busybox).map_err(|error| format!("{}: {error}", deb.display()))?;
        }
        let version = version(&tree)?;
        let image = tree.join(format!("boot/vmlinuz-{version}"));
        Ok(Kernel {
            image,
            tree,
            version,
        })
    }
}

/// A static busybox, as Debian builds it.
pub(crate) fn busybox(apt: &Apt, cache: &Path) -> Result<PathBuf> {
    let busybox = cache.join("busybox");
    if !busybox.is_file() {
        let scratch = Scratch::in_directory(cache)?;
        extract(&apt.download("busybox-static", &scratch.0)?, &scratch.0)?;
        let places = ["bin/busybox", "usr/bin/busybox"].map(|place| scratch.0.join(place));
        let found = places.iter().find(|place| place.is_file());
        fs::rename(found.ok_or("busybox-static: no busybox")?, &busybox)?;
    }
    Ok(busybox)
}

/// Makes `tree` of the package: its image, the wanted modules, their indexes.
fn unpack(deb: &Path, tree: &Path, busybox: &Path) -> Result<()> {
    let whole = Scratch::in_directory(tree.parent().ok_or("no cache")?)?;
    extract(deb, &whole.0)?;
    // Where Debian has it since 13.
    let merged = whole.0.join("usr/lib");
    if merged.join("modules").is_dir() {
        fs::rename(merged, whole.0.join("lib"))?;
    }
    let version = version(&whole.0)?;
    depmod(busybox, &whole.0, &version)?;
    let modules = format!("lib/modules/{version}");
    let index = fs::read_to_string(whole.0.join(&modules).join("modules.dep"))?;

    let kept = Scratch::in_directory(&whole.0)?;
    for module in closure(&index, MODULES) {
        move_file(&whole.0, &kept.0, &format!("{modules}/{module}"))?;
    }
    for list in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        move_file(&whole.0, &kept.0, &format!("{modules}/{list}"))?;
    }
    move_file(&whole.0, &kept.0, &format!("boot/vmlinuz-{version}"))?;
    depmod(busybox, &kept.0, &version)?;
    fs::write(kept.0.join("wanted"), MODULES.join("\n"))?;
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    fs::rename(&kept.0, tree)?;
    Ok(())
}

fn move_file(from: &Path, to: &Path, name: &str) -> Result<()> {
    let target = to.join(name);
    fs::create_dir_all(target.parent().unwrap_or(to))?;
    fs::rename(from.join(name), target).map_err(|error| format!("{name}: {error}").into())
}

/// The indexes that a package leaves to its installation.
fn depmod(busybox: &Path, tree: &Path, version: &str) -> Result<()> {
    run(Command::new(busybox)
        .args(["depmod", "-b"])
        .arg(tree)
        .arg(version))
}

/// The one kernel version whose modules are in the tree.
fn version(tree: &Path) -> Result<String> {
    let mut entries = fs::read_dir(tree.join("lib/modules"))?;
    let entry = entries.next().ok_or("no lib/modules/VERSION")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// The modules beginning with one of `wanted`, and those they depend on, by modules.dep's lines `module: its dependencies`.
fn closure<'a>(index: &'a str, wanted: &[&str]) -> BTreeSet<&'a str> {
    let lines = index.lines().filter_map(|line| line.split_once(':'));
    let depends: BTreeMap<&str, &str> = lines.collect();
    let is_wanted = |module: &&str| wanted.iter().any(|start| module.starts_with(start));
    let mut open: Vec<&str> = depends.keys().copied().filter(is_wanted).collect();
    let mut all = BTreeSet::new();
    while let Some(module) = open.pop() {
        if all.insert(module) {
            open.extend(depends.get(module).unwrap_or(&"").split_whitespace());
        }
    }
    all
}

/// A directory that goes away with the value.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn in_directory(parent: &Path) -> Result<Self> {
        for attempt in 0..1000 {
            let path = parent.join(format!("scratch-{}-{attempt}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(format!("{}: {error}", path.display()).into()),
            }
        }
        Err(format!("{}: full of scratch directories", parent.display()).into())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Moved elsewhere, it is not there.
        let _removed = fs::remove_dir_all(&self.0).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::closure;

    #[test]
    fn a_module_brings_what_it_depends_on() {
        let index = "kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n\
            kernel/net/802/stp.ko: kernel/net/llc/llc.ko\nkernel/net/llc/llc.ko:\nkernel/net/other.ko:\n";
        let all: Vec<_> = closure(index, &["kernel/net/bridge/"])
            .into_iter()
            .collect();
        assert_eq!(
            all,
            [
                "kernel/net/802/stp.ko",
                "kernel/net/bridge/bridge.ko",
                "kernel/net/llc/llc.ko"
            ]
        );
    }
}
