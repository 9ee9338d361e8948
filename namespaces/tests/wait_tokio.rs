//! Waiting on tokio's event loop.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use cofferdam_namespaces::{Command, Namespaces, Spawned, Stdio};
use support::{answer, answered, common, inside};
use tokio::net::unix::pipe;
use tokio::time::timeout;

/// Not a test of its own: the programs.
#[test]
fn payload() {
    answer(|verb, rest| match verb {
        "flood" => {
            // More than a pipe holds, on one stream after the other: who reads only one waits for ever.
            std::io::stderr().write_all(&[b'e'; 300_000]).unwrap();
            std::io::stdout().write_all(&[b'o'; 300_000]).unwrap();
            std::process::exit(5);
        }
        "echo" => std::io::read_to_string(std::io::stdin()).map_err(|error| error.to_string()),
        _ => common(verb, rest),
    });
}

fn command(what: &str) -> Command {
    inside(what)
        .stdout(Stdio::null())
        .namespaces(Namespaces::none())
}

fn program(what: &str) -> Spawned {
    command(what)
        .spawn()
        .unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_told_once_it_comes_and_to_every_task() {
    let child = std::sync::Arc::new(program("sleep"));
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let child = std::sync::Arc::clone(&child);
            tokio::spawn(async move { child.wait_async().await.unwrap().to_string() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(tasks.iter().all(|task| !task.is_finished()));
    let start = Instant::now();
    child.kill().unwrap();
    for task in tasks {
        assert!(task.await.unwrap().starts_with("signal: 9"));
    }
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(child.wait_async().await.is_ok(), "and again after that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_dropped_loses_nothing() {
    let child = program("sleep");
    for _ in 0..50 {
        let cut = timeout(Duration::from_millis(1), child.wait_async()).await;
        assert!(cut.is_err(), "it runs");
    }
    child.kill().unwrap();
    let status = child.wait_async().await.unwrap();
    assert_eq!(child.try_wait().unwrap(), Some(status));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_programs_are_waited_for_at_once() {
    let tasks = (0..40).map(|code| {
        tokio::spawn(async move { program(&format!("exit {code}")).wait_async().await })
    });
    for (code, task) in tasks.collect::<Vec<_>>().into_iter().enumerate() {
        let status = task.await.unwrap().unwrap();
        assert_eq!(status.code(), i32::try_from(code).ok());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn output_reads_both_streams_at_once() {
    let command = command("flood")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let output = timeout(Duration::from_secs(60), child.output_async()).await;
    let output = output.expect("neither stream blocks the other").unwrap();
    let count = |bytes: &[u8], byte| bytes.iter().filter(|&&one| one == byte).count();
    assert!(count(&output.stdout, b'o') >= 300_000);
    assert_eq!(count(&output.stderr, b'e'), 300_000);
    assert_eq!(output.status.code(), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_are_pipes_of_tokio() {
    let command = command("echo").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdin = pipe::Sender::from_file(child.stdin.take().unwrap()).unwrap();
    stdin.writable().await.unwrap();
    assert_eq!(stdin.try_write(b"ping").unwrap(), 4);
    drop(stdin);
    let output = timeout(Duration::from_secs(60), child.output_async()).await;
    let output = output
        .expect("the end of its input is the end of it")
        .unwrap();
    assert_eq!(answered(&output.stdout), "ping");
}
