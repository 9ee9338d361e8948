//! Many ports at once, and many who publish at once.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

#[allow(dead_code, reason = "other tests share it")]
mod world;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Barrier;
use std::thread;

use cofferdam_portmap::{ErrorKind, NetworkSpec, Owner, PortMapping, Portmap, Protocol, Reserve};
use cofferdam_testkit::{Need, NetNs, have, turns};
use world::{WEB, elements, generation, rules, tables};

const TABLE: &str = "cofferdam";

fn unreserved(netns: &NetNs) -> Portmap {
    let builder = Portmap::builder(TABLE).reserve(Reserve::Never);
    netns.run(|| builder.open()).unwrap()
}

fn many(ports: std::ops::Range<u16>, owner: &Owner) -> Vec<PortMapping> {
    let mapping = |port| {
        let target = SocketAddr::new(WEB.into(), port);
        let mapping = PortMapping::new(Protocol::Tcp, port, target).unwrap();
        mapping.owned_by(owner.clone())
    };
    ports.map(mapping).collect()
}

#[test]
fn ten_thousand_ports_are_one_transaction_and_the_same_rules() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = unreserved(&netns);
    let (web, other): (Owner, Owner) = ("web".parse().unwrap(), "other".parse().unwrap());
    let first = portmap.publish_all(many(1..2, &other)).unwrap();
    let (with_one, before) = (rules(&netns), generation(&netns));
    let all = portmap.publish_all(many(10_000..20_000, &web)).unwrap();
    assert_eq!(generation(&netns), before + 1);
    assert_eq!(rules(&netns), with_one);
    assert_eq!(elements(&netns, TABLE, "ports4_any"), 10_001);
    assert_eq!(unreserved(&netns).list().unwrap(), portmap.list().unwrap());
    let gone = unreserved(&netns).unpublish_owner(&web).unwrap();
    assert_eq!(gone, all.ports());
    assert_eq!(generation(&netns), before + 2);
    assert_eq!(elements(&netns, TABLE, "ports4_any"), 1);
    all.remove().unwrap();
    assert_eq!(generation(&netns), before + 2);
    first.remove().unwrap();
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn of_ports_in_bulk_all_are_published_or_none_and_the_one_is_named() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let (web, other): (Owner, Owner) = ("web".parse().unwrap(), "other".parse().unwrap());
    let _held = portmap.publish_all(many(2050..2051, &other)).unwrap();
    let before = generation(&netns);
    let error = portmap.publish_all(many(2000..2100, &web)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let line = error.to_string();
    assert!(
        line.contains("0.0.0.0:2050/tcp to 10.1.0.2:2050 of web"),
        "{line}"
    );
    assert!(line.contains("2050/tcp of other is there"), "{line}");
    let listener = netns.run(|| TcpListener::bind("0.0.0.0:2150")).unwrap();
    let error = portmap.publish_all(many(2100..2200, &web)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("2150"), "{error}");
    let twice = many(2200..2202, &web).into_iter().cycle().take(3);
    let error = portmap.publish_all(twice).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("2200"), "{error}");
    assert_eq!(generation(&netns), before);
    // Nothing stayed reserved.
    drop(listener);
    let _all = portmap.publish_all(many(2100..2200, &web)).unwrap();
}

#[test]
fn of_a_hundred_threads_that_publish_at_once_none_loses_a_port() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    const THREADS: u16 = 100;
    let netns = NetNs::new();
    let shared = netns.run(|| Portmap::open(TABLE)).unwrap();
    let handles = turns(THREADS.into(), 20) as u16;
    let start = Barrier::new(THREADS.into());
    let held = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let (netns, start, shared) = (&netns, &start, &shared);
                scope.spawn(move || {
                    // Most have a handle of their own, as processes would.
                    let portmap = match worker < handles {
                        true => netns.run(|| Portmap::open(TABLE)).unwrap(),
                        false => shared.clone(),
                    };
                    start.wait();
                    let owner = format!("thread-{worker}").parse().unwrap();
                    let port = 20_000 + worker;
                    portmap.publish_all(many(port..port + 1, &owner)).unwrap()
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect::<Vec<_>>()
    });
    let listed = shared.list().unwrap();
    let ports: BTreeSet<u16> = listed.ports().map(PortMapping::host_port).collect();
    assert_eq!(ports, (20_000..20_000 + THREADS).collect());
    for port in listed.ports() {
        let owner = format!("thread-{}", port.host_port() - 20_000);
        assert_eq!(port.owner().unwrap().as_str(), owner);
    }
    thread::scope(|scope| {
        for published in held {
            scope.spawn(|| published.remove().unwrap());
        }
    });
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn networks_and_ports_of_handles_that_work_by_turns_are_all_there() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let (one, other) = (unreserved(&netns), unreserved(&netns));
    let owner = "by-turns".parse().unwrap();
    let mut held = Vec::new();
    let mut networks = Vec::new();
    for number in 1..=20_u16 {
        let portmap = if number % 2 == 0 { &one } else { &other };
        held.push(
            portmap
                .publish_all(many(number..number + 1, &owner))
                .unwrap(),
        );
        let subnet = format!("10.{number}.0.0/24").parse().unwrap();
        let network = NetworkSpec::new(&format!("br{number}")).unwrap();
        networks.push(portmap.network(network.subnet(subnet)).unwrap());
    }
    for portmap in [&one, &other] {
        let listed = portmap.list().unwrap();
        assert_eq!(
            (listed.networks().count(), listed.ports().count()),
            (20, 20)
        );
    }
    drop((held, networks));
    assert_eq!(tables(&netns), [""; 0]);
}
