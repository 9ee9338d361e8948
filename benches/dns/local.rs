//! Names of the network.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use cofferdam_dns::{Server, SharedZone};

use crate::peers::{self, Running};
use crate::{Samples, World, client, echo, rest, row};

/// Names that are asked for in turn.
const NAMES: u8 = 100;

/// A name and its address.
pub(crate) fn names() -> impl Iterator<Item = (String, Ipv4Addr)> {
    (0..NAMES).map(|last| (format!("name{last}"), Ipv4Addr::new(10, 89, 0, last)))
}

type Start = fn(&World) -> Option<Running>;

pub(crate) fn rows(world: &World, quick: bool) {
    let (rounds, seconds) = if quick { (1, 1) } else { (7, 2) };
    let names: Vec<_> = names().map(|(name, _)| name).collect();
    let questions = client::questions(world, "local", names.into_iter());
    let sides: [(&str, Start); 5] = [
        ("ours", ours),
        ("floor", |world| Some(echo::start(world, address(5302)))),
        ("aardvark", |world| peers::aardvark(world, address(5303))),
        ("unbound", |world| {
            peers::unbound(world, address(5304), None)
        }),
        ("dnsmasq", |world| {
            peers::dnsmasq(world, address(5305), None)
        }),
    ];
    let mut samples: Vec<_> = sides.iter().map(|_| Samples::default()).collect();
    for round in 0..rounds {
        for turn in 0..sides.len() {
            let side = (turn + round) % sides.len();
            rest();
            if let Some(server) = sides[side].1(world) {
                server.measure(world, &questions, seconds, &mut samples[side]);
            }
        }
    }
    for ((who, _), samples) in sides.iter().zip(&mut samples) {
        row("dns/local-qps", who, "qps", &mut samples.qps);
    }
    for ((who, _), samples) in sides.iter().zip(&mut samples) {
        row("dns/local-cpu-per-query", who, "ns", &mut samples.cpu);
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn ours(world: &World) -> Option<Running> {
    let address = address(5301);
    let server = world.netns.run(|| Server::builder().start()).unwrap();
    let zone = SharedZone::default();
    zone.update(|zone| {
        for (name, address) in names() {
            zone.insert(name.parse().unwrap(), address.into());
        }
    });
    let bind = || {
        let udp = UdpSocket::bind(address).unwrap();
        (udp, TcpListener::bind(address).unwrap())
    };
    let (udp, tcp) = world.netns.run(bind);
    let endpoint = server.serve(udp, tcp, &zone).unwrap();
    Some(Running::thread(address, "cofferdam-dns", move || {
        endpoint.remove().unwrap();
        server.stop().unwrap();
    }))
}
