//! Waits as futures.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::time::Duration;

use cofferdam::{Container, ContainerBuilder, Rootfs, Stdio};
use cofferdam_testkit::{Need, have};
use tokio::time::timeout;

fn shell(script: &str) -> ContainerBuilder {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let rootfs = Rootfs::layers([if initial { "/" } else { "/usr" }]);
    let builder = Container::builder().rootfs(rootfs);
    builder.command("sh").args(["-c", script])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_dropped_loses_nothing() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let mut web = shell("read line; exit 6")
        .stdin(Stdio::piped())
        .start()
        .unwrap();
    for _ in 0..20 {
        let early = timeout(Duration::from_millis(1), web.wait_async()).await;
        assert!(early.is_err(), "{early:?}");
    }
    drop(web.take_stdin());
    let (one, other) = tokio::join!(web.wait_async(), web.wait_async());
    assert_eq!(one.unwrap().code(), Some(6));
    assert_eq!(other.unwrap().code(), Some(6));
    assert_eq!(web.remove().unwrap().code(), Some(6));
}

#[tokio::test]
async fn outputs_of_many_come_at_once_on_one_thread() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let web = shell("sleep 60").start().unwrap();
    let says = |what: &'static str| {
        let script = format!("sleep 0.2; echo {what}; echo no >&2; exit 4");
        web.exec("sh")
            .args(["-c".to_owned(), script])
            .output_async()
    };
    let (a, b) = tokio::join!(says("a"), says("b"));
    for (output, said) in [(a.unwrap(), "a\n"), (b.unwrap(), "b\n")] {
        assert_eq!(output.status.code(), Some(4));
        assert_eq!(output.stdout, said.as_bytes());
        assert_eq!(output.stderr, b"no\n");
    }
    let output = shell("echo all of it")
        .stdout(Stdio::piped())
        .start()
        .unwrap();
    assert_eq!(output.output_async().await.unwrap().stdout, b"all of it\n");
}

#[tokio::test]
async fn an_output_that_is_dropped_kills_its_program() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let web = shell("while :; do sleep 0.05; done").start().unwrap();
    let exec = web.exec("sh").args(["-c", "while :; do sleep 60; done"]);
    assert!(
        timeout(Duration::from_millis(100), exec.output_async())
            .await
            .is_err()
    );
    let mut process = web.exec("sh").args(["-c", "exit 2"]).spawn().unwrap();
    assert_eq!(process.wait_async().await.unwrap().code(), Some(2));
    assert_eq!(process.wait().unwrap().code(), Some(2));

    let other = shell("while :; do sleep 0.05; done").start().unwrap();
    let pid = other.pid();
    assert!(
        timeout(Duration::from_millis(50), other.output_async())
            .await
            .is_err()
    );
    assert!(
        !fs::exists(format!("/proc/{pid}")).unwrap(),
        "killed and reaped"
    );
}
