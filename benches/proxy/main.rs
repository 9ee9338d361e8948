//! How long it takes to get through the proxy of published ports: beside it the same without a proxy, and a relay that
//! reads and writes. And what reserving ports and ending flows costs a publication.
//!
//! `cargo bench --bench proxy [-- --quick]`, as root. A line for each: `row <id> <who> min=<n> p50=<n> unit=<u>`.
#![allow(clippy::print_stdout, reason = "this is what it is for")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_portmap::{PortMapping, Portmap, Protocol, Proxy, Reserve};
use cofferdam_testkit::NetNs;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DIRECT: u16 = 80;
const OURS: u16 = 8080;
const RELAY: u16 = 8081;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 5 } else { 30 };
    through_the_proxy(rounds);
    reservations(rounds);
    flows(rounds);
}

/// Somebody who does something once.
type Side<'s> = (&'s str, &'s mut dyn FnMut() -> Duration);

fn rows(id: &str, rounds: usize, sides: &mut [Side<'_>]) {
    let mut times = vec![Vec::new(); sides.len()];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            let side = (turn + round) % sides.len();
            times[side].push(sides[side].1());
        }
    }
    for ((who, _), mut times) in sides.iter().zip(times) {
        times.sort();
        let micros = |at: usize| times[at].as_secs_f64() * 1e6;
        let (min, middle) = (micros(0), micros(times.len() / 2));
        println!("row {id} {who} min={min:.1} p50={middle:.1} unit=us");
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn through_the_proxy(rounds: usize) {
    let netns = NetNs::new();
    let bind = |port| netns.run(|| TcpListener::bind((LOCALHOST, port)).unwrap());
    let (server, relay) = (bind(DIRECT), bind(RELAY));
    thread::spawn(move || serve(&server));
    let at = netns.run(|| std::fs::File::open("/proc/thread-self/ns/net").unwrap());
    thread::spawn(move || {
        let within: std::os::fd::OwnedFd = at.into();
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&within),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .unwrap();
        copying_relay(&relay);
    });
    let proxy = netns.run(|| Proxy::builder().start()).unwrap();
    let spec = format!("127.0.0.1:{OURS}:{DIRECT}").parse().unwrap();
    let _proxied = proxy.publish(&spec, LOCALHOST).unwrap();
    let dial = |port| netns.run(|| TcpStream::connect((LOCALHOST, port)).unwrap());
    let download = |port| {
        let mut client = dial(port);
        let mut buffer = vec![0; 1 << 18];
        timed(|| {
            client.write_all(b"D").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut got = 0;
            while let length @ 1.. = client.read(&mut buffer).unwrap() {
                got += length;
            }
            assert_eq!(got, DOWNLOAD);
        })
    };
    rows(
        "proxy/64MiB",
        rounds,
        &mut [
            ("direct", &mut || download(DIRECT)),
            ("ours", &mut || download(OURS)),
            ("copying-relay", &mut || download(RELAY)),
        ],
    );
    let mut clients = [DIRECT, OURS, RELAY].map(dial);
    let [direct, ours, relay] = &mut clients;
    let echoed = |client: &mut TcpStream| {
        timed(|| {
            for _ in 0..100 {
                client.write_all(b"e").unwrap();
                client.read_exact(&mut [0]).unwrap();
            }
        })
    };
    rows(
        "proxy/100-round-trips",
        rounds,
        &mut [
            ("direct", &mut || echoed(direct)),
            ("ours", &mut || echoed(ours)),
            ("copying-relay", &mut || echoed(relay)),
        ],
    );
    let sessions = |port| {
        let connect = || {
            timed(|| {
                for _ in 0..50 {
                    let mut client = TcpStream::connect((LOCALHOST, port)).unwrap();
                    client.write_all(b"e").unwrap();
                    client.read_exact(&mut [0]).unwrap();
                }
            })
        };
        netns.run(connect)
    };
    rows(
        "proxy/50-connections",
        rounds,
        &mut [
            ("direct", &mut || sessions(DIRECT)),
            ("ours", &mut || sessions(OURS)),
            ("copying-relay", &mut || sessions(RELAY)),
        ],
    );
}

const DOWNLOAD: usize = 64 << 20;

/// Sends much to who asks with `D`, and else what it gets.
fn serve(listener: &TcpListener) {
    while let Ok((mut client, _)) = listener.accept() {
        thread::spawn(move || {
            client.set_nodelay(true).unwrap();
            let mut buffer = vec![0; 1 << 18];
            while let Ok(length @ 1..) = client.read(&mut buffer) {
                if buffer[0] == b'D' {
                    buffer.fill(0);
                    for _ in 0..DOWNLOAD / buffer.len() {
                        client.write_all(&buffer).unwrap();
                    }
                    return;
                }
                client.write_all(&buffer[..length]).unwrap();
            }
        });
    }
}

/// What a proxy is without splice and epoll: a thread for each direction.
fn copying_relay(listener: &TcpListener) {
    fn copy(mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
        let _unused = to.shutdown(Shutdown::Write).is_ok();
    }
    while let Ok((client, _)) = listener.accept() {
        let server = TcpStream::connect((LOCALHOST, DIRECT)).unwrap();
        for end in [&client, &server] {
            end.set_nodelay(true).unwrap();
        }
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || copy(from, to));
        thread::spawn(move || copy(server, client));
    }
}

fn mapping(port: u16) -> PortMapping {
    let target = SocketAddr::new([10, 1, 0, 2].into(), 80);
    PortMapping::new(Protocol::Tcp, port, target).unwrap()
}

/// What a socket adds to a publication.
fn reservations(rounds: usize) {
    let netns = NetNs::new();
    let open = |reserve| {
        let builder = Portmap::builder("bench").reserve(reserve);
        netns.run(|| builder.open().unwrap())
    };
    let [never, hold] = [Reserve::Never, Reserve::Hold].map(open);
    let one = |portmap: &Portmap| {
        let mut published = None;
        let took = timed(|| published = Some(portmap.publish_all([mapping(9)]).unwrap()));
        drop(published);
        took
    };
    let _table = hold.publish_all([mapping(8)]).unwrap();
    rows(
        "publish/1-reserved",
        rounds * 4,
        &mut [("never", &mut || one(&never)), ("hold", &mut || one(&hold))],
    );
}

/// What looking for old flows adds to a publication, with none and with many of others.
fn flows(rounds: usize) {
    let netns = NetNs::new();
    let builder = Portmap::builder("bench").reserve(Reserve::Never);
    let portmap = netns.run(|| builder.open().unwrap());
    let _table = portmap.publish_all([mapping(8)]).unwrap();
    let one = || {
        let mut published = None;
        let took = timed(|| published = Some(portmap.publish_all([mapping(9)]).unwrap()));
        drop(published);
        took
    };
    rows(
        "publish/1-beside-flows",
        rounds * 4,
        &mut [("0", &mut { one })],
    );
    let begin = |flows: std::ops::Range<u32>| {
        let sink = UdpSocket::bind((LOCALHOST, 7)).unwrap();
        for at in flows {
            let from = SocketAddr::new(LOCALHOST, 20_000 + at as u16);
            let client = UdpSocket::bind(from).unwrap();
            client.send_to(b"x", (LOCALHOST, 7)).unwrap();
        }
        drop(sink);
    };
    // The kernel goes through all of its table, which all namespaces share, whatever it finds.
    for (count, flows) in [("1", 0..1), ("40000", 1..40_000)] {
        netns.run(|| begin(flows));
        rows(
            "publish/1-beside-flows",
            rounds * 4,
            &mut [(count, &mut { one })],
        );
    }
}
