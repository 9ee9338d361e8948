//! A thousand containers, and an upstream that is dead.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use cofferdam_dns::{Endpoint, LISTEN, Scope, Server, SharedZone, Upstreams, bind_in};
use cofferdam_testkit::NetNs;

use crate::row;

const CONTAINERS: usize = 1000;
/// Queries that wait for the upstream.
const HANGING: usize = 20_000;
/// How long the names of the network are asked for meanwhile: until the server has given up.
const PATIENCE: Duration = Duration::from_secs(3);

struct Container {
    client: UdpSocket,
    _endpoint: Endpoint,
}

pub(crate) fn rows(quick: bool) {
    let containers = if quick { 100 } else { CONTAINERS };
    let host = NetNs::new();
    // It takes what comes and says nothing.
    let dead = host.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let upstreams = Upstreams::new(vec![dead.local_addr().unwrap()]).unwrap();
    let server = host.run(|| Server::builder().upstreams(&upstreams).start().unwrap());
    let zone = SharedZone::default();
    zone.update(|zone| zone.insert("db".parse().unwrap(), Ipv4Addr::new(10, 89, 0, 2).into()));

    let sockets: Vec<_> = (0..containers).map(|_| open()).collect();
    let before = resident();
    let containers: Vec<_> = sockets
        .into_iter()
        .map(|(client, (udp, tcp))| Container {
            client,
            _endpoint: server.serve(udp, tcp, Scope::new().zone(&zone)).unwrap(),
        })
        .collect();
    ask(&containers, containers.len(), &mut 0);
    let each = resident().saturating_sub(before) as f64 / containers.len() as f64;
    row("dns/memory-per-container", "ours", "bytes", &mut [each]);

    let hanging = if quick { HANGING / 10 } else { HANGING };
    hang(&containers, hanging);
    // From the first try at the upstream to the last failure.
    let (until, mut failed, mut early) = (Instant::now() + PATIENCE, 0, 0);
    let mut times = Vec::new();
    while Instant::now() < until {
        times.extend(ask(&containers, containers.len(), &mut failed));
        if times.len() == containers.len() {
            early = failed;
        }
    }
    row("dns/local-while-upstream-dead", "ours", "us", &mut times);
    let p99 = &mut [times[times.len() * 99 / 100]];
    row("dns/local-while-upstream-dead-p99", "ours", "us", p99);
    let hung = hanging.saturating_sub(early);
    row("dns/hanging", "ours", "count", &mut [hung as f64]);
}

/// A client in a namespace of its own, and the sockets for it.
fn open() -> (UdpSocket, (UdpSocket, std::net::TcpListener)) {
    let netns = NetNs::new();
    let client = netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    client.connect(LISTEN).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    (client, bind_in(&netns, LISTEN).unwrap())
}

/// Sends queries for names of elsewhere, a few from every container.
fn hang(containers: &[Container], count: usize) {
    let mut query = *b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x04\0\0\0\0\x04site\0\0\x01\0\x01";
    for number in 0..count {
        query[..2].copy_from_slice(&(number as u16 | 1).to_be_bytes());
        query[13..17].copy_from_slice(format!("{:04x}", number & 0xffff).as_bytes());
        containers[number % containers.len()]
            .client
            .send(&query)
            .unwrap();
    }
}

/// Asks for a name of the network, from one container after the other. Returns how many microseconds each reply took,
/// and counts the failures of other queries that came in between.
fn ask(containers: &[Container], count: usize, failed: &mut usize) -> Vec<f64> {
    let query = *b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01";
    let mut buffer = [0; 512];
    let took = (0..count).map(|number| {
        let client = &containers[number % containers.len()].client;
        let start = Instant::now();
        client.send(&query).unwrap();
        // Id 0 is of no query for elsewhere.
        while client.recv(&mut buffer).is_ok() && buffer[..2] != [0, 0] {
            *failed += 1;
        }
        assert_eq!(buffer[6..8], [0, 1], "an address");
        start.elapsed().as_secs_f64() * 1e6
    });
    took.collect()
}

fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<usize>().ok()).unwrap() * 1024
}
