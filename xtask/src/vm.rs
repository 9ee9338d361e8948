//! The second machine: Debian's kernel with full cgroup v2, emulated, one boot for all programs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use crate::Result;
use crate::apt::{Apt, need};
use crate::arch::Arch;
use crate::artifact::{self, Artifact};
use crate::image::{self, Busybox, Image};
use crate::kernel::{self, Kernel, Scratch};
use crate::machine::{Machine, Output};
use crate::systemd;
use crate::toolchain::Toolchain;
use crate::verdict::Verdict;
use crate::workspace::{Package, Workspace};

#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    arch: Arch,
    kernel: Option<PathBuf>,
    timeout: u32,
    accel: String,
    init: Init,
    what: What,
}

/// Process 1 of the VM.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Init {
    /// A script that mounts and runs.
    Script,
    Systemd,
}

/// What to run in it.
#[derive(Debug, PartialEq)]
enum What {
    Tests {
        package: Option<String>,
        filters: Vec<String>,
    },
    Example {
        name: String,
        args: Vec<String>,
    },
    /// A binary that is there, as cargo's runner is given it.
    Program {
        path: PathBuf,
        args: Vec<String>,
    },
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Options {
            arch: Arch::host(),
            kernel: None,
            timeout: 600,
            accel: "tcg,thread=multi".into(),
            init: Init::Script,
            what: What::Tests {
                package: None,
                filters: vec![],
            },
        };
        let mut example = None;
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--" => {
                    options.what = What::parse(example.take(), args.cloned().collect())?;
                    break;
                }
                "--systemd" => {
                    options.init = Init::Systemd;
                    continue;
                }
                _ => {}
            }
            let value = args.next().ok_or_else(|| format!("vm: {arg}: no value"))?;
            match arg.as_str() {
                "--arch" => options.arch = Arch::parse(value)?,
                "--kernel" => options.kernel = Some(value.into()),
                "--example" => example = Some(value.clone()),
                "--run" => {
                    options.what = What::Program {
                        path: value.into(),
                        args: args.cloned().collect(),
                    };
                    break;
                }
                "--timeout" => {
                    options.timeout = value
                        .parse()
                        .map_err(|error| format!("vm: --timeout: {error}"))?
                }
                "--accel" => options.accel.clone_from(value),
                _ => return Err(format!("vm: {arg}: no such option").into()),
            }
        }
        if example.is_some() {
            options.what = What::parse(example, vec![])?;
        }
        Ok(options)
    }
}

impl What {
    /// Of what followed `--`, which may name the example as well.
    fn parse(example: Option<String>, mut words: Vec<String>) -> Result<Self> {
        if let Some(name) = example {
            return Ok(What::Example { name, args: words });
        }
        if words.first().is_some_and(|word| word == "--example") {
            words.remove(0);
            if words.is_empty() {
                return Err("vm: --example: no value".into());
            }
            let name = words.remove(0);
            return Ok(What::Example { name, args: words });
        }
        let package = (!words.is_empty()).then(|| words.remove(0));
        Ok(What::Tests {
            package,
            filters: words,
        })
    }
}

/// Builds, boots, and fails unless everything ran and succeeded. A single program's exit status is ours.
pub(crate) fn vm(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::read()?;
    let arch = options.arch;
    let cache = directory(&workspace, arch)?;
    need(&arch.qemu(), &[arch.qemu_package()])?;
    let apt = Apt::new(arch, &cache)?;
    let busybox = busybox(&workspace, arch)?;
    let deb = options.kernel.as_deref();
    let kernel = Kernel::fetch(arch, &apt, deb, &cache, &busybox.outside)?;
    let image = image(options, &workspace, &kernel, &busybox, &cache)?;

    let scratch = Scratch::in_directory(&cache)?;
    eprintln!(
        "vm: boot {} with {} programs, {} MiB",
        kernel.version,
        image.runs,
        image.bytes.len() >> 20
    );
    let machine = Machine {
        arch,
        accel: &options.accel,
        timeout: options.timeout,
        kernel: &kernel.image,
        append: options.append(),
        directory: &scratch.0,
    };
    let start = Instant::now();
    let (status, printed) = machine.boot(&image.bytes, options.output())?;
    let seconds = start.elapsed().as_secs();
    let verdict = Verdict::read(&printed);
    if !verdict.complete(image.runs) {
        return Err(machine.post_mortem(status).into());
    }
    match options.what {
        What::Program { .. } => return Ok(verdict.status().into()),
        What::Example { .. } => verdict.succeeded()?,
        What::Tests { .. } => println!(
            "vm: {} tests ran, {seconds} s from power on",
            verdict.tests()?
        ),
    }
    Ok(ExitCode::SUCCESS)
}

