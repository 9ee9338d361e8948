//! Every verb of a running container once: exec, top, stats, update, pause, resume, events, detach, attach, signal, wait, stop; and
//! `reap` for what a killed program leaves.
//!
//! The root is the machine's own `/` as a read-only layer under a throw-away upper; the programs are its shell. Every line is
//! an observation, made as it is printed. It needs root, makes cgroups and a runtime directory of its own, and leaves nothing.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cofferdam::{Container, Event, Limits, Reference, Rootfs, Running, Stdio, User, reap_in};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(10);
/// It answers a line, and then hears signals.
const SERVE: &str =
    "trap 'echo usr1' USR1; read line; echo got $line; while :; do sleep 0.02; done";
/// It ends when it is told to.
const IDLE: &str = "trap 'exit 7' TERM; while :; do sleep 0.02; done";

fn main() -> ExitCode {
    let runtime = std::env::temp_dir().join(format!("cofferdam-example-{}", std::process::id()));
    let done = match std::env::args().nth(1).as_deref() {
        Some(runtime) => leave(Path::new(runtime)),
        None => {
            let done = verbs(&runtime);
            // There if it failed half way.
            let _gone = fs::remove_dir_all(&runtime).is_ok();
            done
        }
    };
    if let Err(error) = done {
        eprintln!("container: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn verbs(runtime: &Path) -> Result<()> {
    let mut web = container(runtime, "web", SERVE)
        .env("GREETING", "hello")
        .pids_max(64)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .start()?;
    println!("{} runs as pid {}", web.name(), web.pid());
    check(web.try_wait()?.is_none(), "it runs")?;
    talk(&mut web)?;
    exec(&web)?;
    look(&web)?;
    pause(&web)?;
    end(web)?;
    detach(runtime)?;
    reaped(runtime)?;
    fs::remove_dir(runtime)?;
    println!("its runtime directory was empty");
    Ok(())
}

fn container(runtime: &Path, name: &str, script: &str) -> cofferdam::ContainerBuilder {
    Container::builder()
        .name(name)
        .rootfs(Rootfs::layers(["/"]))
        .runtime_dir(runtime)
        .command("sh")
        .args(["-c", script])
}

/// Its streams, and a signal.
fn talk(web: &mut Running) -> Result<()> {
    let (Some(mut stdin), Some(stdout)) = (web.take_stdin(), web.take_stdout()) else {
        return Err("it has no pipes".into());
    };
    let mut lines = BufReader::new(stdout).lines();
    stdin.write_all(b"one\n")?;
    let got = lines.next().ok_or("it says nothing")??;
    check(got == "got one", &format!("it says {got:?}"))?;
    web.signal(10)?;
    let got = lines.next().ok_or("it says nothing")??;
    check(got == "usr1", &format!("at SIGUSR1 it says {got:?}"))?;
    Ok(())
}

fn exec(web: &Running) -> Result<()> {
    let output = web
        .exec("sh")
        .args(["-c", "echo $GREETING from $(hostname)"]);
    let said = String::from_utf8(output.output()?.stdout)?;
    check(
        said.trim() == "hello from web",
        &format!("exec says {:?}", said.trim()),
    )?;
    let who = web
        .exec("id")
        .arg("-u")
        .user(User::id(1000, 1000))
        .output()?;
    check(who.stdout == b"1000\n", "exec runs as user 1000 if told")?;
    let status = web.exec("sh").args(["-c", "exit 5"]).status()?;
    check(
        status.code() == Some(5),
        &format!("exec ends with {status}"),
    )?;
    let mut tty = web.exec("tty").terminal(24, 80).spawn()?;
    let mut shown = String::new();
    if let Some(mut terminal) = tty.take_terminal() {
        terminal.read_to_string(&mut shown)?;
    }
    check(
        shown.starts_with("/dev/"),
        &format!("exec has terminal {}", shown.trim()),
    )
}

fn look(web: &Running) -> Result<()> {
    let sleeper = web.exec("sleep").arg("60").spawn()?;
    let top = web.top()?;
    let names: Vec<_> = top.iter().map(|process| process.command.as_str()).collect();
    check(
        names.contains(&"sh") && names.contains(&"sleep"),
        &format!("top: {names:?}"),
    )?;
    sleeper.kill()?;
    let stats = web.stats()?;
    let cpu = stats.usage.cpu.ok_or("no CPU time")?.usage;
    check(
        !cpu.is_zero(),
        &format!("stats: {cpu:.1?} of CPU time in {:.1?}", stats.uptime),
    )?;
    web.update(&Limits::new().pids_max(8))?;
    let many = web
        .exec("sh")
        .args(["-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"]);
    let refused = !many.output()?.stderr.is_empty();
    check(refused, "updated to 8 processes, a ninth is refused")
}

fn pause(web: &Running) -> Result<()> {
    let mut events = web.events()?;
    web.pause()?;
    check(web.is_paused()?, "it is paused")?;
    let event = events.next(SOON)?;
    check(event == Some(Event::Paused), &format!("event: {event:?}"))?;
    web.resume()?;
    let event = events.next(SOON)?;
    check(event == Some(Event::Resumed), &format!("event: {event:?}"))
}

fn end(web: Running) -> Result<()> {
    let mut events = web.events()?;
    web.kill()?;
    let event = events.next(SOON)?;
    check(
        matches!(event, Some(Event::Exited(_))),
        &format!("event: {event:?}"),
    )?;
    drop(events);
    let status = web.wait_timeout(SOON)?.ok_or("it does not end")?;
    check(
        web.remove()? == status,
        &format!("killed, it ended by {status}"),
    )
}

fn detach(runtime: &Path) -> Result<()> {
    let text = container(runtime, "worker", IDLE)
        .start()?
        .detach()?
        .to_string();
    check(
        reap_in(runtime)?.removed.is_empty(),
        "detached, it is not reaped",
    )?;
    let worker = Running::attach(&text.parse::<Reference>()?)?;
    println!("attached to pid {} again", worker.pid());
    let status = worker.stop(SOON)?;
    check(
        status.code() == Some(7),
        &format!("stopped, it ended by {status}"),
    )
}

/// What is run again, and killed.
fn leave(runtime: &Path) -> Result<()> {
    let worker = container(runtime, "left", IDLE).start()?;
    println!("{}", worker.pid());
    std::thread::sleep(SOON);
    Ok(())
}

fn reaped(runtime: &Path) -> Result<()> {
    let mut killed = std::process::Command::new(std::env::current_exe()?)
        .arg(runtime)
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let stdout = killed.stdout.take().ok_or("no pipe")?;
    let pid = BufReader::new(stdout)
        .lines()
        .next()
        .ok_or("it says nothing")??;
    check(
        reap_in(runtime)?.removed.is_empty(),
        "another process lives, and so do its containers",
    )?;
    killed.kill()?;
    killed.wait()?;
    let program = PathBuf::from(format!("/proc/{pid}"));
    check(
        program.exists(),
        &format!("it is killed, and pid {pid} runs on"),
    )?;
    let reaped = reap_in(runtime)?;
    for removed in &reaped.removed {
        println!("  reaped {removed}");
    }
    check(
        reaped.failed.is_empty() && reaped.removed.len() >= 3,
        "all of it is reaped",
    )
}

/// Prints what is so, and fails if it is not.
fn check(is_so: bool, what: &str) -> Result<()> {
    if !is_so {
        return Err(format!("not as it should be: {what}").into());
    }
    println!("{what}");
    Ok(())
}
