//! Debian's packages: unpacked in the target directory, of this machine's architecture or another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::arch::Arch;
use crate::command::{installed, output, run};

/// Where packages of an architecture come from.
#[derive(Debug)]
pub(crate) struct Apt {
    arch: Arch,
    /// Package lists beside the machine's, whose dpkg need not know the other architecture.
    lists: Option<PathBuf>,
}

impl Apt {
    pub(crate) fn new(arch: Arch, cache: &Path) -> Result<Self> {
        let lists = arch.is_foreign().then(|| cache.join("apt"));
        if let Some(lists) = &lists {
            fs::create_dir_all(lists.join("lists/partial"))?;
            fs::create_dir_all(lists.join("archives/partial"))?;
        }
        Ok(Apt { arch, lists })
    }

    /// Fetches a package's file into a directory.
    pub(crate) fn download(&self, package: &str, directory: &Path) -> Result<PathBuf> {
        println!("vm: apt-get download {package}");
        self.with_lists(|| {
            let mut download = self.command("apt-get");
            // Apt's sandbox user cannot write here, which apt would only remark upon.
            download
                .args(["download", "--quiet", "-o", "APT::Sandbox::User=root"])
                .arg(self.of_arch(package));
            run(download.current_dir(directory))
        })?;
        newest_deb(directory)?.ok_or_else(|| format!("apt-get download {package}: no file").into())
    }

    /// Fetches what installing these packages on this machine would: the packages, and of what they need what is missing.
    pub(crate) fn download_missing(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let lists = self.lists.as_ref().ok_or("lists of one's own are needed")?;
        println!("vm: apt-get install --download-only {}", packages.join(" "));
        self.with_lists(|| {
            let mut install = self.command("apt-get");
            install
                .args(["install", "--download-only", "--reinstall", "--quiet"])
                .args(["--yes", "--no-install-recommends"])
                .args(["-o", "APT::Sandbox::User=root"])
                .args(packages);
            run(&mut install)
        })?;
        let debs = debs(&lists.join("archives"))?;
        Ok(debs.into_iter().map(|(_, path)| path).collect())
    }

    /// The package that `package` stands for today: the first it depends on.
    pub(crate) fn dependency(&self, package: &str) -> Result<String> {
        self.with_lists(|| {
            let package = self.of_arch(package);
            let depends = output(self.command("apt-cache").args(["depends", &package]))?;
            let name = depends
                .lines()
                .find_map(|line| line.trim().strip_prefix("Depends: "))
                .ok_or_else(|| format!("{package} depends on nothing"))?;
            let name = name.split_once(':').map_or(name, |(name, _)| name);
            Ok(name.to_owned())
        })
    }

    fn of_arch(&self, package: &str) -> String {
        format!("{package}:{}", self.arch.debian())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(lists) = &self.lists {
            let mut option = |text: String| {
                command.args(["-o", &text]);
            };
            for arch in [Arch::host(), self.arch] {
                option(format!("APT::Architectures::={}", arch.debian()));
            }
            option(format!("Dir::State::Lists={}/lists", lists.display()));
            option(format!("Dir::Cache={}", lists.display()));
            option("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into());
            option("Acquire::Languages=none".into());
        }
        command
    }

    /// Does it again with fresh package lists if it fails at first: a fresh machine has none, an old one asks for what is
    /// gone.
    fn with_lists<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        work().or_else(|_| {
            run(self.command("apt-get").args([
                "update",
                "--quiet",
                "-o",
                "APT::Sandbox::User=root",
            ]))?;
            work()
        })
    }
}

/// Installs packages by name where `program`, or the file of this absolute path, is not there yet.
pub(crate) fn need(program: &str, packages: &[&str]) -> Result<()> {
    if installed(program) {
        return Ok(());
    }
    let packages = packages.join(" ");
    println!("vm: apt-get install {packages}");
    let mut install = Command::new("apt-get");
    install.args(["install", "--quiet", "--yes", "--no-install-recommends"]);
    install.args(packages.split(' '));
    install.env("DEBIAN_FRONTEND", "noninteractive");
    let native = Apt {
        arch: Arch::host(),
        lists: None,
    };
    native.with_lists(|| run(&mut install)).map_err(|error| {
        format!("{program} is not installed, which needs {packages}: {error}").into()
    })
}

pub(crate) fn extract(deb: &Path, into: &Path) -> Result<()> {
    run(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(into))
}

/// The package file of a directory that came last.
pub(crate) fn newest_deb(directory: &Path) -> Result<Option<PathBuf>> {
    Ok(debs(directory)?.into_iter().max().map(|(_, path)| path))
}

/// When each of the package files of a directory came.
fn debs(directory: &Path) -> Result<Vec<(std::time::SystemTime, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    Ok(found)
}
