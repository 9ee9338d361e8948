//! The second machine: Debian's kernel with full cgroup v2, emulated, one boot for all test binaries.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::Result;
use crate::apt::{Apt, need};
use crate::arch::Arch;
use crate::artifact::{self, Artifact};
use crate::image::{self, Busybox};
use crate::kernel::{self, Kernel, Scratch};
use crate::toolchain::Toolchain;
use crate::verdict::Verdict;
use crate::workspace::{Package, Workspace};

#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    arch: Arch,
    kernel: Option<PathBuf>,
    example: Option<String>,
    timeout: u32,
    accel: String,
    /// What followed `--`.
    words: Vec<String>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Options {
            arch: Arch::host(),
            kernel: None,
            example: None,
            timeout: 600,
            accel: "tcg,thread=multi".into(),
            words: vec![],
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                options.words = args.cloned().collect();
                break;
            }
            let value = args.next().ok_or_else(|| format!("vm: {arg}: no value"))?;
            match arg.as_str() {
                "--arch" => options.arch = Arch::parse(value)?,
                "--kernel" => options.kernel = Some(value.into()),
                "--example" => options.example = Some(value.clone()),
                "--timeout" => {
                    options.timeout = value
                        .parse()
                        .map_err(|error| format!("vm: --timeout: {error}"))?
                }
                "--accel" => options.accel.clone_from(value),
                _ => return Err(format!("vm: {arg}: no such option").into()),
            }
        }
        Ok(options)
    }
}

/// Builds, boots, and fails unless everything ran and succeeded.
pub(crate) fn vm(options: &Options) -> Result<()> {
    let workspace = Workspace::read()?;
    let arch = options.arch;
    let cache = directory(&workspace, arch)?;
    need(&arch.qemu(), &[arch.qemu_package()])?;
    let apt = Apt::new(arch, &cache)?;
    let busybox = busybox(&workspace, arch)?;
    let deb = options.kernel.as_deref();
    let kernel = Kernel::fetch(arch, &apt, deb, &cache, &busybox.outside)?;
    let toolchain = Toolchain::find(arch, &apt, &cache)?;

    let (programs, args) = programs(options, &workspace, &toolchain, &cache.join("build"))?;
    let image = image::initramfs(&kernel, &busybox, &programs, &args)?;
    let scratch = Scratch::in_directory(&cache)?;
    println!(
        "vm: boot {} with {} programs, {} MiB",
        kernel.version,
        programs.len(),
        image.len() >> 20
    );
    let machine = Machine {
        options,
        kernel: &kernel,
        directory: &scratch.0,
    };
    let start = Instant::now();
    let (status, printed) = machine.boot(&image)?;

    let verdict = Verdict::read(&printed);
    let seconds = start.elapsed().as_secs();
    if !verdict.complete(programs.len()) {
        return Err(machine.post_mortem(status).into());
    }
    if options.example.is_some() {
        verdict.succeeded()?;
    } else {
        println!(
            "vm: {} tests ran, {seconds} s from power on",
            verdict.tests()?
        );
    }
    Ok(())
}

/// Where an architecture's things are kept.
fn directory(workspace: &Workspace, arch: Arch) -> Result<PathBuf> {
    let directory = workspace.target_directory.join("vm").join(arch.name());
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn busybox(workspace: &Workspace, arch: Arch) -> Result<Busybox> {
    let fetch = |arch| {
        let cache = directory(workspace, arch)?;
        kernel::busybox(&Apt::new(arch, &cache)?, &cache)
    };
    Ok(Busybox {
        outside: fetch(Arch::host())?,
        inside: fetch(arch)?,
    })
}

/// What is to run, and its arguments.
fn programs(
    options: &Options,
    workspace: &Workspace,
    toolchain: &Toolchain,
    build: &Path,
) -> Result<(Vec<Artifact>, Vec<String>)> {
    if let Some(name) = &options.example {
        let example = artifact::example(workspace, name, toolchain, build)?;
        return Ok((vec![example], options.words.clone()));
    }
    let (package, filters) = match options.words.split_first() {
        Some((package, filters)) => (Some(package.as_str()), filters),
        None => (None, options.words.as_slice()),
    };
    let packages = chosen(&workspace.packages, package)?;
    let tests = artifact::tests(workspace, &packages, toolchain, build)?;
    let fixed = ["--test-threads=1", "--color=never"].map(str::to_owned);
    Ok((tests, fixed.iter().chain(filters).cloned().collect()))
}

/// The package of this name, or else those whose name contains it; without one, the default members.
fn chosen<'a>(packages: &'a [Package], name: Option<&str>) -> Result<Vec<&'a Package>> {
    let Some(name) = name else {
        return Ok(packages
            .iter()
            .filter(|package| package.default_member)
            .collect());
    };
    if let Some(exact) = packages.iter().find(|package| package.name == name) {
        return Ok(vec![exact]);
    }
    let found: Vec<&Package> = packages
        .iter()
        .filter(|package| package.name.contains(name))
        .collect();
    if found.is_empty() {
        let names: Vec<&str> = packages
            .iter()
            .map(|package| package.name.as_str())
            .collect();
        return Err(format!(
            "vm: no package named like {name:?}, only {}",
            names.join(", ")
        )
        .into());
    }
    Ok(found)
}

