//! How programs ended, in callers that make it hard to know. Each such caller is a process of its own: this test binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the payload's way to answer")]

mod support;
#[path = "wait/sys.rs"]
mod sys;

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cofferdam_namespaces::{ErrorKind, Namespaces, Result, Spawned, Stdio};
use cofferdam_testkit::{ignore_children, leave_no_zombies};
use rustix::process::{
    Resource, Rlimit, WaitId, WaitIdOptions, WaitOptions, setrlimit, wait, waitid,
};
use support::{Scratch, answer, common, inside, said};

/// Not a test of its own: the programs, and their callers.
#[test]
fn payload() {
    answer(|verb, rest| match verb {
        "core" => {
            // Whether there is one depends on the machine; it goes where this process is, which is removed.
            let limit = Some(16 << 20);
            let (current, maximum) = (limit, limit);
            let _raised = setrlimit(Resource::Core, Rlimit { current, maximum }).is_ok();
            std::process::abort();
        }
        "traced" => {
            let thread = std::thread::spawn(|| {
                sys::ask_to_be_traced();
                println!("traced");
                std::thread::sleep(Duration::from_secs(1000));
            });
            if rest == "exit" {
                std::thread::sleep(Duration::from_millis(50));
                std::process::exit(7);
            }
            thread.join().unwrap();
            Ok(String::new())
        }
        "normal" => Ok(embed(rest, |_| {})),
        "ignores" => {
            ignore_children();
            Ok(embed(rest, |_| {}))
        }
        "nocldwait" => {
            leave_no_zombies();
            Ok(embed(rest, |_| {}))
        }
        "steals" => Ok(embed(rest, |child| {
            while !steal(child.pid(), WaitOptions::empty()) {}
        })),
        "reaps" => Ok(reaps(rest)),
        _ => common(verb, rest),
    });
}

/// Runs the program and returns what is learned of its end.
fn embed(what: &str, before: impl FnOnce(&Spawned)) -> String {
    let child = program(what);
    if what == "sleep" {
        let running = child.wait_timeout(Duration::from_millis(50));
        assert_eq!(running.unwrap(), None, "it runs");
        child.kill().unwrap();
    }
    before(&child);
    let first = ended(
        child
            .wait_timeout(Duration::from_secs(30))
            .map(Option::unwrap),
    );
    let again = ended(child.try_wait().map(Option::unwrap));
    assert_eq!(first, again, "asked twice");
    first
}

/// A thread takes the status of every child all the time, as supervisors do.
fn reaps(what: &str) -> String {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _stolen = steal(0, WaitOptions::NOHANG);
            }
        });
        let all: Vec<_> = (0..20).map(|_| ended(program(what).wait())).collect();
        done.store(true, Ordering::Relaxed);
        // Sometimes the one who waits comes first, the first time too.
        let mut known: Vec<_> = all.iter().filter(|one| *one != "StatusLost").collect();
        known.dedup();
        assert!(known.len() <= 1, "{all:?}");
        all.into_iter().max().unwrap()
    })
}

/// Takes the status of any child, as by waitpid(-1). Whether it was that of `pid`.
fn steal(pid: u32, options: WaitOptions) -> bool {
    let taken = wait(options).ok().flatten();
    taken.is_some_and(|(taken, _)| taken.as_raw_nonzero().get().unsigned_abs() == pid)
}

fn ended(result: Result<ExitStatus>) -> String {
    match result {
        Ok(status) => format!("{:#x}", status.into_raw()),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(10), "{error}");
            format!("{:?}", error.kind())
        }
    }
}

fn program(what: &str) -> Spawned {
    inside(what)
        .stdout(Stdio::null())
        .namespaces(Namespaces::none())
        .workdir(std::env::current_dir().unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{error}"))
}

/// What a caller of this kind learns.
fn learned(caller: &str, what: &str) -> String {
    let scratch = Scratch::new(&format!("{caller}-{what}").replace(' ', "-"));
    let output = support::caller(&format!("{caller} {what}"))
        .current_dir(&scratch.0)
        .output()
        .unwrap();
    said(&output.stdout).unwrap_or_else(|| panic!("{caller} {what}: {output:?}"))
}

/// Linux 6.15 was the first to keep how a process ended for those who have a pidfd of it.
fn kernel_keeps_the_status() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|word| word.trim().parse().ok());
    let mut next = || numbers.next().flatten().unwrap_or(0u32);
    (next(), next()) >= (6, 15)
}

