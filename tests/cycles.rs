//! What a thousand starts and stops leave: nothing. Alone in its binary, as it counts what the process has.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::time::Duration;

use cofferdam::{Container, Network, Rootfs, Stdio};
use cofferdam_testkit::{Need, NetNs, Snapshot, have, turns};

#[test]
fn starts_and_stops_leave_nothing_that_grows() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    NetNs::new().run(|| {
        let network = Network::bridge("cycles").create().unwrap();
        let web = Container::builder()
            .name("web")
            .rootfs(Rootfs::layers(["/"]));
        let web = web.network(&network).publish("9000:80".parse().unwrap());
        let web = web.command("sh").args([
            "-c",
            "trap 'exit 7' TERM; while :; do sleep 60 & wait; done",
        ]);
        let web = web.build().unwrap();
        let cycle = |web: &Container| {
            let running = web.start().unwrap();
            let _sample = running.stats().unwrap();
            let status = running.stop(Duration::from_secs(10)).unwrap();
            assert_eq!(status.code(), Some(7));
        };
        // What is made once and kept: the first starts make it.
        for _ in 0..turns(20, 3) {
            cycle(&web);
        }
        let (before, threads, rss) = (Snapshot::take(), threads(), rss());
        for _ in 0..turns(1000, 50) {
            cycle(&web);
        }
        before.assert_same(&format!("cofferdam-{}-", std::process::id()));
        assert_eq!(threads_now(threads), threads);
        let grown = rss_now().saturating_sub(rss);
        assert!(grown < 1 << 20, "{grown} bytes more");
        drop(web);
        network.remove().unwrap();
    });

    fn threads_now(before: usize) -> usize {
        // One that was thrown away may be listed a moment longer.
        for _ in 0..100 {
            if threads() == before {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        threads()
    }

    fn rss_now() -> u64 {
        rss()
    }
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
