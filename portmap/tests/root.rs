//! Real packets through real rules, in network namespaces of each test's own.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

#[allow(dead_code, reason = "other tests share it")]
mod world;

use std::io::{ErrorKind as IoErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use cofferdam_portmap::{
    ErrorKind, NetworkGuard, NetworkSpec, PortMapping, PortSpec, Portmap, Protocol, Published,
    Reserve,
};
use cofferdam_testkit::{Need, NetNs, have};
use world::{
    BRIDGE, BridgedPackets, HOST, MATE, NEIGHBOUR, STRANGER, WEB, Wait, World, arrives, elements,
    foreign_table, generation, rules, tables, tcp, udp,
};

const TABLE: &str = "cofferdam";

fn spec(text: &str) -> PortSpec {
    text.parse().unwrap()
}

fn network(bridge: &str, subnet: &str) -> NetworkSpec {
    NetworkSpec::new(bridge)
        .unwrap()
        .subnet(subnet.parse().unwrap())
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

fn seen(ip: Ipv4Addr) -> Option<IpAddr> {
    Some(ip.into())
}

/// A handle on the host's table, with both bridges managed.
fn managed(world: &World) -> (Portmap, [NetworkGuard; 2]) {
    let portmap = world.host.run(|| Portmap::open(TABLE)).unwrap();
    let networks = [("br0", "10.1.0.0/24"), ("br1", "10.2.0.0/24")]
        .map(|(bridge, subnet)| portmap.network(network(bridge, subnet)).unwrap());
    (portmap, networks)
}

/// Takes the calling thread's effective capabilities.
fn drop_capabilities() {
    let mut sets = rustix::thread::capabilities(None).unwrap();
    sets.effective = rustix::thread::CapabilitySet::empty();
    rustix::thread::set_capabilities(None, sets).unwrap();
}

fn listen(netns: &NetNs, port: u16) -> TcpListener {
    netns
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .unwrap()
}

#[test]
fn a_published_port_is_reached_from_everywhere_with_the_clients_address() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for bridged in BridgedPackets::possible() {
        let world = World::new(bridged);
        let (portmap, _networks) = managed(&world);
        let server = listen(&world.web, 80);
        let published = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
        for (client, to, from) in [
            (&world.host, Ipv4Addr::LOCALHOST, BRIDGE),
            (&world.host, BRIDGE, BRIDGE),
            (&world.host, HOST, HOST),
            (&world.neighbour, HOST, NEIGHBOUR),
            (&world.stranger, HOST, STRANGER),
            (&world.stranger, BRIDGE, STRANGER),
        ] {
            let got = tcp(client, at(to, 8080), &server, Wait::Reached);
            assert_eq!(got, seen(from), "{to}, bridged packets {bridged:?}");
        }
        published.remove().unwrap();
        let gone = tcp(&world.neighbour, at(HOST, 8080), &server, Wait::Closed);
        assert_eq!(gone, None);
    }
}

#[test]
fn a_container_reaches_ports_published_for_itself_and_for_its_mates() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for bridged in BridgedPackets::possible() {
        let world = World::new(bridged);
        let (portmap, _networks) = managed(&world);
        let server = listen(&world.web, 80);
        let _published = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
        for client in [&world.web, &world.mate] {
            for to in [BRIDGE, HOST] {
                let got = tcp(client, at(to, 8080), &server, Wait::Reached);
                assert_eq!(got, seen(BRIDGE), "{to}, bridged packets {bridged:?}");
            }
        }
    }
}

#[test]
fn udp_is_published_apart_from_tcp() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let (portmap, _networks) = managed(&world);
    let server = world.web.run(|| UdpSocket::bind("0.0.0.0:53")).unwrap();
    let _published = portmap.publish(&spec("5353:53/udp"), WEB.into()).unwrap();
    let got = udp(&world.neighbour, at(HOST, 5353), &server, Wait::Reached);
    assert_eq!(got, seen(NEIGHBOUR));
    let got = udp(
        &world.host,
        at(Ipv4Addr::LOCALHOST, 5353),
        &server,
        Wait::Reached,
    );
    assert_eq!(got, seen(BRIDGE));
    let stream = listen(&world.web, 53);
    assert_eq!(
        tcp(&world.neighbour, at(HOST, 5353), &stream, Wait::Closed),
        None
    );
}

