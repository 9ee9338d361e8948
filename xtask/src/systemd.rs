//! A Debian with systemd, its user manager and D-Bus, as an initramfs; made by mmdebstrap once and kept in the target directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::apt::need;
use crate::arch::Arch;
use crate::artifact::Artifact;
use crate::command::run;
use crate::cpio::Archive;
use crate::image::{Busybox, Image, Run, add_package, add_tree};
use crate::kernel::{Kernel, Scratch};

/// The test binary that wants systemd.
pub(crate) const TESTS: &str = " systemd";

/// systemd's own part of the kernel's command line.
pub(crate) const APPEND: &str = "systemd.unit=vm.target systemd.show_status=0";

const INIT: &str = include_str!("systemd/init.sh");
const RUN: &str = include_str!("systemd/run.sh");
const SERVICE: &str = include_str!("systemd/vm.service");
const TARGET: &str = include_str!("systemd/vm.target");

const PACKAGES: &str = "dbus,dbus-user-session,libpam-systemd,systemd,systemd-sysv";
/// What nobody reads in there.
const EXCLUDED: [&str; 8] = [
    "./dev/*",
    "./usr/lib/*/perl/*",
    "./usr/share/doc/*",
    "./usr/share/locale/*",
    "./usr/share/man/*",
    "./usr/share/perl*",
    "./var/cache/*",
    "./var/lib/apt/*",
];
/// Uid 1000, with a user manager from boot on.
const USER: &str = "chroot \"$1\" useradd --uid 1000 --create-home user && \
    mkdir -p \"$1\"/var/lib/systemd/linger && touch \"$1\"/var/lib/systemd/linger/user";

/// The archive of the whole system without kernel and programs.
pub(crate) fn base(arch: Arch, cache: &Path, busybox: &Path) -> Result<Vec<u8>> {
    if arch.is_foreign() {
        return Err("vm: --systemd: only of this machine's architecture".into());
    }
    let suite = suite()?;
    let cache = &cache.join("systemd");
    let (base, made_of) = (cache.join("base.cpio"), cache.join("made-of"));
    let wanted = [&suite, PACKAGES, USER].join("\n");
    if !base.is_file() || fs::read_to_string(&made_of).ok().as_ref() != Some(&wanted) {
        need("mmdebstrap", &["mmdebstrap"])?;
        fs::create_dir_all(cache)?;
        let scratch = Scratch::in_directory(cache)?;
        println!("vm: mmdebstrap {suite} with {PACKAGES}");
        let made = scratch.0.join("base.cpio");
        debian(&suite, &scratch.0.join("root"))?;
        pack(&scratch.0.join("root"), busybox, &made)?;
        fs::rename(made, &base)?;
        fs::write(made_of, wanted)?;
    }
    Ok(fs::read(base)?)
}

/// This machine's release, whose kernel the VM has.
fn suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.ok_or("/etc/os-release: no codename")?.to_owned())
}

fn debian(suite: &str, root: &Path) -> Result<()> {
    // It mounts in the new root: out of sight of this machine.
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .args(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"])
        .arg(format!("--include={PACKAGES}"))
        .arg(format!("--customize-hook={USER}"));
    command.arg(suite).arg(root);
    run(command.arg("http://deb.debian.org/debian"))
}

/// With the owners and modes of the files.
fn pack(root: &Path, busybox: &Path, archive: &Path) -> Result<()> {
    let script = "cd \"$1\" && busybox=$2 archive=$3 && shift 3 && \
        find . -xdev \"$@\" -print | \"$busybox\" cpio -o -H newc >\"$archive\" 2>/dev/null";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .args([root, busybox, archive]);
    for path in EXCLUDED {
        command.args(["!", "-path", path]);
    }
    run(&mut command)
}

/// The system and, in a second archive behind it, what runs in it: each program as root and as an ordinary user.
pub(crate) fn initramfs(
    base: Vec<u8>,
    kernel: &Kernel,
    busybox: &Busybox,
    programs: &[Artifact],
    args: &[String],
) -> Result<Image> {
    let mut archive = Archive::default();
    archive.character_device("dev/console", (5, 1));
    archive.file("init", 0o755, INIT.as_bytes());
    // A name of `/bin` or `/lib` here would take the place of Debian's links to those in `/usr`.
    archive.file("usr/bin/busybox", 0o755, &fs::read(&busybox.inside)?);
    archive.symlink("usr/sbin/modprobe", "../bin/busybox");
    add_tree(&mut archive, &kernel.tree.join("lib"), "usr/lib")?;
    archive.file("vm/run", 0o755, RUN.as_bytes());
    archive.file("etc/systemd/system/vm.service", 0o644, SERVICE.as_bytes());
    archive.file("etc/systemd/system/vm.target", 0o644, TARGET.as_bytes());

    let mut runs = String::new();
    for (index, program) in programs.iter().enumerate() {
        let path = format!("/programs/{index}");
        archive.file(&path, 0o755, &fs::read(&program.executable)?);
        add_package(&mut archive, &program.package_directory)?;
        for user in ["root", "user"] {
            let run = Run {
                name: format!("{} as {user}", program.name),
                directory: &program.package_directory,
                // `as` is a function of the script.
                through: &["as", user, "env", "COFFERDAM_SYSTEMD=1"],
                path: &path,
                args,
            };
            runs.push_str(&run.line()?);
        }
    }
    archive.file("vm/runs", 0o644, runs.as_bytes());
    let mut bytes = base;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.append(&mut archive.finish());
    Ok(Image {
        bytes,
        runs: 2 * programs.len(),
    })
}
