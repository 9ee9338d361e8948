//! What tests that start programs share: the program is the test binary itself, which needs no other on the machine.
#![allow(dead_code, reason = "not every test binary uses all of it")]
#![allow(clippy::print_stdout, reason = "the payload's way to answer")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cofferdam_namespaces::{Command, Error, RootFs, Stdio};

pub(crate) const PAYLOAD: &str = "COFFERDAM_PAYLOAD";

/// Runs `act` on what this process was asked for by [`inside`], prints the answer between markers and exits. Returns where it was
/// asked for nothing.
pub(crate) fn answer(act: impl FnOnce(&str, &str) -> Result<String, String>) {
    let Ok(what) = std::env::var(PAYLOAD) else {
        return;
    };
    let (verb, rest) = what.split_once(' ').unwrap_or((&what, ""));
    match act(verb, rest) {
        Ok(text) => println!("<<<{text}>>>"),
        Err(text) => println!("<<<error: {text}>>>"),
    }
    std::process::exit(0);
}

/// This binary, to run its test `payload` inside.
pub(crate) fn inside(what: &str) -> Command {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "payload", "--nocapture", "--test-threads=1"])
        .env(PAYLOAD, what)
        .stdout(Stdio::piped())
}

/// The same in a root of its own: the host's, as a bind mount.
pub(crate) fn rooted(what: &str) -> Command {
    inside(what).root(RootFs::directory("/")).hostname("box")
}

/// Runs it to its end and returns what it answered.
pub(crate) fn output(command: Command) -> String {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}"));
    let output = child.output().unwrap();
    said(&output.stdout).unwrap_or_else(|| panic!("no output, {}", output.status))
}

/// What stands between the markers.
pub(crate) fn said(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let (_, rest) = text.split_once("<<<")?;
    Some(rest.rsplit_once(">>>")?.0.to_owned())
}

pub(crate) fn refused(command: Command) -> Error {
    match command.spawn() {
        Ok(child) => panic!("{} was started", child.pid()),
        Err(error) => error,
    }
}

/// Waits, for a minute at most, until `is_so`.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not so after a minute: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A directory that is gone with the test.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cofferdam-ns-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Says so when it goes: also where a check fails, what runs beside it has to end.
pub(crate) struct Done<'d>(pub(crate) &'d AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
