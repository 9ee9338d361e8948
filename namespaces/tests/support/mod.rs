//! What tests that start programs share: the program is the test binary itself, which needs no other on the machine.
#![allow(dead_code, reason = "not every test binary uses all of it")]
#![allow(clippy::print_stdout, reason = "the payload's way to answer")]

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cofferdam_namespaces::{Command, Error, Mount, RootFs, Stdio};
#[allow(unused_imports, reason = "as above")]
pub(crate) use cofferdam_testkit::{is_emulated, turns};
use rustix::fs::{CWD, RenameFlags};
use rustix::mount::MountFlags;

pub(crate) const PAYLOAD: &str = "COFFERDAM_PAYLOAD";

/// Has this binary run its test `payload` alone.
pub(crate) const ONLY_PAYLOAD: [&str; 4] =
    ["--exact", "payload", "--nocapture", "--test-threads=1"];

/// The capabilities that Docker gives, as a status file of procfs has them.
pub(crate) const DOCKER: u64 = 0xa804_25fb;

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

/// What payloads of many tests are asked for.
pub(crate) fn common(verb: &str, rest: &str) -> Result<String, String> {
    match verb {
        "read" => fs::read_to_string(rest).map_err(|error| error.to_string()),
        "write" => fs::write(rest, "written")
            .map(|()| "done".into())
            .map_err(|error| error.to_string()),
        "list" => names(Path::new(rest)).map_err(|error| error.to_string()),
        "sleep" => {
            std::thread::sleep(Duration::from_secs(1000));
            Ok(String::new())
        }
        "exit" => std::process::exit(rest.parse().unwrap()),
        "abort" => std::process::abort(),
        other => Err(format!("no payload {other}")),
    }
}

/// What is in a directory, sorted.
pub(crate) fn names(directory: &Path) -> std::io::Result<String> {
    let mut names: Vec<_> = fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names.join(" "))
}

/// This binary, to run its test `payload` inside.
pub(crate) fn inside(what: &str) -> Command {
    Command::new(std::env::current_exe().unwrap())
        .args(ONLY_PAYLOAD)
        .env(PAYLOAD, what)
        .stdout(Stdio::piped())
}

/// The same in a root of its own: the host's, as a bind mount.
pub(crate) fn rooted(what: &str) -> Command {
    inside(what).root(RootFs::directory("/")).hostname("box")
}

/// As [`inside`], in a root with nothing of its own: what this binary needs is bound into it, and itself at `/test`.
pub(crate) fn alone(what: &str, root: RootFs) -> Command {
    let mut command = inside(what)
        .program("/test")
        .root(root)
        .mount(Mount::bind(std::env::current_exe().unwrap(), "/test").read_only());
    for path in ["/lib", "/lib64", "/usr"] {
        if Path::new(path).is_dir() {
            command = command.mount(Mount::bind(path, path).read_only());
        }
    }
    command
}

/// This binary, to run its test `payload` as a process of the host's: a caller of its own.
pub(crate) fn caller(what: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(ONLY_PAYLOAD).env(PAYLOAD, what);
    command
}

/// Runs it to its end, which is to be a good one, and returns what it answered.
pub(crate) fn output(command: Command) -> String {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}"));
    let output = child.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    answered(&output.stdout)
}

/// What stands between the markers, which are there.
pub(crate) fn answered(bytes: &[u8]) -> String {
    said(bytes).unwrap_or_else(|| panic!("no answer in {}", String::from_utf8_lossy(bytes)))
}

/// What stands between the markers, if they are there.
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

/// The value of a line of a status file of procfs, its words one space apart.
pub(crate) fn field(status: &str, name: &str) -> String {
    let prefix = format!("{name}:");
    let line = status.lines().find_map(|line| line.strip_prefix(&prefix));
    let line = line.unwrap_or_else(|| panic!("{name} in {status}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The fields of a stat file of procfs, numbered as in proc_pid_stat(5), but from 0.
pub(crate) fn stat_of(whose: impl Display) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{whose}/stat")).unwrap();
    let (start, rest) = text.rsplit_once(") ").unwrap();
    let (pid, name) = start.split_once(" (").unwrap();
    let fields = [pid, name].into_iter().chain(rest.trim_end().split(' '));
    fields.map(str::to_owned).collect()
}

/// What a start could change of this process and thread, as procfs and the kernel tell it.
pub(crate) fn own_state() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let status = read("/proc/thread-self/status");
    let fields = [
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "CoreDumping",
        "THP_enabled",
        "Cpus_allowed",
    ];
    let lines = status
        .lines()
        .filter(|line| fields.iter().any(|field| line.starts_with(field)));
    let stat = stat_of("thread-self");
    vec![
        ("status", lines.collect::<Vec<_>>().join("\n")),
        // Led from outside of this pid namespace they are 0, which no type of a pid has room for.
        ("group and session", stat[4..6].join(" ")),
        ("nice value", stat[18].clone()),
        ("real-time priority and policy", stat[39..41].join(" ")),
        ("oom_score_adj", read("/proc/self/oom_score_adj")),
        ("limits", read("/proc/self/limits")),
        ("personality", read("/proc/thread-self/personality")),
        (
            "dumpable",
            format!("{:?}", rustix::process::dumpable_behavior().unwrap()),
        ),
        ("cwd", format!("{:?}", std::env::current_dir().unwrap())),
    ]
}

/// The children of this process, whichever thread made them.
pub(crate) fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .collect::<String>()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// Mounts one, in the mount namespace of this thread.
pub(crate) fn tmpfs_on(path: impl AsRef<Path>) {
    let flags = MountFlags::empty();
    rustix::mount::mount("tmpfs", path.as_ref(), "tmpfs", flags, None).unwrap();
}

/// Each has the other's name then, and there is no moment without one of them.
pub(crate) fn exchange(one: &Path, other: &Path) {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

/// A directory that is gone with the test, and that everybody may look into.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cofferdam-ns-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Scratch(path)
    }

    /// With a file in it.
    pub(crate) fn with_file(name: &str, content: &str) -> Self {
        let scratch = Self::new(name);
        fs::write(scratch.join("file"), content).unwrap();
        scratch
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Says so when it goes: also where a check fails, what runs beside it has to end.
pub(crate) struct Done<'d>(pub(crate) &'d AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
