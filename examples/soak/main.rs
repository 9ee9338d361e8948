//! Threads that do anything at any time to shared containers, networks and volumes: every error has an explanation, and at the
//! end nothing is left.
//!
//! `cargo run --release --example soak -- [--seconds 60] [--threads 8] [--seed 1] [--failures 1]`, as root. It makes a network namespace of its
//! own, cgroups, and a directory in memory, and removes them. Each ten seconds it prints what it has done and how much it has; at
//! the end how often each operation was done and each explained error came. Another error, or an
//! operation that takes longer than 20 s, ends it with 1.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = settings().and_then(|settings| run::soak(&settings));
    if let Err(failure) = outcome {
        eprintln!("soak: {failure}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn settings() -> Result<run::Settings, String> {
    let mut settings = run::Settings::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        let value: u64 = value.ok_or(format!("{name} takes a number"))?;
        match name.as_str() {
            "--seconds" => settings.seconds = value,
            "--threads" => settings.threads = value,
            "--seed" => settings.seed = value,
            "--failures" => settings.failures = value,
            _ => return Err(format!("{name} is no option")),
        }
    }
    Ok(settings)
}
