//! To publish and to unpublish, one port and many.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_portmap::{PortMapping, Portmap, Protocol, Reserve};
use cofferdam_testkit::NetNs;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::netavark::{self, Container};
use crate::raw::Netlink;
use crate::{floor, row};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const FIRST: u16 = 10_000;
const MANY: u16 = 10_000;

pub(crate) fn rows(quick: bool) {
    let rounds = if quick { 5 } else { 30 };
    many_fds();
    one(rounds);
    one_more(rounds);
    many(if quick { 3 } else { 10 });
    netavark_rows(if quick { 1 } else { 3 });
}

/// A reserved port is a socket.
fn many_fds() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn port(port: u16) -> PortMapping {
    let target = (IpAddr::from(WEB), port).into();
    PortMapping::new(Protocol::Udp, port, target).unwrap()
}

fn ports(count: u16) -> Vec<PortMapping> {
    (FIRST..FIRST + count).map(port).collect()
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let done = work();
    (start.elapsed(), done)
}

/// The kernel frees what a transaction replaced after a grace period, that the next one may have to wait for.
fn pause() {
    thread::sleep(Duration::from_millis(30));
}

/// The first port of all: the table with it, and where it goes again.
fn one(rounds: usize) {
    let host = NetNs::new();
    let portmap = host.run(|| Portmap::open("bench")).unwrap();
    let netlink = Netlink::netfilter(&host);
    let make = floor::transaction([floor::table(), floor::add(&[FIRST], WEB)].concat());
    let delete = floor::transaction(floor::delete());
    let (mut ours, mut least) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        pause();
        let (time, published) = host.run(|| timed(|| portmap.publish_all([port(FIRST)]).unwrap()));
        ours.push(time);
        published.remove().unwrap();
        pause();
        least.push(timed(|| netlink.send(&make)).0);
        netlink.send(&delete);
    }
    row("publish/1", "ours", ours);
    row("publish/1", "floor", least);
}

/// One more beside a thousand: by a handle that knows them, and, as `ours-new-handle`, by one that has to read them first, as
/// all have to after a change of somebody else's.
fn one_more(rounds: usize) {
    let (host, bare) = (NetNs::new(), NetNs::new());
    let portmap = host.run(|| Portmap::open("bench")).unwrap();
    let _thousand = host.run(|| portmap.publish_all(ports(1000))).unwrap();
    let netlink = Netlink::netfilter(&bare);
    let numbers: Vec<_> = (FIRST..FIRST + 1000).collect();
    netlink.send(&floor::transaction(
        [floor::table(), floor::add(&numbers, WEB)].concat(),
    ));
    let add = floor::transaction(floor::add(&[9999], WEB));
    let remove = floor::transaction(floor::remove(&[9999]));
    let mut samples = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        let new = host.run(|| Portmap::open("bench")).unwrap();
        for (portmap, at) in [(&portmap, 0), (&new, 1)] {
            pause();
            let publish = || timed(|| portmap.publish_all([port(9999)]).unwrap());
            let (time, published) = host.run(publish);
            samples[at].push(time);
            published.remove().unwrap();
        }
        // The other handle changed something: so that the first knows it again.
        portmap.list().unwrap();
        pause();
        samples[2].push(timed(|| netlink.send(&add)).0);
        netlink.send(&remove);
    }
    let who = ["ours", "ours-new-handle", "floor"];
    for (who, samples) in who.into_iter().zip(samples) {
        row("publish/1-beside-1000", who, samples);
    }
}

/// Ten thousand by one call, and the end of them all: with the table.
fn many(rounds: usize) {
    let host = NetNs::new();
    let portmap = host.run(|| Portmap::open("bench")).unwrap();
    let unreserved = host.run(|| Portmap::builder("bench").reserve(Reserve::Never).open());
    let unreserved = unreserved.unwrap();
    let netlink = Netlink::netfilter(&host);
    let numbers: Vec<_> = (FIRST..FIRST + MANY).collect();
    let make = floor::transaction([floor::table(), floor::add(&numbers, WEB)].concat());
    let delete = floor::transaction(floor::delete());
    let all = ports(MANY);
    let mut samples = [const { Vec::new() }; 6];
    for _ in 0..rounds {
        for (portmap, at) in [(&portmap, 0), (&unreserved, 1)] {
            pause();
            let ports = all.clone();
            let (time, published) = host.run(|| timed(|| portmap.publish_all(ports).unwrap()));
            samples[at].push(time);
            pause();
            samples[3 + at].push(timed(|| published.remove().unwrap()).0);
        }
        pause();
        samples[2].push(timed(|| netlink.send(&make)).0);
        pause();
        samples[5].push(timed(|| netlink.send(&delete)).0);
    }
    let rows = ["publish/10000", "unpublish/10000"]
        .into_iter()
        .flat_map(|id| ["ours", "ours-unreserved", "floor"].map(|who| (id, who)));
    for ((id, who), samples) in rows.zip(samples) {
        row(id, who, samples);
    }
}

/// A whole setup with one port, with a hundred, and of a second container beside those.
fn netavark_rows(rounds: usize) {
    let ids = [
        "publish/1",
        "publish/100",
        "publish/1-beside-100",
        "unpublish/100",
    ];
    let mut samples = [const { Vec::new() }; 4];
    if let Some(program) = netavark::find() {
        for _ in 0..rounds {
            let host = NetNs::new();
            let single = Container::new(&program, &host, 1, 9000, 1);
            samples[0].extend(single.run("setup"));
            single.run("teardown");
            let hundred = Container::new(&program, &host, 2, 10_000, 100);
            samples[1].extend(hundred.run("setup"));
            samples[2].extend(single.run("setup"));
            samples[3].extend(hundred.run("teardown"));
        }
    }
    for (id, samples) in ids.into_iter().zip(samples) {
        match samples.is_empty() {
            true => println!("row {id} netavark absent"),
            false => row(id, "netavark", samples),
        }
    }
}
