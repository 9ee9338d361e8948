//! System call filters: what Docker's default profile refuses, and what filters of one's own do.
//!
//! The program that runs inside is this very binary. Every line is an observation, made as it is printed. It changes nothing
//! on the host: a filter ends with the program, or here the thread, that it is for.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

#[path = "seccomp/sys.rs"]
mod sys;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use cofferdam_namespaces::{
    Action, Capabilities, Capability, Command, Condition, Filter, Namespaces, Rule, Seccomp, Stdio,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("inside") => inside(),
        _ => host(),
    };
    if let Err(error) = done {
        eprintln!("seccomp: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn host() -> Result<()> {
    run("no filter", Seccomp::unconfined())?;
    run("the default", Seccomp::docker_default())?;
    let mine = Filter::docker_default()
        .allow("keyctl")
        .errno("getppid", libc::EOWNERDEAD)
        .rule(
            Rule::new("socket", Action::Errno(libc::EAFNOSUPPORT))
                .when(Condition::not_equal(0, 1).low()),
        );
    run("the default, changed", mine)?;
    run("one that kills", Filter::docker_default().kill("getppid"))?;

    let bad = Command::new("/bin/true").seccomp(Filter::new(Action::Errno(libc::EPERM)));
    match bad.spawn() {
        Err(error) => println!("refused, a filter that allows nothing: {error}"),
        Ok(_) => return Err("started under a filter that allows nothing".into()),
    }

    let set = Capabilities::docker_default();
    let default = Seccomp::docker_default();
    load_times("the default", &default, set)?;
    let admin = set.with(Capability::CAP_SYS_ADMIN);
    load_times("the default with CAP_SYS_ADMIN", &default, admin)?;
    load_times(
        "one that allows all",
        &Filter::new(Action::Allow).native_only().into(),
        set,
    )
}

/// What the program inside says of its calls.
fn run(what: &str, seccomp: impl Into<Seccomp>) -> Result<()> {
    let command = Command::new(std::env::current_exe()?)
        .arg("inside")
        .stdout(Stdio::piped());
    // No namespaces: all that is refused is refused by the filter, or for lack of a capability.
    let command = command.namespaces(Namespaces::none()).seccomp(seccomp);
    let output = command.spawn()?.output()?;
    println!("{what} ({}):", output.status);
    print!("{}", String::from_utf8(output.stdout)?);
    Ok(())
}

fn inside() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    println!("  the kernel says mode {}", mode.unwrap_or_default().trim());
    let new_user = libc::CLONE_NEWUSER as u64;
    let tiocsti = 0x5412;
    say(
        "unshare a user namespace",
        sys::call(libc::SYS_unshare, [new_user, 0, 0, 0]),
    );
    say("clone3", sys::call(libc::SYS_clone3, [0; 4]));
    say("keyctl", sys::call(libc::SYS_keyctl, [9999, 0, 0, 0]));
    say(
        "io_uring_setup",
        sys::call(libc::SYS_io_uring_setup, [1, 1, 0, 0]),
    );
    say(
        "ioctl TIOCSTI",
        sys::call(libc::SYS_ioctl, [0, tiocsti, 1, 0]),
    );
    say(
        "the same with a high bit",
        sys::call(libc::SYS_ioctl, [0, tiocsti | 1 << 32, 1, 0]),
    );
    say(
        "a socket of AF_INET",
        sys::call(libc::SYS_socket, [2, 1, 0, 0]),
    );
    say(
        "a thread",
        std::thread::spawn(|| Ok(0)).join().unwrap_or(Ok(-1)),
    );
    say("getppid", sys::call(libc::SYS_getppid, [0; 4]));
    Ok(())
}

fn say(what: &str, result: io::Result<i64>) {
    match result {
        Ok(_) => println!("  {what}: done"),
        Err(error) => println!("  {what}: {error}"),
    }
}

fn load_times(what: &str, seccomp: &Seccomp, capabilities: Capabilities) -> Result<()> {
    let filter = seccomp.instructions(capabilities)?;
    let mut times = Vec::new();
    for _ in 0..300 {
        let load = std::thread::scope(|scope| scope.spawn(|| sys::load(&filter)).join());
        times.push(load.map_err(|_panic| "the thread panicked")??);
    }
    times.sort();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{what}: {} instructions, loaded in {:.0} us at best, {:.0} us by the median of {}",
        filter.len(),
        micros(times[0]),
        micros(times[times.len() / 2]),
        times.len()
    );
    Ok(())
}
