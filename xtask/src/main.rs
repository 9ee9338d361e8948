//! Developer commands, run as `cargo xtask COMMAND`.
#![expect(clippy::print_stdout, reason = "a command line talks")]

mod api;
mod apt;
mod arch;
mod artifact;
mod check;
mod command;
mod cpio;
mod image;
mod interpreter;
mod json;
mod kernel;
mod licence;
mod machine;
mod source;
mod systemd;
mod toolchain;
mod verdict;
mod vm;
mod workspace;

use std::env;
use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use crate::command::{cargo, run};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: cargo xtask COMMAND
  check             fmt, clippy per feature, docs, licences, number of crates, borders between crates, places of unsafe
  api               writes what each crate makes public to docs/api, with which check compares
  test [ARGS]       cargo test --workspace ARGS
  test-root [ARGS]  the same as root, where a skip that root could have run is a failure
  bench [ARGS]      cargo bench ARGS; without --bench, every bench of the workspace
  vm [OPTIONS] [-- PACKAGE [FILTER...]]
                    the tests as static binaries in one boot of Debian's kernel with full cgroup v2;
                    PACKAGE with or without `cofferdam-`
     --arch NAME       x86_64 or aarch64; without it, this machine's
     --kernel DEB      this linux-image package instead of the one of Debian's linux-image-ARCH
     --example NAME    this example instead of the tests; what follows -- are its arguments. Also after --
     --systemd         with systemd, its user manager and D-Bus as process 1 of a Debian; of the tests only
                       those in tests/systemd.rs, as root and as an ordinary user
     --timeout SECS    for the whole boot (600)
     --accel NAME      QEMU's accelerator (tcg,thread=multi)
     --run PROGRAM [ARGS]
                       this binary, with the libraries it needs; its exit status is ours. As cargo's runner:
                       CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='cargo xtask vm --run' cargo bench ...";

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let success = |()| ExitCode::SUCCESS;
    let done = match command.as_str() {
        "check" => check::check().map(success),
        "api" => api::write().map(success),
        "test" => test(&rest).map(success),
        "test-root" => test_root(&rest).map(success),
        "bench" => bench(&rest).map(success),
        "vm" => vm::Options::parse(&rest).and_then(|options| vm::vm(&options)),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn test(args: &[String]) -> Result<()> {
    run(cargo().args(["test", "--workspace"]).args(args))
}

fn test_root(args: &[String]) -> Result<()> {
    // The directory belongs to the effective user.
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Err("test-root: not root".into());
    }
    let mut command = cargo();
    command.env("COFFERDAM_STRICT", "1");
    run(command.args(["test", "--workspace"]).args(args))
}

fn bench(args: &[String]) -> Result<()> {
    let mut command = cargo();
    command.arg("bench");
    if !args.iter().any(|arg| arg.starts_with("--bench")) {
        command.args(["--workspace", "--bench", "*"]);
    }
    run(command.args(args))
}