#[test]
fn a_port_published_on_loopback_is_closed_to_the_lan() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let (portmap, _networks) = managed(&world);
    let server = listen(&world.web, 80);
    let _published = portmap
        .publish(&spec("127.0.0.1:8080:80"), WEB.into())
        .unwrap();
    let local = at(Ipv4Addr::LOCALHOST, 8080);
    assert_eq!(
        tcp(&world.host, local, &server, Wait::Reached),
        seen(BRIDGE)
    );
    assert_eq!(
        tcp(&world.neighbour, at(HOST, 8080), &server, Wait::Closed),
        None
    );
}

#[test]
fn a_datagram_of_the_lan_for_127_0_0_1_reaches_no_port_published_there() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let (portmap, _networks) = managed(&world);
    let server = world.web.run(|| UdpSocket::bind("0.0.0.0:53")).unwrap();
    let _local = portmap
        .publish(&spec("127.0.0.1:53:53/udp"), WEB.into())
        .unwrap();
    let _lan = portmap
        .publish(&spec("192.0.2.1:53:53/udp"), WEB.into())
        .unwrap();
    world::send_loopback_to_the_host(&world.neighbour);
    let to = |ip| at(ip, 53);
    assert!(arrives(&world.neighbour, to(HOST), &server, Wait::Reached));
    let loopback = to(Ipv4Addr::LOCALHOST);
    assert!(!arrives(&world.neighbour, loopback, &server, Wait::Closed));
    assert!(arrives(&world.host, loopback, &server, Wait::Reached));
}

#[test]
fn a_container_reaches_no_socket_of_the_host_in_the_name_of_127_0_0_2() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let host = world.host.run(|| {
        world::sysctl("ipv4/conf/br0/rp_filter", "0");
        UdpSocket::bind("0.0.0.0:53").unwrap()
    });
    let disguised = world.web.run(|| {
        world::sysctl("ipv4/conf/all/route_localnet", "1");
        UdpSocket::bind("127.0.0.2:0").unwrap()
    });
    let arrives = |wait| world::hears(&host, &disguised, at(BRIDGE, 53), wait);
    // The control: route_localnet alone lets it in.
    assert!(arrives(Wait::Reached));
    let (_portmap, networks) = managed(&world);
    assert!(!arrives(Wait::Closed));
    assert!(world::arrives(
        &world.web,
        at(BRIDGE, 53),
        &host,
        Wait::Reached
    ));
    drop(networks);
    assert!(arrives(Wait::Reached));
}

#[test]
fn a_port_published_on_one_address_is_closed_on_others() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let (portmap, _networks) = managed(&world);
    let (server, other) = (listen(&world.web, 80), listen(&world.mate, 80));
    let lan = spec("80:80").with_host_ip(HOST.into());
    let _lan = portmap.publish(&lan, WEB.into()).unwrap();
    let bridge = spec("80:80").with_host_ip(BRIDGE.into());
    let _bridge = portmap.publish(&bridge, MATE.into()).unwrap();
    assert_eq!(
        tcp(&world.neighbour, at(HOST, 80), &server, Wait::Reached),
        seen(NEIGHBOUR)
    );
    assert_eq!(
        tcp(&world.neighbour, at(BRIDGE, 80), &other, Wait::Reached),
        seen(NEIGHBOUR)
    );
    let local = at(Ipv4Addr::LOCALHOST, 80);
    assert_eq!(tcp(&world.host, local, &server, Wait::Closed), None);
}

#[test]
fn unpublished_ports_are_closed_to_the_lan_and_to_other_networks() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for bridged in BridgedPackets::possible() {
        let world = World::new(bridged);
        let server = listen(&world.web, 80);
        // The control: without the table, forwarding lets both through.
        for client in [&world.neighbour, &world.stranger] {
            assert!(tcp(client, at(WEB, 80), &server, Wait::Reached).is_some());
        }
        let (portmap, _networks) = managed(&world);
        let _published = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
        for client in [&world.neighbour, &world.stranger] {
            assert_eq!(tcp(client, at(WEB, 80), &server, Wait::Closed), None);
        }
        for client in [&world.host, &world.mate] {
            assert!(tcp(client, at(WEB, 80), &server, Wait::Reached).is_some());
        }
    }
}

