//! A hard-working embedder: threads that allocate on one arena all the time, threads that start programs, and a count of
//! what is left. Alone in its binary, because it counts the fds and children of the whole process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cofferdam_namespaces::{Command, IdMap, RootFs, Stdio};
use cofferdam_testkit::{Need, Snapshot, have};
use support::{PAYLOAD, turns};

const STARTERS: usize = 4;

#[test]
fn starts_do_not_hang_fail_or_leak_while_threads_allocate() {
    if std::env::var_os(PAYLOAD).is_some() {
        std::process::exit(3);
    }
    if !have(&[Need::Namespaces]) {
        return;
    }
    // glibc reads it before main: this process starts itself again with it.
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        let error = std::process::Command::new(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .env("MALLOC_ARENA_MAX", "1")
            .exec();
        panic!("exec: {error}");
    }
    // The first start of a container makes what the library keeps, one fd.
    start(0);
    start(1);
    let before = Snapshot::take();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let done = &done;
            scope.spawn(move || allocate(seed, done));
        }
        let starters: Vec<_> = (0..STARTERS)
            .map(|starter| {
                scope.spawn(move || (starter..turns(500, 60)).step_by(STARTERS).for_each(start))
            })
            .collect();
        let results: Vec<_> = starters.into_iter().map(|starter| starter.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok), "a start failed");
    });
    before.assert_same("cofferdam-namespaces-embedder");
}

/// Every third in a user namespace too, every fifth of a program that does not exist.
fn start(index: usize) {
    let exe = std::env::current_exe().unwrap();
    let mut command = Command::new(exe)
        .args([
            "--exact",
            "starts_do_not_hang_fail_or_leak_while_threads_allocate",
        ])
        .env(PAYLOAD, "1")
        .root(RootFs::directory("/"))
        .stdout(Stdio::piped());
    if index % 3 == 0 {
        command = command.id_map(IdMap::current_user());
    }
    if index % 5 == 4 {
        let error = command
            .workdir("/nowhere")
            .spawn()
            .expect_err("no such workdir");
        assert_eq!(error.raw_os_error(), Some(2), "{error}");
        return;
    }
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("start {index}: {error}"));
    let status = child.wait_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(
        status.and_then(|status| status.code()),
        Some(3),
        "start {index}"
    );
}

fn allocate(seed: usize, done: &AtomicBool) {
    let mut size = seed;
    while !done.load(Ordering::Relaxed) {
        size = size.wrapping_mul(31).wrapping_add(17) % 8000;
        let block = vec![size as u8; size + 1];
        std::hint::black_box(&block);
    }
    let _touched = fs::metadata("/").is_ok();
}