#[test]
fn the_status_is_kept_when_the_kernel_or_another_thread_reaps() {
    let kept = kernel_keeps_the_status();
    for (what, status) in [
        ("exit 7", "0x700"),
        ("exit 0", "0x0"),
        ("sleep", "0x9"),
        ("exit 255", "0xff00"),
    ] {
        let expected = if kept { status } else { "StatusLost" };
        assert_eq!(learned("normal", what), status, "{what}");
        for caller in ["ignores", "nocldwait", "steals"] {
            assert_eq!(learned(caller, what), expected, "{caller}: {what}");
        }
    }
    let expected: &[_] = if kept {
        &["0x700"]
    } else {
        &["0x700", "StatusLost"]
    };
    let reaped = learned("reaps", "exit 7");
    assert!(expected.contains(&reaped.as_str()), "{reaped}");
}

/// Where a program has threads, the kernel keeps the status that its first one had, which can lack the flag.
#[test]
fn the_signal_is_kept_with_a_core_or_without() {
    let normal = learned("normal", "core");
    assert!(["0x6", "0x86"].contains(&normal.as_str()), "{normal}");
    let expected: &[_] = match kernel_keeps_the_status() {
        true => &["0x6", &normal],
        false => &["StatusLost"],
    };
    for caller in ["ignores", "nocldwait", "steals"] {
        let status = learned(caller, "core");
        assert!(expected.contains(&status.as_str()), "{caller}: {status}");
    }
}

#[test]
fn a_status_is_kept_for_all_who_wait() {
    let child = program("exit 3");
    let codes: Vec<_> = std::thread::scope(|scope| {
        let wait = || {
            child
                .wait_timeout(Duration::from_secs(30))
                .unwrap()
                .unwrap()
                .code()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(wait)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(codes, [Some(3); 8]);
}

#[test]
fn dropping_a_program_whose_status_is_lost_takes_no_time() {
    let took = |_| {
        let child = program("exit 3");
        while !steal_one(child.pid()) {}
        let start = Instant::now();
        let lost = child.try_wait();
        assert!(lost.is_ok() || lost.is_err_and(|error| error.kind() == ErrorKind::StatusLost));
        drop(child);
        start.elapsed()
    };
    // One that is waited for takes a second each time; others on the machine are not busy each time.
    let best = (0..5).map(took).min().unwrap();
    assert!(best < Duration::from_millis(500), "{best:?}");
}

/// Other tests of this process have children too: only this one is taken.
fn steal_one(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED)
        .unwrap()
        .is_some()
}

/// Such a thread is its tracer's to reap, and keeps the process until it is.
#[test]
fn a_program_ends_though_a_thread_of_it_asked_to_be_traced() {
    if !cofferdam_testkit::have(&[cofferdam_testkit::Need::Namespaces]) {
        return;
    }
    let start = |what: &str| {
        let mut child = inside(&format!("traced {what}")).spawn().unwrap();
        let (mut said, mut bytes) = (String::new(), [0; 64]);
        while !said.contains("traced") {
            let count = child.stdout.as_mut().unwrap().read(&mut bytes).unwrap();
            assert!(count > 0, "{said}");
            said += &String::from_utf8_lossy(&bytes[..count]);
        }
        child
    };
    let child = start("sleep");
    child.kill().unwrap();
    let status = child.wait_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(status.and_then(|status| status.signal()), Some(9));
    let mut child = start("exit");
    assert_eq!(child.wait().unwrap().code(), Some(7));
    // Dropping it ends it too.
    let child = start("sleep");
    let process = format!("/proc/{}", child.pid());
    drop(child);
    assert!(!std::path::Path::new(&process).exists());
}