#[test]
fn containers_reach_out_under_the_hosts_address() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    for bridged in BridgedPackets::possible() {
        let world = World::new(bridged);
        let (_portmap, _networks) = managed(&world);
        let server = listen(&world.neighbour, 80);
        for client in [&world.web, &world.stranger] {
            let got = tcp(client, at(NEIGHBOUR, 80), &server, Wait::Reached);
            assert_eq!(got, seen(HOST));
        }
        let inside = listen(&world.web, 80);
        let got = tcp(&world.mate, at(WEB, 80), &inside, Wait::Reached);
        assert_eq!(got, seen(MATE), "within a network nothing is rewritten");
    }
}

#[test]
fn a_port_that_is_taken_is_refused_and_nothing_changes() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let other = netns.run(|| Portmap::open(TABLE)).unwrap();
    let _network = portmap.network(network("br0", "10.1.0.0/24")).unwrap();
    let _any = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
    let _local = portmap
        .publish(&spec("127.0.0.1:53:53/udp"), WEB.into())
        .unwrap();
    let before = generation(&netns);
    for (text, by) in [
        ("8080:80/tcp", "0.0.0.0:8080/tcp"),
        ("0.0.0.0:8080:81/tcp", "0.0.0.0:8080/tcp"),
        ("127.0.0.1:8080:80/tcp", "0.0.0.0:8080/tcp"),
        ("127.0.0.1:53:53/udp", "127.0.0.1:53/udp"),
        ("53:53/udp", "127.0.0.1:53/udp"),
    ] {
        for portmap in [&portmap, &other] {
            let error = portmap.publish(&spec(text), MATE.into()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
            let line = error.to_string();
            let wanted = PortMapping::of_spec(&spec(text), MATE.into()).unwrap();
            assert!(line.starts_with(&format!("publish {wanted} in")), "{line}");
            assert!(line.contains(by), "{line}");
        }
    }
    for (bridge, subnet) in [
        ("br0", "10.9.0.0/24"),
        ("br1", "10.1.0.0/24"),
        ("br1", "10.1.0.128/25"),
        ("br1", "10.0.0.0/8"),
    ] {
        let error = other.network(network(bridge, subnet)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    }
    assert_eq!(generation(&netns), before, "something was committed");
    let _udp = other.publish(&spec("8080:80/udp"), MATE.into()).unwrap();
    let _tcp = other.publish(&spec("53:53"), MATE.into()).unwrap();
    let _next = other.network(network("br1", "10.1.1.0/24")).unwrap();
}

#[test]
fn a_port_of_a_process_of_the_host_is_refused_and_nothing_changes() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let before = generation(&netns);
    let _tcp = netns.run(|| TcpListener::bind("127.0.0.1:8080")).unwrap();
    let _v6 = netns.run(|| TcpListener::bind("[::]:8081")).unwrap();
    let _udp = netns.run(|| UdpSocket::bind("0.0.0.0:53")).unwrap();
    for text in [
        "127.0.0.1:8080:80",
        "8080:80",
        "8081:80",
        "53:53/udp",
        "127.0.0.1:53:53/udp",
    ] {
        let error = portmap.publish(&spec(text), WEB.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains("EADDRINUSE"), "{error}");
    }
    let error = portmap
        .publish(&spec("192.0.2.99:80:80"), WEB.into())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(generation(&netns), before, "something was committed");
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn a_published_port_is_kept_from_processes_of_the_host_until_it_is_unpublished() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let tcp = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
    let udp = portmap
        .publish(&spec("127.0.0.1:53:53/udp"), WEB.into())
        .unwrap();
    for address in ["0.0.0.0:8080", "127.0.0.1:8080", "[::]:8080"] {
        let error = netns.run(|| TcpListener::bind(address)).unwrap_err();
        assert_eq!(error.kind(), IoErrorKind::AddrInUse, "{address}");
    }
    let error = netns.run(|| UdpSocket::bind("0.0.0.0:53")).unwrap_err();
    assert_eq!(error.kind(), IoErrorKind::AddrInUse);
    tcp.remove().unwrap();
    drop(udp);
    netns.run(|| TcpListener::bind("0.0.0.0:8080")).unwrap();
    netns.run(|| UdpSocket::bind("0.0.0.0:53")).unwrap();
}

