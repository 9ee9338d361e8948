//! The initramfs: busybox, the kernel's modules, the programs to run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::artifact::Artifact;
use crate::command::output;
use crate::cpio::Archive;
use crate::interpreter;
use crate::kernel::Kernel;

const INIT: &str = include_str!("init.sh");
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// Set for every program: what the suite's tests take as the promise of a whole machine.
const ENVIRONMENT: [&str; 2] = ["COFFERDAM_STRICT=1", "COFFERDAM_VM=1"];

/// The same program twice, where the VM's processor is a foreign one.
#[derive(Debug)]
pub(crate) struct Busybox {
    /// The one that runs here.
    pub(crate) outside: PathBuf,
    /// The one that runs in the VM.
    pub(crate) inside: PathBuf,
}

/// An initramfs and how many programs run in it.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) runs: usize,
}

/// One run of a program.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) name: String,
    pub(crate) directory: &'a Path,
    /// Words that go before the program.
    pub(crate) through: &'a [&'a str],
    pub(crate) path: &'a str,
    pub(crate) args: &'a [String],
}

/// The archive, not compressed: QEMU copies it at once, where the emulated machine would take long to unpack it.
pub(crate) fn initramfs(
    kernel: &Kernel,
    busybox: &Busybox,
    programs: &[Artifact],
    args: &[String],
) -> Result<Image> {
    let mut archive = Archive::default();
    for directory in [
        "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "var/tmp",
    ] {
        archive.directory(directory);
    }
    // Before /dev is mounted, init speaks through this one.
    archive.character_device("dev/console", (5, 1));
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("etc/passwd", 0o644, PASSWD.as_bytes());
    archive.file("etc/group", 0o644, GROUP.as_bytes());
    archive.file("etc/hosts", 0o644, HOSTS.as_bytes());
    add_busybox(&mut archive, busybox)?;
    add_tree(&mut archive, &kernel.tree.join("lib"), "lib")?;

    let mut runs = String::new();
    for (index, program) in programs.iter().enumerate() {
        let path = format!("/programs/{index}");
        let elf = fs::read(&program.executable)?;
        for library in interpreter::libraries(&program.executable, &elf)? {
            archive.file(text(&library)?, 0o755, &fs::read(&library)?);
        }
        archive.file(&path, 0o755, &elf);
        add_package(&mut archive, &program.package_directory)?;
        let run = Run {
            name: program.name.clone(),
            directory: &program.package_directory,
            through: &[],
            path: &path,
            args,
        };
        runs.push_str(&run.line()?);
    }
    archive.file("runs", 0o644, runs.as_bytes());
    Ok(Image {
        bytes: archive.finish(),
        runs: programs.len(),
    })
}

fn add_busybox(archive: &mut Archive, busybox: &Busybox) -> Result<()> {
    archive.file("bin/busybox", 0o755, &fs::read(&busybox.inside)?);
    for applet in output(Command::new(&busybox.outside).arg("--list"))?.split_whitespace() {
        if applet != "busybox" {
            archive.symlink(&format!("bin/{applet}"), "busybox");
        }
    }
    // Where the kernel looks for it when it wants a module.
    archive.symlink("sbin/modprobe", "../bin/busybox");
    Ok(())
}

/// Where the program is run, with the data its tests read.
pub(crate) fn add_package(archive: &mut Archive, package: &Path) -> Result<()> {
    archive.directory(text(package)?);
    let data = package.join("tests/data");
    if data.is_dir() {
        add_tree(archive, &data, text(&data)?)?;
    }
    Ok(())
}

pub(crate) fn add_tree(archive: &mut Archive, from: &Path, to: &str) -> Result<()> {
    archive.directory(to);
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = format!("{to}/{}", text(Path::new(&entry.file_name()))?);
        if entry.file_type()?.is_dir() {
            add_tree(archive, &entry.path(), &target)?;
        } else {
            archive.file(&target, 0o644, &fs::read(entry.path())?);
        }
    }
    Ok(())
}

impl Run<'_> {
    /// A line of `runs`, which init reads as shell.
    pub(crate) fn line(&self) -> Result<String> {
        let mut words = vec!["run", &self.name, text(self.directory)?];
        words.extend(self.through);
        words.push("env");
        words.extend(ENVIRONMENT);
        words.push(self.path);
        words.extend(self.args.iter().map(String::as_str));
        let quoted: Vec<String> = words.into_iter().map(quote).collect();
        Ok(quoted.join(" ") + "\n")
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn text(path: &Path) -> Result<&str> {
    let text = path.to_str();
    text.ok_or_else(|| format!("{}: not UTF-8", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_one_line_of_shell() {
        let run = Run {
            name: "cofferdam-dns root".into(),
            directory: Path::new("/w/dns"),
            through: &[],
            path: "/programs/0",
            args: &["it's".into()],
        };
        let line = run.line().unwrap();
        assert_eq!(
            line,
            "'run' 'cofferdam-dns root' '/w/dns' 'env' 'COFFERDAM_STRICT=1' 'COFFERDAM_VM=1' '/programs/0' 'it'\\''s'\n"
        );
    }
}
