//! A thousand containers, and an upstream that is dead.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use cofferdam_dns::{Endpoint, LISTEN, Scope, Server, SharedZone, bind_in};
use cofferdam_testkit::NetNs;

use crate::row;

const CONTAINERS: usize = 1000;
/// Queries that wait for the upstream.
const HANGING: usize = 20_000;
/// Queries for names of the network, meanwhile.
const ASKED: usize = 10_000;

struct Container {
    client: UdpSocket,
    _endpoint: Endpoint,
}

pub(crate) fn rows(quick: bool) {
    let containers = if quick { 100 } else { CONTAINERS };
    let host = NetNs::new();
    // It takes what comes and says nothing.
    let dead = host.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let upstreams = vec![dead.local_addr().unwrap()];
    let server = host.run(|| Server::builder().upstreams(upstreams).start().unwrap());
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
    let mut failed = 0;
    let asked = if quick { ASKED / 10 } else { ASKED };
    let mut times = ask(&containers, asked, &mut failed);
    row("dns/local-while-upstream-dead", "ours", "us", &mut times);
    let p99 = times[times.len() * 99 / 100];
    row(
        "dns/local-while-upstream-dead-p99",
        "ours",
        "us",
        &mut [p99],
    );
    let failed = containers
        .iter()
        .map(|container| refused(&container.client));
    let hung = hanging.saturating_sub(failed.sum());
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
    (client, bind_in(&netns, SocketAddr::from(LISTEN)).unwrap())
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

/// How many failures wait at the socket.
fn refused(client: &UdpSocket) -> usize {
    client.set_nonblocking(true).unwrap();
    std::iter::repeat_with(|| client.recv(&mut [0; 512]))
        .take_while(Result::is_ok)
        .count()
}

fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<usize>().ok()).unwrap() * 1024
}