struct Machine<'a> {
    options: &'a Options,
    kernel: &'a Kernel,
    directory: &'a Path,
}

impl Machine<'_> {
    /// Runs it until it ends, with the time it has; gives how QEMU ended and what the programs printed.
    fn boot(&self, image: &[u8]) -> Result<(ExitStatus, String)> {
        fs::write(self.initramfs(), image)?;
        let mut qemu = self.command(image.len()).spawn()?;
        let printed = match qemu.stdout.take() {
            Some(output) => pass_on(output)?,
            None => String::new(),
        };
        Ok((qemu.wait()?, printed))
    }

    fn command(&self, image_size: usize) -> Command {
        let memory = 1024 + 2 * (image_size >> 20);
        let arch = self.options.arch;
        let (console, output) = arch.ports();
        // Not a timer of ours: with us killed, the machine still ends.
        let mut command = Command::new("timeout");
        command
            .args(["--foreground", "--signal=KILL"])
            .args([&self.options.timeout.to_string(), &arch.qemu()])
            .args(arch.machine())
            .args(["-nic", "none", "-display", "none", "-monitor", "none"])
            .args(["-accel", &self.options.accel, "-smp", "2"])
            .args(["-m", &format!("{memory}M"), "-no-reboot"])
            .arg("-serial")
            .arg(format!("file:{}", self.console().display()))
            .args(["-chardev", "stdio,id=output"])
            .args(arch.second_port())
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.initramfs())
            .arg("-append")
            // What the kernel does not know becomes a variable of init's environment.
            .arg(format!(
                "console={console} output=/dev/{output} panic=-1 oops=panic quiet"
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    fn initramfs(&self) -> PathBuf {
        self.directory.join("initramfs")
    }

    /// What the kernel prints.
    fn console(&self) -> PathBuf {
        self.directory.join("console")
    }

    /// Why there is no verdict.
    fn post_mortem(&self, status: ExitStatus) -> String {
        let console = fs::read(self.console()).unwrap_or_default();
        let console = without_escapes(&String::from_utf8_lossy(&console));
        let lines: Vec<&str> = console.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        let what = if console.contains("Kernel panic") {
            "kernel panic".to_owned()
        } else if status.success() {
            "the machine ended without a verdict".to_owned()
        } else if status.code().is_none_or(|code| code == 137) {
            format!("no end within {} s", self.options.timeout)
        } else {
            format!("{}: {status}", self.options.arch.qemu())
        };
        format!("{tail}\nvm: {what}; above is the end of the kernel's console")
    }
}

/// Copies to our output as it comes, so that a machine that hangs shows where.
fn pass_on(mut from: impl Read) -> Result<String> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(String::from_utf8_lossy(&all).into_owned());
        }
        all.extend_from_slice(&buffer[..read]);
        let mut out = std::io::stdout().lock();
        out.write_all(&buffer[..read])?;
        out.flush()?;
    }
}

/// The text without what the firmware says to a terminal: clear it, reset it.
fn without_escapes(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = if part.starts_with('[') {
            part.find(char::is_alphabetic)
        } else {
            part.find(|_| true)
        };
        kept.push_str(&part[end.map_or(part.len(), |end| end + 1)..]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_end_at_the_dashes() {
        let options = Options::parse(&words(
            "--timeout 9 --kernel /k.deb -- cgroups --exact memory",
        ))
        .unwrap();
        assert_eq!(
            (options.timeout, options.kernel),
            (9, Some("/k.deb".into()))
        );
        assert_eq!(options.words, words("cgroups --exact memory"));
        for wrong in [
            "cgroups x",
            "--timeout",
            "--timeout soon",
            "--arch arm",
            "--kernal /k.deb",
        ] {
            assert!(Options::parse(&words(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_console_cannot_clear_the_terminal() {
        let text = "ROM..\x1bc\x1b[?7l\x1b[2J\x1b[0m[    3.4] sysrq: Resetting\n\x1b";
        assert_eq!(without_escapes(text), "ROM..[    3.4] sysrq: Resetting\n");
    }

    #[test]
    fn a_package_is_chosen_by_name_or_part_of_it() {
        let packages = ["cofferdam", "cofferdam-dns", "cofferdam-testkit"].map(|name| Package {
            name: name.into(),
            directory: "/".into(),
            features: vec![],
            dependencies: vec![],
            default_member: name != "cofferdam-testkit",
        });
        let names = |word| {
            let found = chosen(&packages, word).ok()?;
            Some(
                found
                    .iter()
                    .map(|package| package.name.clone())
                    .collect::<Vec<_>>()
                    .join(" "),
            )
        };
        assert_eq!(names(None).as_deref(), Some("cofferdam cofferdam-dns"));
        assert_eq!(names(Some("cofferdam")).as_deref(), Some("cofferdam"));
        assert_eq!(names(Some("testkit")).as_deref(), Some("cofferdam-testkit"));
        assert_eq!(names(Some("memory")), None);
    }
}
