//! Programs that die with their caller. Each such caller is a process of its own: this test binary.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the caller's way to answer")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cofferdam_namespaces::{Clock, Command, ErrorKind, IdMap, Namespaces, Spawned, User};
use cofferdam_testkit::{Need, have};
use support::{answer, caller, common, inside, until};

/// Ways of a start, each with a reaper of another kind.
const KINDS: [&str; 6] = ["plain", "user", "userns", "clock", "privileges", "flood"];

/// Not a test of its own: the programs, and their callers.
#[test]
fn payload() {
    answer(|verb, rest| match verb {
        "embed" => Ok(embed(rest)),
        "starts" => loop {
            let command = Command::new("sh").args(["-c", "sleep 1000; :", rest]);
            drop(command.die_with_caller(true).spawn().unwrap());
        },
        _ => common(verb, rest),
    });
}

/// What dies with its caller.
fn mortal(kind: &str) -> Command {
    let sleep = inside("sleep");
    let command = match kind {
        "user" => Command::new("sleep").arg("1000").user(User::id(1000, 1000)),
        "userns" => sleep.id_map(IdMap::current_user()),
        "clock" => sleep.namespaces(Namespaces::default().clock_offset(Clock::Boottime, 100, 0)),
        "privileges" => sleep.allow_new_privileges(),
        // The signal that tells of the end is drowned in others of its kind.
        "flood" => Command::new("sh").args(["-c", "trap '' 29; while :; do kill -29 1; done"]),
        _ => sleep,
    };
    command
        .stdout(cofferdam_namespaces::Stdio::inherit())
        .die_with_caller(true)
}

/// A caller: starts on a thread that ends, says who runs, and goes on until it is killed, or as its standard input says.
fn embed(how: &str) -> String {
    let words: Vec<_> = how.split(' ').collect();
    let kind = words[0].to_owned();
    let spawned = std::thread::spawn(move || mortal(&kind).spawn().unwrap())
        .join()
        .unwrap();
    let entered = Command::new("sleep").arg("1000");
    let entered = entered.stdout(cofferdam_namespaces::Stdio::inherit());
    let entered = entered.enter(&spawned).unwrap();
    // A child of the caller's own, which is to have no copy of anything.
    let mut other = std::process::Command::new("sleep");
    let other = other.arg("1000").stdout(Stdio::null()).spawn();
    // It gets no longer than what it was for.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(spawned.try_wait().unwrap(), None, "its thread alone ended");
    let pids = [spawned.pid(), entered.pid(), other.unwrap().id()];
    let mut held: Option<(Spawned, Spawned)> = Some((spawned, entered));
    if words.contains(&"kept") {
        let (spawned, entered) = held.take().unwrap();
        spawned.persist();
        entered.persist();
    }
    println!("pids {} {} {}", pids[0], pids[1], pids[2]);
    std::io::stdout().flush().unwrap();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    match line.trim() {
        "exit" => std::process::exit(0),
        "abort" => std::process::abort(),
        "drop" => drop(held),
        other => panic!("told {other:?}"),
    }
    std::thread::sleep(Duration::from_secs(1000));
    String::new()
}

struct Embedder {
    process: Child,
    program: u32,
    entered: u32,
    other: u32,
}

impl Embedder {
    fn start(how: &str) -> Self {
        let mut command = caller(&format!("embed {how}"));
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.as_mut().unwrap()).lines();
        let line = lines
            .map(Result::unwrap)
            .find(|line| line.contains("pids "))
            .unwrap_or_else(|| panic!("{how}: it says no pids"));
        let (_, pids) = line.split_once("pids ").unwrap();
        let mut pids = pids.split(' ').map(|pid| pid.parse().unwrap());
        let mut next = || pids.next().unwrap();
        Embedder {
            process,
            program: next(),
            entered: next(),
            other: next(),
        }
    }

    fn lives(&self) -> bool {
        runs(self.program) && runs(self.entered)
    }

    fn tell(&mut self, what: &str) {
        let stdin = self.process.stdin.as_mut().unwrap();
        stdin.write_all(what.as_bytes()).unwrap();
        stdin.write_all(b"\n").unwrap();
    }

    /// How long it takes, from now on, until nobody of it runs: all of them have its standard output. Who takes their statuses
    /// is another matter.
    fn gone(&mut self) -> Duration {
        let start = Instant::now();
        let mut stdout = self.process.stdout.take().unwrap();
        let (end, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            stdout.read_to_end(&mut Vec::new()).unwrap();
            let _heard = end.send(start.elapsed()).is_ok();
        });
        let took = ended.recv_timeout(Duration::from_secs(30));
        took.expect("its programs run on")
    }
}

impl Drop for Embedder {
    fn drop(&mut self) {
        let _killed = self.process.kill().is_ok();
        let _reaped = self.process.wait().is_ok();
        // Started by it, and nobody else's; its program is dead, unless a test has failed.
        let failed = std::thread::panicking().then_some(self.program);
        for pid in failed.into_iter().chain([self.other]) {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok();
        }
    }
}

/// Whether such a process runs: a zombie does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

#[test]
fn a_killed_caller_takes_its_programs_along_and_nobody_elses() {
    if !have(&[Need::Root]) {
        return;
    }
    let mut bystander = Embedder::start("plain");
    for kind in KINDS {
        let mut embedder = Embedder::start(kind);
        assert!(embedder.lives(), "{kind}");
        embedder.process.kill().unwrap();
        let took = embedder.gone();
        println!("{kind}: dead {took:?} after SIGKILL of the caller");
        assert!(took < Duration::from_secs(10), "{kind}: {took:?}");
        assert!(runs(embedder.other), "{kind}: a child of its own lives on");
    }
    assert!(bystander.lives(), "the programs of another caller");
    assert_eq!(bystander.process.try_wait().unwrap(), None);
}

#[test]
fn whichever_way_the_caller_ends_and_whether_it_holds_the_handle() {
    if !have(&[Need::Root]) {
        return;
    }
    for how in ["exit", "abort"] {
        let mut embedder = Embedder::start("plain");
        embedder.tell(how);
        embedder.gone();
        let mut embedder = Embedder::start("plain kept");
        embedder.tell("drop");
        std::thread::sleep(Duration::from_millis(100));
        assert!(embedder.lives(), "without a handle it lives");
        embedder.process.kill().unwrap();
        embedder.gone();
    }
    let mut embedder = Embedder::start("plain");
    embedder.tell("drop");
    until("dropped, they are dead", || {
        !runs(embedder.program) && !runs(embedder.entered)
    });
    assert_eq!(embedder.process.try_wait().unwrap(), None);
}

/// Killed at any moment of a start, too.
#[test]
fn a_caller_that_is_killed_during_a_start_leaves_no_program() {
    if !have(&[Need::Root]) {
        return;
    }
    let mark = format!("lifeline-{}", std::process::id());
    for turn in 0..support::turns(40, 5) {
        let mut command = caller(&format!("starts {mark}"));
        let mut process = command.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(3000 + 250 * turn as u64));
        process.kill().unwrap();
        process.wait().unwrap();
    }
    until("none is left", || !anybody_says(&mark));
}

/// Whether there is a process with this among its arguments.
fn anybody_says(mark: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .any(|line| line.windows(mark.len()).any(|part| part == mark.as_bytes()))
}

#[test]
fn who_enters_cannot_have_it() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let mut app = inside("sleep").spawn().unwrap();
    let late = Command::new("/bin/true").die_with_caller(true);
    let error = late.enter(&app).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    app.kill().unwrap();
    app.wait().unwrap();
}
