//! A caller that has next to no fds left. Alone in its binary, as the limit is the whole process's.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::os::fd::AsRawFd;

use cofferdam_namespaces::{Command, Result, Spawned};
use cofferdam_testkit::{Need, have};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{answer, children, common, inside, rooted};

#[test]
fn payload() {
    answer(common);
}

/// Starts with room for so many more fds.
fn with_room_for(fds: u64, start: impl FnOnce() -> Result<Spawned>) -> Result<Spawned> {
    // The lowest number that is free.
    let next = fs::File::open("/dev/null").unwrap();
    let next = u64::try_from(next.as_raw_fd()).unwrap();
    let before = getrlimit(Resource::Nofile);
    let current = Some(next + fds);
    let maximum = before.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let outcome = start();
    setrlimit(Resource::Nofile, before).unwrap();
    outcome
}

#[test]
fn a_start_that_lacks_an_fd_fails_and_what_it_returns_is_the_program() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let target = rooted("sleep").spawn().unwrap();
    let entering = inside("exit 5");
    let terminal = rooted("exit 5").terminal(24, 80);
    let starts: [(&str, &dyn Fn() -> Result<Spawned>); 2] = [
        ("enter", &|| entering.enter(&target)),
        ("terminal", &|| Command::spawn(&terminal)),
    ];
    for (name, start) in starts {
        let (mut well, mut ill) = (0, 0);
        for fds in 1..40 {
            match with_room_for(fds, start) {
                Ok(mut child) => {
                    let status = child.wait().unwrap();
                    assert_eq!(status.code(), Some(5), "{name} {fds}: the program's");
                    assert_eq!(child.terminal.is_some(), name == "terminal", "{name} {fds}");
                    well += 1;
                }
                Err(error) => {
                    let errno = error.raw_os_error();
                    assert_eq!(errno, Some(libc::EMFILE), "{name} {fds}: {error}");
                    ill += 1;
                }
            }
            assert_eq!(children().len(), 1, "{name} {fds}: who is left");
        }
        assert!(well > 0 && ill > 0, "{name}: {well} well, {ill} ill");
    }
}
