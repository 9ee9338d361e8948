//! What a network may be told to do and not to do, by real packets.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

#[allow(dead_code, reason = "other tests share it")]
mod world;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use cofferdam_portmap::{Isolation, NetworkGuard, NetworkSpec, Portmap};
use cofferdam_testkit::{Need, NetNs, have};
use world::{
    BRIDGE, BridgedPackets, HOST, MATE, NEIGHBOUR, STRANGER, WEB, Wait, World, arrives, sysctl, tcp,
};

fn app() -> NetworkSpec {
    NetworkSpec::new("br0")
        .unwrap()
        .subnet("10.1.0.0/24".parse().unwrap())
}

/// A handle on the host's table with `br0` as told, and `br1` as usual.
fn managed(world: &World, app: NetworkSpec) -> (Portmap, [NetworkGuard; 2]) {
    let portmap = world.host.run(|| Portmap::open("cofferdam")).unwrap();
    let other = NetworkSpec::new("br1").unwrap();
    let other = other.subnet("10.2.0.0/24".parse().unwrap());
    let networks = [app, other].map(|network| portmap.network(network).unwrap());
    (portmap, networks)
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

fn seen(ip: Ipv4Addr) -> Option<IpAddr> {
    Some(ip.into())
}

fn listen(netns: &NetNs, port: u16) -> TcpListener {
    netns
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .unwrap()
}

#[test]
fn a_trusted_interface_reaches_what_is_not_published() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let server = listen(&world.web, 80);
    for trusting in [
        app().trust("lan0").unwrap(),
        app().trust("lan0").unwrap().isolation(Isolation::Internal),
    ] {
        let (_portmap, _networks) = managed(&world, trusting);
        let got = tcp(&world.neighbour, at(WEB, 80), &server, Wait::Reached);
        assert_eq!(got, seen(NEIGHBOUR));
        assert_eq!(
            tcp(&world.stranger, at(WEB, 80), &server, Wait::Closed),
            None
        );
    }
    let (_portmap, _networks) = managed(&world, app().trust("lan1").unwrap());
    assert_eq!(
        tcp(&world.neighbour, at(WEB, 80), &server, Wait::Closed),
        None
    );
}

#[test]
fn without_icc_containers_reach_each_other_by_published_ports_only() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    // Bridged packets that netfilter does not see are the bridge's to drop.
    let Some(seen_ones) = BridgedPackets::possible()
        .into_iter()
        .find(|one| *one == BridgedPackets::Seen)
    else {
        return;
    };
    let world = World::new(seen_ones);
    let server = listen(&world.web, 80);
    let (portmap, networks) = managed(&world, app());
    assert_eq!(
        tcp(&world.mate, at(WEB, 80), &server, Wait::Reached),
        seen(MATE)
    );
    drop(networks);
    let _networks = portmap.network(app().without_icc()).unwrap();
    assert_eq!(tcp(&world.mate, at(WEB, 80), &server, Wait::Closed), None);
    let _web = portmap
        .publish(&"8080:80".parse().unwrap(), WEB.into())
        .unwrap();
    for (client, from) in [(&world.mate, BRIDGE), (&world.neighbour, NEIGHBOUR)] {
        let got = tcp(client, at(HOST, 8080), &server, Wait::Reached);
        assert_eq!(got, seen(from));
    }
    let outside = listen(&world.neighbour, 80);
    let got = tcp(&world.mate, at(NEIGHBOUR, 80), &outside, Wait::Reached);
    assert_eq!(got, seen(HOST));
}

#[test]
fn without_masquerade_containers_go_out_under_their_own_addresses() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let (portmap, _networks) = managed(&world, app().without_masquerade());
    let outside = listen(&world.neighbour, 80);
    for (client, from) in [(&world.web, WEB), (&world.stranger, HOST)] {
        let got = tcp(client, at(NEIGHBOUR, 80), &outside, Wait::Reached);
        assert_eq!(got, seen(from));
    }
    let server = listen(&world.web, 80);
    let _web = portmap
        .publish(&"8080:80".parse().unwrap(), WEB.into())
        .unwrap();
    for client in [&world.web, &world.mate] {
        let got = tcp(client, at(HOST, 8080), &server, Wait::Reached);
        assert_eq!(got, seen(BRIDGE), "hairpin");
    }
}

#[test]
fn nothing_is_forwarded_into_or_out_of_an_internal_network() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for isolation in [Isolation::Internal, Isolation::Strict] {
        let world = World::new(BridgedPackets::Unseen);
        let (portmap, _networks) = managed(&world, app().isolation(isolation));
        // As others do: it sets forwarding of every interface, whatever it was before.
        for value in ["0", "1"] {
            world.host.run(|| sysctl("ipv4/ip_forward", value));
        }
        let server = listen(&world.web, 80);
        let _web = portmap
            .publish(&"8080:80".parse().unwrap(), WEB.into())
            .unwrap();
        let datagrams = world.stranger.run(|| UdpSocket::bind("0.0.0.0:9")).unwrap();
        for client in [&world.neighbour, &world.stranger] {
            for to in [at(WEB, 80), at(HOST, 8080)] {
                assert_eq!(tcp(client, to, &server, Wait::Closed), None);
            }
        }
        // Not even one datagram, for which no answer is needed.
        assert!(!arrives(
            &world.web,
            at(STRANGER, 9),
            &datagrams,
            Wait::Closed
        ));
        let outside = listen(&world.neighbour, 80);
        assert_eq!(
            tcp(&world.web, at(NEIGHBOUR, 80), &outside, Wait::Closed),
            None
        );
        assert!(tcp(&world.mate, at(WEB, 80), &server, Wait::Reached).is_some());
        let local = at(Ipv4Addr::LOCALHOST, 8080);
        assert!(tcp(&world.host, local, &server, Wait::Reached).is_some());
    }
}

#[test]
fn a_strictly_internal_network_reaches_dns_of_its_gateway_and_nothing_else_of_the_host() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let (portmap, networks) = managed(&world, app().isolation(Isolation::Internal));
    let service = listen(&world.host, 7000);
    let names = listen(&world.host, 53);
    let datagrams = world.host.run(|| UdpSocket::bind("0.0.0.0:53")).unwrap();
    for to in [BRIDGE, HOST] {
        let got = tcp(&world.web, at(to, 7000), &service, Wait::Reached);
        assert_eq!(got, seen(WEB), "internal, but not strictly");
    }
    drop(networks);
    let strict = app().isolation(Isolation::Strict);
    let _strict = portmap.network(strict).unwrap();
    let got = tcp(&world.web, at(BRIDGE, 53), &names, Wait::Reached);
    assert_eq!(got, seen(WEB));
    assert!(arrives(
        &world.web,
        at(BRIDGE, 53),
        &datagrams,
        Wait::Reached
    ));
    assert!(!arrives(&world.web, at(HOST, 53), &datagrams, Wait::Closed));
    assert_eq!(tcp(&world.web, at(HOST, 53), &names, Wait::Closed), None);
    for to in [BRIDGE, HOST] {
        assert_eq!(tcp(&world.web, at(to, 7000), &service, Wait::Closed), None);
    }
    // The host reaches its containers, and others the host.
    let server = listen(&world.web, 80);
    assert!(tcp(&world.host, at(WEB, 80), &server, Wait::Reached).is_some());
    assert!(tcp(&world.neighbour, at(HOST, 7000), &service, Wait::Reached).is_some());
}
