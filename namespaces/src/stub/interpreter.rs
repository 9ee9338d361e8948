//! Tests of the interpreter on this machine's processor: programs written by hand, executed as the stub.

use std::os::fd::AsRawFd;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use libc::c_long;

use super::{IMAGE_BASE, file};

const HEADER: usize = 16;
const OP: usize = 80;
const STDOUT: i64 = 1;

/// As `Program` encodes it.
#[derive(Clone, Copy, Default)]
struct Op {
    nr: c_long,
    min: i32,
    flags: u32,
    skip: u32,
    args: [u64; 6],
    tolerate: u64,
    result: u64,
}

fn op<const N: usize>(nr: c_long, args: [u64; N]) -> Op {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&args);
    Op {
        nr,
        args: all,
        ..Op::default()
    }
}

fn exit(code: u64) -> Op {
    op(libc::SYS_exit_group, [code])
}

/// Where word `index` of the data is in a program of so many ops.
fn word(ops: usize, index: usize) -> u64 {
    IMAGE_BASE + (HEADER + ops * OP + index * 8) as u64
}

/// Runs `ops`, with `data` after them, until it exits. Its standard output is where failures go.
fn run(ops: &[Op], data: &[u64]) -> Output {
    let mut image = Vec::new();
    image.extend_from_slice(&STDOUT.to_ne_bytes());
    image.resize(HEADER, 0);
    for op in ops {
        image.extend_from_slice(&u32::try_from(op.nr).unwrap().to_ne_bytes());
        image.extend_from_slice(&op.min.to_ne_bytes());
        image.extend_from_slice(&op.flags.to_ne_bytes());
        image.extend_from_slice(&op.skip.to_ne_bytes());
        for word in op.args.iter().chain([&op.tolerate, &op.result]) {
            image.extend_from_slice(&word.to_ne_bytes());
        }
    }
    for word in data {
        image.extend_from_slice(&word.to_ne_bytes());
    }
    let (stub, _) = file(&image, true).unwrap();
    let path = format!("/proc/self/fd/{}", stub.as_raw_fd());
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.wait_with_output().unwrap()
}

/// Op and errno that a program ended with.
#[track_caller]
fn failed(ops: &[Op], data: &[u64], index: u32, errno: i32) {
    let output = run(ops, data);
    let mut expected = index.to_ne_bytes().to_vec();
    expected.extend_from_slice(&errno.to_ne_bytes());
    assert_eq!(output.stdout, expected);
    assert_eq!(output.status.code(), Some(127));
}

