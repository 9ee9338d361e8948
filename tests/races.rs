//! What several threads do at once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam::netbridge::ipam::{Pool, Pools};
use cofferdam::{Container, ContainerBuilder, Network, Rootfs, Running, reap_in};
use cofferdam_testkit::{Need, NetNs, have, turns};

fn runtime(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("cofferdam-races-{name}-{}", std::process::id()))
}

fn sleeper(name: &str, time: &str) -> ContainerBuilder {
    let builder = Container::builder().name(name).runtime_dir(runtime(name));
    let builder = builder.rootfs(Rootfs::layers(["/"]));
    builder.command("sleep").arg(time)
}

/// Nothing but the rules knows the subnets of internal networks.
#[test]
fn internal_networks_made_at_once_have_subnets_of_their_own() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    let dir = runtime("internal");
    // As many as there are networks, so that several find the same one free.
    let pools = Pools::new([Pool::new("10.88.0.0/21".parse().unwrap(), 24).unwrap()]);
    NetNs::new().run(|| {
        let (pools, dir) = (&pools, &dir);
        let make = move |number: usize| {
            let network = Network::bridge(format!("at-once-{number}")).internal();
            let network = network.pools(pools.clone());
            network.without_dns().runtime_dir(dir).create().unwrap()
        };
        let networks: Vec<Network> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || make(n))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let subnets: BTreeSet<_> = networks.iter().flat_map(Network::subnets).collect();
        assert_eq!(subnets.len(), networks.len(), "{subnets:?}");
        networks.into_iter().for_each(|n| n.remove().unwrap());
    });
    fs::remove_dir(dir).unwrap();
}

/// The host has no route to an internal network: a bridge that picks by itself finds its subnet free.
#[test]
fn a_network_picks_no_subnet_of_an_internal_one() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    let dir = runtime("picks");
    let pools = Pools::new([Pool::new("10.88.0.0/23".parse().unwrap(), 24).unwrap()]);
    NetNs::new().run(|| {
        let network = |name: &str| Network::bridge(name).without_dns().runtime_dir(&dir);
        let inside = network("inside").internal().pools(pools.clone());
        let inside = inside.create().unwrap();
        // Where the search begins depends on the name.
        for number in 0..turns(6, 4) {
            let outside = network(&format!("outside-{number}")).pools(pools.clone());
            let outside = outside.create().unwrap();
            assert_ne!(outside.subnets(), inside.subnets());
            outside.remove().unwrap();
        }
        inside.remove().unwrap();
    });
    fs::remove_dir(dir).unwrap();
}

/// Who reaps holds the lock of a detached container's record while it looks.
#[test]
fn a_detached_container_is_attached_to_while_others_reap() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    let over = AtomicBool::new(false);
    // Before anybody reaps: a record that says nothing yet may be removed, and is made again.
    let mut running = sleeper("reaped", "60").start();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let reaped = reap_in(runtime("reaped")).unwrap();
                    let nothing = reaped.removed.is_empty() && reaped.failed.is_empty();
                    assert!(nothing, "{reaped:?}");
                }
            });
        }
        for _ in 0..turns(300, 20) {
            let detached = running.and_then(Running::detach);
            running = detached.and_then(|reference| Running::attach(&reference));
            if running.is_err() {
                break;
            }
        }
        let removed = running.and_then(Running::remove);
        over.store(true, Ordering::Relaxed);
        removed.unwrap();
    });
    fs::remove_dir(runtime("reaped")).unwrap();
}

#[test]
fn a_detached_container_that_has_ended_is_no_zombie_for_long() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    let reference = sleeper("zombie", "0.2").start().unwrap().detach().unwrap();
    let stat = format!("/proc/{}/stat", reference.pid());
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::metadata(&stat).is_ok() {
        assert!(Instant::now() < deadline, "{:?}", fs::read_to_string(stat));
        let other = sleeper("zombie", "0").start().unwrap();
        other.exec("true").status().err();
        other.remove().unwrap();
    }
    let reaped = reap_in(runtime("zombie")).unwrap();
    assert!(reaped.failed.is_empty(), "{reaped:?}");
    fs::remove_dir(runtime("zombie")).unwrap();
}

/// What was started beside its program is a child of this process, and its end is the container's.
#[test]
fn programs_that_were_left_do_not_keep_a_container_from_ending() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    let running = sleeper("left", "60").start().unwrap();
    let held = running.exec("sleep").arg("60").spawn().unwrap();
    running.exec("sleep").arg("60").spawn().unwrap().persist();
    let mut events = running.events().unwrap();
    running.kill().unwrap();
    let told = events.next(Duration::from_secs(8)).unwrap();
    assert!(
        matches!(told, Some(cofferdam::Event::Exited(_))),
        "{told:?}"
    );
    drop(events);
    running.remove().unwrap();
    drop(held);
    fs::remove_dir(runtime("left")).unwrap();
}

/// Who pauses waits for all to stand still: that they go on again is another's turn.
#[test]
fn who_pauses_and_who_resumes_take_turns() {
    if !have(&[Need::Root, Need::Namespaces]) {
        return;
    }
    let running = sleeper("paused", "60").pids_max(8).start().unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..turns(100, 10) {
                    running.pause().unwrap();
                    running.resume().unwrap();
                }
            });
        }
    });
    assert!(!running.is_paused().unwrap());
    running.remove().unwrap();
    fs::remove_dir(runtime("paused")).unwrap();
}
