//! Names of elsewhere.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};

use cofferdam_dns::{Scope, Server, Upstreams};

use crate::peers::{self, Running};
use crate::{Samples, World, client, rest, row};

/// The upstream of all sides: dnsmasq, without a cache, with an address for whatever ends in `.site`.
pub(crate) const UPSTREAM: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 53), 53));

type Start = fn(&World) -> Option<Running>;

pub(crate) fn rows(world: &World, quick: bool) {
    let (rounds, seconds) = if quick { (1, 1) } else { (5, 2) };
    let Some(upstream) = peers::dnsmasq(world, UPSTREAM, None) else {
        row("dns/forward-qps", "ours", "qps", &mut []);
        return;
    };
    // More names than any server would keep.
    let questions = (0..50_000).map(|number| format!("name{number}.site"));
    let questions = client::questions(world, "forward", questions);
    let sides: [(&str, Start); 4] = [
        ("ours", ours),
        ("aardvark", |world| peers::aardvark(world, address(5313))),
        ("unbound", |world| {
            peers::unbound(world, address(5314), Some(UPSTREAM))
        }),
        ("dnsmasq", |world| {
            peers::dnsmasq(world, address(5315), Some(UPSTREAM))
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
    upstream.end();
    for ((who, _), samples) in sides.iter().zip(&mut samples) {
        row("dns/forward-qps", who, "qps", &mut samples.qps);
    }
    for ((who, _), samples) in sides.iter().zip(&mut samples) {
        row("dns/forward-cpu-per-query", who, "ns", &mut samples.cpu);
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn ours(world: &World) -> Option<Running> {
    let address = address(5311);
    let builder = Server::builder().upstreams(&Upstreams::new(vec![UPSTREAM]).unwrap());
    let server = world.netns.run(|| builder.start()).unwrap();
    let bind = || {
        let udp = UdpSocket::bind(address).unwrap();
        (udp, TcpListener::bind(address).unwrap())
    };
    let (udp, tcp) = world.netns.run(bind);
    let endpoint = server.serve(udp, tcp, Scope::new()).unwrap();
    Some(Running::thread(address, "cofferdam-dns", move || {
        endpoint.remove().unwrap();
        server.stop().unwrap();
    }))
}
