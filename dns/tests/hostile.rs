//! What ends well although a container, an upstream or a configuration means no good.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_dns::{Scope, bind_in};
use cofferdam_testkit::{Need, NetNs, have, turns};
use common::{
    A, Container, Upstream, addresses, framed, query, read, receive, reply_with, start,
    upstreams_of, zone,
};
use simple_dns::RCODE;

const ONE: &str = "127.0.0.53:53";
const TWO: &str = "127.0.0.54:53";

#[test]
fn upstreams_of_many_containers_leave_each_other_sockets() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let _upstream = Upstream::new(&host, ONE, |query| vec![reply_with(query, [192, 0, 2, 1])]);
    let server = start(&host, &[]);
    let web = Container::new();
    let endpoints: Vec<_> = (1..=30)
        .map(|last| {
            let address = SocketAddr::from(([127, 0, 1, last], 53));
            let (udp, tcp) = bind_in(&web.netns, address).unwrap();
            let scope = Scope::new().upstreams(&upstreams_of(&[ONE]));
            (address, server.serve(udp, tcp, scope).unwrap())
        })
        .collect();
    let client = web.netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    for (address, _) in &endpoints {
        for number in 0..10 {
            client
                .send_to(&query(number, "a.example", A), address)
                .unwrap();
            let said = read(&receive(&client));
            assert_eq!(
                said.addresses,
                addresses(&["192.0.2.1"]),
                "{address} {number}"
            );
        }
    }
}

#[test]
fn upstreams_that_lead_back_here_over_tcp_end_in_servfail() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let server = start(&host, &[ONE, TWO]);
    let gateways = [ONE, TWO].map(|address| {
        let (udp, tcp) = bind_in(&host, address.parse().unwrap()).unwrap();
        server.serve(udp, tcp, Scope::new()).unwrap()
    });
    let web = Container::new();
    let _endpoint = web.serve(&server, Scope::new());
    assert_eq!(web.ask_tcp("a.example", A).rcode, RCODE::ServerFailure);
    let queries: u64 = gateways
        .iter()
        .map(|gateway| gateway.counters().queries)
        .sum();
    assert!((2..=6).contains(&queries), "{queries}");
}

#[test]
fn what_is_no_query_gets_no_reply_and_goes_nowhere() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let upstream = Upstream::new(&host, ONE, |query| vec![reply_with(query, [192, 0, 2, 1])]);
    let server = start(&host, &[ONE]);
    let web = Container::new();
    let endpoint = web.serve(&server, &zone("db", "10.89.0.2"));
    let client = web.udp();
    let mut reply = query(1, "a.example", A);
    reply[2] |= 0x80;
    let mut pointer = query(2, "a.example", A);
    pointer[12..14].copy_from_slice(&[0xc0, 12]);
    for nonsense in [&reply[..], &reply[..12], &reply[..5], &[]] {
        client.send(nonsense).unwrap();
    }
    let mut none = query(3, "a.example", A);
    none[5] = 0;
    let mut two = query(4, "a.example", A);
    two[5] = 2;
    for broken in [&pointer, &none, &two] {
        client.send(broken).unwrap();
        let said = receive(&client);
        assert_eq!((&said[..2], said[3] & 15), (&broken[..2], 1));
    }
    // A connection that sends a reply is at its end.
    let mut stream = web.tcp();
    stream.write_all(&framed(&reply)).unwrap();
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
    let counters = endpoint.counters();
    assert_eq!((counters.queries, counters.malformed), (8, 8));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn thousands_of_forwards_that_hang_hold_up_no_local_answer() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let host = NetNs::new();
    let _silent = Upstream::new(&host, ONE, |_| vec![]);
    let server = start(&host, &[ONE]);
    let names = zone("db", "10.89.0.2");
    let web = Container::new();
    let flooded: Vec<_> = (0..turns(60, 10) as u8)
        .map(|last| {
            let address = SocketAddr::from(([127, 0, 2, last], 53));
            let (udp, tcp) = bind_in(&web.netns, address).unwrap();
            (address, server.serve(udp, tcp, &names).unwrap())
        })
        .collect();
    let _own = web.serve(&server, &names);
    let flood = web.netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    for number in 0..200 {
        for (address, _) in &flooded {
            flood
                .send_to(&query(number, "a.example", A), address)
                .unwrap();
        }
    }
    let client = web.udp();
    let mut slowest = Duration::ZERO;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        let sent = Instant::now();
        client.send(&query(1, "db", A)).unwrap();
        assert_eq!(read(&receive(&client)).addresses, addresses(&["10.89.0.2"]));
        slowest = slowest.max(sent.elapsed());
        thread::sleep(Duration::from_millis(2));
    }
    // All of them fall due meanwhile, twice, and are told SERVFAIL.
    assert!(slowest < Duration::from_millis(400), "{slowest:?}");
    let failed: u64 = flooded
        .iter()
        .map(|(_, endpoint)| endpoint.counters().failed)
        .sum();
    let forwarded: u64 = flooded
        .iter()
        .map(|(_, endpoint)| endpoint.counters().forwarded)
        .sum();
    assert!(forwarded >= flooded.len() as u64 * 100, "{forwarded}");
    assert_eq!(failed, forwarded);
}