impl Options {
    fn append(&self) -> &'static str {
        match self.init {
            Init::Script => "",
            Init::Systemd => systemd::APPEND,
        }
    }

    fn output(&self) -> Output {
        match self.what {
            What::Program { .. } => Output::Apart,
            _ => Output::Together,
        }
    }
}

fn image(
    options: &Options,
    workspace: &Workspace,
    kernel: &Kernel,
    busybox: &Busybox,
    cache: &Path,
) -> Result<Image> {
    let (programs, args) = programs(options, workspace, cache)?;
    match options.init {
        Init::Script => image::initramfs(kernel, busybox, &programs, &args),
        Init::Systemd => {
            let base = systemd::base(options.arch, cache, &busybox.outside)?;
            systemd::initramfs(base, kernel, busybox, &programs, &args)
        }
    }
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
    cache: &Path,
) -> Result<(Vec<Artifact>, Vec<String>)> {
    let build = cache.join("build");
    let toolchain = || Toolchain::find(options.arch, &Apt::new(options.arch, cache)?, cache);
    match &options.what {
        What::Program { path, args } => {
            let program = Artifact::of(path, &env::current_dir()?);
            Ok((vec![program], args.clone()))
        }
        What::Example { name, args } => {
            let example = artifact::example(workspace, name, &toolchain()?, &build)?;
            Ok((vec![example], args.clone()))
        }
        What::Tests { package, filters } => {
            let packages = chosen(&workspace.packages, package.as_deref())?;
            let mut tests = artifact::tests(workspace, &packages, &toolchain()?, &build)?;
            if options.init == Init::Systemd {
                tests.retain(|test| test.name.ends_with(systemd::TESTS));
            }
            if tests.is_empty() {
                return Err("vm: no test binary of that name".into());
            }
            let fixed = ["--test-threads=1", "--color=never"].map(str::to_owned);
            Ok((tests, fixed.iter().chain(filters).cloned().collect()))
        }
    }
}

/// The package of this name, with or without the suite's before it; or else those whose name contains it; without one, the
/// default members.
fn chosen<'a>(packages: &'a [Package], name: Option<&str>) -> Result<Vec<&'a Package>> {
    let Some(name) = name else {
        return Ok(packages
            .iter()
            .filter(|package| package.default_member)
            .collect());
    };
    for whole in [name.to_owned(), format!("cofferdam-{name}")] {
        if let Some(exact) = packages.iter().find(|package| package.name == whole) {
            return Ok(vec![exact]);
        }
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
        let tests = What::Tests {
            package: Some("cgroups".into()),
            filters: words("--exact memory"),
        };
        assert_eq!((options.what, options.init), (tests, Init::Script));
        for wrong in [
            "cgroups x",
            "--timeout",
            "--timeout soon",
            "--arch arm",
            "--kernal /k.deb",
            "-- --example",
            "--run",
        ] {
            assert!(Options::parse(&words(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_example_is_named_before_or_after_the_dashes() {
        let example = |args: &str| What::Example {
            name: "cgroups".into(),
            args: words(args),
        };
        for (line, args) in [
            ("--example cgroups", ""),
            ("--example cgroups -- a b", "a b"),
            ("-- --example cgroups", ""),
            ("-- --example cgroups a b", "a b"),
        ] {
            let options = Options::parse(&words(line)).unwrap();
            assert_eq!(options.what, example(args), "{line}");
        }
    }

    #[test]
    fn all_that_follows_a_program_is_the_programs() {
        let options = Options::parse(&words("--systemd --run /p --timeout 9 -- x")).unwrap();
        let program = What::Program {
            path: "/p".into(),
            args: words("--timeout 9 -- x"),
        };
        assert_eq!((options.what, options.init), (program, Init::Systemd));
        assert_eq!(options.timeout, 600);
    }

    #[test]
    fn a_package_is_chosen_by_name_or_part_of_it() {
        let packages = [
            "cofferdam",
            "cofferdam-dns",
            "cofferdam-dns-more",
            "cofferdam-testkit",
        ]
        .map(|name| Package {
            name: name.into(),
            directory: "/".into(),
            features: vec![],
            dependencies: vec![],
            default_member: !name.ends_with("testkit") && !name.ends_with("more"),
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
        assert_eq!(names(Some("dns")).as_deref(), Some("cofferdam-dns"));
        assert_eq!(names(Some("memory")), None);
    }
}