#[test]
fn the_reserving_socket_lets_nobody_in() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let published = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
    portmap.delete_table().unwrap();
    // Without the rules, packets for the port arrive at the socket itself.
    let to = at(Ipv4Addr::LOCALHOST, 8080).into();
    let error = netns
        .run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))
        .unwrap_err();
    assert_eq!(error.kind(), IoErrorKind::TimedOut);
    published.remove().unwrap();
}

#[test]
fn connections_in_time_wait_do_not_keep_a_port_from_being_published() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    netns.run(|| {
        let server = TcpListener::bind("127.0.0.1:8080").unwrap();
        let mut client = TcpStream::connect("127.0.0.1:8080").unwrap();
        drop(server.accept().unwrap()); // closes first: TIME_WAIT is at port 8080
        client.read_to_end(&mut Vec::new()).unwrap();
    });
    let waiting = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
    assert!(waiting.contains("0100007F:1F90"), "{waiting}");
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let _published = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
}

#[test]
fn a_handle_works_in_its_namespace_from_threads_of_others() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let (netns, elsewhere) = (NetNs::new(), NetNs::new());
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let published = elsewhere
        .run(|| portmap.publish(&spec("8080:80"), WEB.into()))
        .unwrap();
    assert_eq!(tables(&netns), [TABLE]);
    assert_eq!(tables(&elsewhere), [""; 0]);
    elsewhere.run(|| TcpListener::bind("0.0.0.0:8080")).unwrap();
    netns.run(|| TcpListener::bind("0.0.0.0:8080")).unwrap_err();
    elsewhere.run(|| published.remove()).unwrap();
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn the_number_of_rules_is_the_same_for_one_port_and_a_thousand() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let network = portmap.network(network("br0", "10.1.0.0/24")).unwrap();
    let publish = |port| {
        portmap
            .publish(&PortSpec::new(port, 80).unwrap(), WEB.into())
            .unwrap()
    };
    let mut published = vec![publish(20_000)];
    let with_one = rules(&netns);
    published.extend((20_001..21_000).map(publish));
    assert_eq!(rules(&netns), with_one);
    assert!(with_one <= 28, "{with_one} rules");
    assert_eq!(elements(&netns, TABLE, "ports4_any"), 1000);
    drop(network);
    published.into_iter().for_each(|one| one.remove().unwrap());
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn the_last_removal_deletes_the_table_whichever_it_is() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    assert_eq!(tables(&netns), [""; 0], "open() made something");
    let network = |portmap: &Portmap| portmap.network(network("br0", "10.1.0.0/24")).unwrap();
    let first = network(&portmap);
    let any = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
    let one = portmap
        .publish(&spec("127.0.0.1:53:53/udp"), WEB.into())
        .unwrap();
    first.remove().unwrap();
    assert_eq!(tables(&netns), [TABLE]);
    drop(any);
    assert_eq!(tables(&netns), [TABLE]);
    one.remove().unwrap();
    assert_eq!(tables(&netns), [""; 0]);
    let again = network(&portmap);
    drop(portmap);
    drop(again);
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn what_is_persisted_stays_until_the_table_is_deleted() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    portmap
        .publish(&spec("8080:80"), WEB.into())
        .unwrap()
        .persist();
    portmap
        .network(network("br0", "10.1.0.0/24"))
        .unwrap()
        .persist();
    let passing = portmap.publish(&spec("8081:80"), WEB.into()).unwrap();
    let error = portmap.publish(&spec("8080:80"), WEB.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    passing.remove().unwrap();
    assert_eq!(elements(&netns, TABLE, "ports4_any"), 1);
    assert_eq!(elements(&netns, TABLE, "bridges"), 1);
    portmap.delete_table().unwrap();
    assert_eq!(tables(&netns), [""; 0]);
    portmap.delete_table().unwrap();
}

