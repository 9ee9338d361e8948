//! What a thousand starts and stops leave: nothing. Alone in its binary, as it counts what the process has.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::time::{Duration, Instant};

use cofferdam::{Container, ContainerBuilder, Network, Rootfs, Stdio};
use cofferdam_testkit::{Need, NetNs, Snapshot, have, turns};

#[test]
fn starts_and_stops_leave_nothing_that_grows() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let network = Network::bridge("cycles").create().unwrap();
        let alone = web().build().unwrap();
        let connected = web().network(&network);
        let connected = connected.publish("9000:80".parse().unwrap());
        let connected = connected.build().unwrap();
        // What is made once and kept: the first starts make it.
        cycles(&alone, turns(40, 4));
        (0..3).for_each(|_| cycle(&connected));

        let before = (Snapshot::take(), threads(), rss());
        cycles(&alone, turns(1000, 50));
        // Each link takes the kernel some tens of milliseconds to remove.
        (0..turns(10, 5)).for_each(|_| cycle(&connected));
        // Threads that were thrown away, and links of dead namespaces, may be listed a moment longer.
        let deadline = Instant::now() + Duration::from_secs(5);
        while (threads() != before.1 || Snapshot::take().links != before.0.links)
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mine = format!("cofferdam-{}-", std::process::id());
        before.0.assert_same(&mine);
        assert_eq!(threads(), before.1);
        let grown = rss().saturating_sub(before.2);
        assert!(grown < 1 << 20, "{grown} bytes more");
        drop(connected);
        network.remove().unwrap();
    });
}

fn web() -> ContainerBuilder {
    let web = Container::builder().name("web");
    let web = web.rootfs(Rootfs::layers(["/"])).stdin(Stdio::piped());
    // A shell with a trap may miss a signal just before it waits.
    web.init(true).command("sleep").arg("1000")
}

/// So many, on four threads: each waits for the kernel most of the time.
fn cycles(web: &Container, count: usize) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || (thread..count).step_by(4).for_each(|_| cycle(web)));
        }
    });
}

fn cycle(web: &Container) {
    let running = web.start().unwrap();
    let _sample = running.stats().unwrap();
    let status = running.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(128 + 15));
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// In bytes.
fn rss() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