#[track_caller]
fn exits(ops: &[Op], data: &[u64], code: i32) {
    let output = run(ops, data);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

fn close(fd: u64) -> Op {
    op(libc::SYS_close, [fd])
}

#[test]
fn what_fails_is_told_and_ends_it() {
    exits(&[exit(7)], &[], 7);
    let ops = [
        op(libc::SYS_getpid, []),
        op(libc::SYS_getpid, []),
        close(99),
        exit(0),
    ];
    failed(&ops, &[], 2, libc::EBADF);
    let nothing = Op {
        min: 1,
        ..op(libc::SYS_write, [1, 0, 0])
    };
    failed(&[nothing, exit(0)], &[], 0, libc::EIO);
    failed(&[op(1_000_000, []), exit(0)], &[], 0, libc::ENOSYS);
}

#[test]
fn what_is_tolerated_passes_over_ops() {
    let tolerated = Op {
        tolerate: 1 << libc::EBADF,
        skip: 2,
        ..close(99)
    };
    exits(&[tolerated, exit(1), exit(2), exit(3)], &[], 3);
    // The count of ops goes on with them.
    failed(
        &[tolerated, exit(1), exit(2), close(99)],
        &[],
        3,
        libc::EBADF,
    );
    // What succeeds passes over none, and other errors are not tolerated.
    let succeeds = Op {
        skip: 2,
        ..op(libc::SYS_getpid, [])
    };
    exits(&[succeeds, exit(1), exit(2), exit(3)], &[], 1);
    let other = Op {
        tolerate: 1 << libc::ENOENT,
        ..close(99)
    };
    failed(&[other, exit(0)], &[], 0, libc::EBADF);
}

#[test]
fn a_result_becomes_an_argument() {
    let ops = |last| {
        let keep = Op {
            result: word(4, 0),
            ..op(libc::SYS_dup, [1])
        };
        let use_it = Op {
            flags: 1,
            ..close(word(4, 0))
        };
        [keep, use_it, last, exit(0)]
    };
    let again = Op {
        flags: 1,
        ..close(word(4, 0))
    };
    exits(&ops(op(libc::SYS_getpid, [])), &[0], 0);
    failed(&ops(again), &[0], 2, libc::EBADF);
}

#[test]
fn each_of_six_arguments_can_be_a_slot() {
    let arguments = [0, 4096, 3, 0x22, u64::MAX, 0];
    for indirect in 0..64u32 {
        let args: [u64; 6] = std::array::from_fn(|position| {
            if indirect & 1 << position == 0 {
                arguments[position]
            } else {
                word(2, position)
            }
        });
        let map = Op {
            flags: indirect,
            ..op(libc::SYS_mmap, args)
        };
        exits(&[map, exit(4)], &arguments, 4);
        // Each argument arrives: as the last, one that is not a multiple of a page is refused.
        let mut wrong = map;
        let mut data = arguments;
        data[5] = 1;
        wrong.args[5] = if indirect & 32 == 0 { 1 } else { word(2, 5) };
        failed(&[wrong, exit(4)], &data, 0, libc::EINVAL);
    }
}

/// Clones and process 1.
mod processes {
    use super::*;

    const BRANCH: u32 = 1 << 6;
    const REAP: u32 = 1 << 7;

    const PID: usize = 32;
    const TIME: usize = 33;
    const NONE: usize = 35;
    const TEXT: usize = 36;
    /// All signals and 248 bytes for the reaper; a pid; a tenth of a second; no signal; two letters.
    const DATA: [u64; 38] = {
        let mut data = [0; 38];
        data[0] = u64::MAX;
        data[TIME + 1] = 100_000_000;
        data[TEXT] = u64::from_le_bytes(*b"p\0\0\0\0\0\0\0");
        data[TEXT + 1] = u64::from_le_bytes(*b"c\0\0\0\0\0\0\0");
        data
    };

    /// Makes a child, which passes over `skip` ops.
    fn clone(skip: u32, pid: u64) -> Op {
        Op {
            flags: BRANCH,
            skip,
            result: pid,
            ..op(libc::SYS_clone, [libc::SIGCHLD as u64])
        }
    }

    #[test]
    fn parent_and_child_go_different_ways() {
        let word = |index| word(6, index);
        let say = |letter| op(libc::SYS_write, [1, word(TEXT + letter), 1]);
        let wait = Op {
            flags: 1,
            ..op(libc::SYS_wait4, [word(PID), word(0), 0, 0])
        };
        // The exit status is the second byte of what wait4(2) says.
        let pass_on = Op {
            flags: 1,
            ..exit(word(0) + 1)
        };
        let ops = [clone(3, word(PID)), wait, say(0), pass_on, say(1), exit(5)];
        let output = run(&ops, &DATA);
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        assert_eq!(output.stdout, b"cp");
    }

    #[test]
    fn only_a_result_of_nothing_branches() {
        let failing = Op {
            args: [libc::CLONE_THREAD as u64, 0, 0, 0, 0, 0],
            ..clone(1, 0)
        };
        failed(&[failing, exit(1), exit(2)], &[], 0, libc::EINVAL);
        let tolerated = Op {
            tolerate: 1 << libc::EINVAL,
            ..failing
        };
        exits(&[tolerated, exit(1), exit(2)], &[], 2);
        let positive = Op {
            flags: BRANCH,
            skip: 1,
            ..op(libc::SYS_getpid, [])
        };
        exits(&[positive, exit(1), exit(2)], &[], 1);
    }

    const REAPED: usize = 12;
    const NO_LIFELINE: u64 = u64::MAX;

    /// What the reaper exits with when its payload does this, after another child has ended.
    fn reaped(payload: &[Op]) -> Option<i32> {
        let word = |index| word(REAPED, index);
        let block = [libc::SIG_SETMASK as u64, word(0), 0, 8];
        let reap = Op {
            flags: REAP | 1,
            ..op(0, [word(PID), word(0), NO_LIFELINE])
        };
        let mut ops = vec![
            op(libc::SYS_rt_sigprocmask, block),
            clone(3, 0),
            clone(3, word(PID)),
            reap,
            exit(101),
            exit(3), // the other child
            op(libc::SYS_nanosleep, [word(TIME), 0]),
        ];
        ops.extend(payload);
        ops.resize(REAPED, exit(102));
        run(&ops, &DATA).status.code()
    }

    /// The payload sends `signal` to itself, or to its parent.
    fn kill(whom: c_long, signal: i32) -> [Op; 4] {
        let word = |index| word(REAPED, index);
        let open = [libc::SIG_SETMASK as u64, word(NONE), 0, 8];
        let whom = Op {
            result: word(PID),
            ..op(whom, [])
        };
        let kill = Op {
            flags: 1,
            ..op(libc::SYS_kill, [word(PID), signal as u64])
        };
        let sleep = op(libc::SYS_nanosleep, [word(TIME), 0]);
        [op(libc::SYS_rt_sigprocmask, open), whom, kill, sleep]
    }

    #[test]
    fn the_reaper_ends_as_its_payload_did() {
        assert_eq!(reaped(&[exit(0)]), Some(0));
        assert_eq!(reaped(&[exit(9)]), Some(9));
        assert_eq!(reaped(&[exit(255)]), Some(255));
        assert_eq!(reaped(&kill(libc::SYS_getpid, libc::SIGKILL)), Some(137));
        assert_eq!(reaped(&kill(libc::SYS_getpid, libc::SIGSEGV)), Some(139));
    }

    #[test]
    fn the_reaper_passes_signals_on() {
        assert_eq!(reaped(&kill(libc::SYS_getppid, libc::SIGTERM)), Some(143));
        assert_eq!(reaped(&kill(libc::SYS_getppid, 40)), Some(168));
        // This one it would have been told of by its child's end.
        assert_eq!(reaped(&kill(libc::SYS_getppid, libc::SIGCHLD)), Some(102));
    }

    /// The first fds a program opens.
    const READING: u64 = 3;
    const WRITING: u64 = 4;

    #[test]
    fn the_reaper_ends_with_its_lifeline() {
        const OPS: usize = 13;
        let word = |index| word(OPS, index);
        let block = [libc::SIG_SETMASK as u64, word(0), 0, 8];
        let myself = Op {
            result: word(PID),
            ..op(libc::SYS_getpid, [])
        };
        let owner = Op {
            flags: 4,
            ..op(libc::SYS_fcntl, [READING, libc::F_SETOWN as u64, word(PID)])
        };
        let signals = (libc::O_ASYNC | libc::O_NONBLOCK) as u64;
        let reap = Op {
            flags: REAP | 1,
            ..op(0, [word(PID), word(0), READING])
        };
        let sleep = op(libc::SYS_nanosleep, [word(TIME), 0]);
        let ops = [
            op(libc::SYS_rt_sigprocmask, block),
            op(libc::SYS_pipe2, [word(NONE), 0]),
            myself,
            owner,
            op(libc::SYS_fcntl, [READING, libc::F_SETFL as u64, signals]),
            clone(3, word(PID)),
            close(WRITING),
            reap,
            exit(101),
            sleep,
            close(WRITING),
            // Nothing of its own ends the payload before the reaper is to have ended.
            sleep,
            exit(9),
        ];
        assert_eq!(run(&ops, &DATA).status.code(), Some(137));
    }
}