#[test]
fn a_port_is_unpublished_by_its_spec_whoever_published_it() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let other = netns.run(|| Portmap::open(TABLE)).unwrap();
    portmap.unpublish(&spec("8080:80")).unwrap();
    for text in ["8080:80", "127.0.0.1:53:5353/udp"] {
        portmap.publish(&spec(text), WEB.into()).unwrap().persist();
    }
    let _held = portmap.publish(&spec("8081:80"), WEB.into()).unwrap();
    for absent in ["8080:80/udp", "53:5353/udp", "127.0.0.1:8080:80"] {
        other.unpublish(&spec(absent)).unwrap();
    }
    assert_eq!(elements(&netns, TABLE, "ports4_any"), 2);
    other.unpublish(&spec("8080:80")).unwrap();
    assert_eq!(elements(&netns, TABLE, "ports4_any"), 1);
    other.unpublish(&spec("127.0.0.1:53:53/udp")).unwrap();
    assert_eq!(elements(&netns, TABLE, "ports4"), 0);
    portmap.unpublish(&spec("8081:80")).unwrap();
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn what_remove_could_not_remove_is_published_unreserved_until_unpublished() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let published = portmap.publish(&spec("8080:80"), WEB.into()).unwrap();
    let error = netns.run(|| {
        drop_capabilities();
        published.remove().unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(elements(&netns, TABLE, "ports4_any"), 1);
    netns.run(|| TcpListener::bind("0.0.0.0:8080")).unwrap();
    portmap.unpublish(&spec("8080:80")).unwrap();
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn what_is_gone_or_somebody_elses_by_now_is_left_alone() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let first = portmap.publish(&spec("132:80/sctp"), WEB.into()).unwrap();
    portmap.delete_table().unwrap();
    let second = portmap.publish(&spec("132:80/sctp"), MATE.into()).unwrap();
    first.remove().unwrap();
    assert_eq!(elements(&netns, TABLE, "ports4_any"), 1);
    portmap.delete_table().unwrap();
    second.remove().unwrap();
}

#[test]
fn a_table_of_somebody_else_is_refused_and_stays() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    foreign_table(&netns, TABLE);
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    let error = portmap.network(network("br0", "10.1.0.0/24")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let error = portmap.publish(&spec("8080:80"), WEB.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert_eq!(tables(&netns), [TABLE]);
}

#[test]
fn without_the_capability_the_error_names_it() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let error = netns.run(|| {
        drop_capabilities();
        Portmap::open(TABLE).unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    assert_eq!(error.raw_os_error(), Some(1));
}

#[test]
fn handles_used_at_once_lose_no_port_and_leave_no_table() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    const ROUNDS: u16 = 40;
    let netns = NetNs::new();
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for worker in 0..4_u16 {
            let (netns, start) = (&netns, &start);
            scope.spawn(move || {
                let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
                start.wait();
                for round in 0..ROUNDS {
                    let port = 20_000 + worker * ROUNDS + round;
                    let spec = PortSpec::new(port, 80)
                        .unwrap()
                        .with_protocol(Protocol::Udp);
                    let published = portmap.publish(&spec, WEB.into()).unwrap();
                    // Ours is there, whatever the others remove meanwhile: publishing it again is refused.
                    let error = portmap.publish(&spec, WEB.into()).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
                    published.remove().unwrap();
                }
            });
        }
    });
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn of_handles_that_want_the_same_port_at_once_one_gets_it() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let start = Barrier::new(4);
    // No socket decides, only the table. Two ask for every address, two for one.
    let wanted = ["7:7", "127.0.0.1:7:7", "7:7", "127.0.0.1:7:7"];
    for _ in 0..20 {
        let got: Vec<Published> = thread::scope(|scope| {
            let workers = wanted.map(|text| {
                let (netns, start) = (&netns, &start);
                scope.spawn(move || {
                    let portmap = Portmap::builder(TABLE).reserve(Reserve::Never);
                    let portmap = netns.run(|| portmap.open()).unwrap();
                    start.wait();
                    portmap.publish(&spec(text), WEB.into())
                })
            });
            let results = workers.map(|worker| worker.join().unwrap());
            results
                .into_iter()
                .filter_map(|result| match result {
                    Ok(published) => Some(published),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
                        None
                    }
                })
                .collect()
        });
        assert_eq!(got.len(), 1, "{got:?}");
    }
    assert_eq!(tables(&netns), [""; 0]);
}
