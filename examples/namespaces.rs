//! A program in namespaces of its own: what it sees of the machine, how it ends, and what a failed start says.
//!
//! The root is the machine's own `/`, read-only; the program is this very binary. Nothing of the host changes: all namespaces
//! and mounts end with the program. As an ordinary user it does the same in a user namespace.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use cofferdam_namespaces::{Capabilities, Clock, Command, IdMap, Mount, Namespaces, RootFs, Stdio};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("look") => look(),
        Some("wait") => {
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        _ => host(),
    }
}

fn host() -> Result<()> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    println!(
        "outside: pid {}, up for {} s",
        std::process::id(),
        first(&uptime)
    );

    let look = this("look")?
        .hostname("box")
        .mount(Mount::tmpfs("/mnt", 1 << 20))
        .mount(Mount::file("/mnt/note", "written by the caller\n"))
        .namespaces(Namespaces::default().clock_offset(Clock::Boottime, 1_000_000, 0))
        .capabilities(Capabilities::NONE)
        .stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = look.spawn()?;
    println!("started as pid {} in {:.1?}", child.pid(), start.elapsed());
    println!("{}", indented(&child.output()?.stdout));
    println!("it took {:?}", child.applied());

    let mut child = this("wait")?.init(true).spawn()?;
    child.signal(15)?;
    println!("under an init, SIGTERM ends it: {}", child.wait()?);
    let child = this("wait")?.spawn()?;
    let ended = child.wait_timeout(Duration::from_millis(20))?;
    println!("after 20 ms another one runs: {}", ended.is_none());
    child.kill()?;
    let status = child.wait_timeout(Duration::from_secs(5))?;
    let signal = status.and_then(|status| status.signal());
    println!("without one, SIGKILL does: signal {signal:?}");

    let mut child = this("look")?.terminal(24, 80).spawn()?;
    let mut shown = Vec::new();
    if let Some(mut terminal) = child.terminal.take() {
        terminal.read_to_end(&mut shown)?;
    }
    let shown = String::from_utf8_lossy(&shown);
    let line = shown.lines().find(|line| line.starts_with("stdout"));
    println!("on a terminal: {}", line.unwrap_or("nothing"));

    for failing in [
        this("look")?.program("/nowhere"),
        this("look")?.workdir("/nowhere"),
        this("look")?.mount(Mount::bind("/nowhere", "/mnt")),
        this("look")?.mount(Mount::tmpfs("/proc/self", 4096)),
    ] {
        match failing.spawn() {
            Ok(_) => return Err("a start that cannot be went well".into()),
            Err(error) => println!("{:?}: {error}", error.kind()),
        }
    }
    Ok(())
}

/// This binary, to run inside.
fn this(what: &str) -> Result<Command> {
    let command = Command::new(std::env::current_exe()?)
        .arg(what)
        .root(RootFs::directory("/").read_only());
    if is_root()? {
        return Ok(command);
    }
    Ok(command.id_map(IdMap::current_user()))
}

fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(status.contains("\nUid:\t0\t"))
}

/// What a program sees from inside.
fn look() -> Result<()> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let count = |path: &str| fs::read_dir(path).map(Iterator::count);
    let status = read("/proc/self/status");
    let capabilities = status.lines().find(|line| line.starts_with("CapEff"));
    let processes = fs::read_dir("/proc")?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let mut out = io::stdout();
    writeln!(out, "pid {} of {}", std::process::id(), processes.count())?;
    writeln!(
        out,
        "host name {}",
        read("/proc/sys/kernel/hostname").trim()
    )?;
    writeln!(out, "up for {} s", first(&read("/proc/uptime")))?;
    writeln!(
        out,
        "{} network links",
        read("/proc/net/dev").lines().count() - 2
    )?;
    writeln!(out, "{} devices and directories in /dev", count("/dev")?)?;
    writeln!(out, "{}", capabilities.unwrap_or("no capabilities"))?;
    writeln!(out, "/mnt/note: {}", read("/mnt/note").trim())?;
    let written = fs::write("/written", "x").err();
    let written = written.map_or_else(|| "it can".into(), |error| error.to_string());
    writeln!(out, "to write to /: {written}")?;
    let stdout = fs::read_link("/proc/self/fd/1")?;
    writeln!(out, "stdout is {}", stdout.display())?;
    Ok(())
}

fn first(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

fn indented(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<_> = text
        .lines()
        .map(|line| format!("  inside: {line}"))
        .collect();
    lines.join("\n")
}
