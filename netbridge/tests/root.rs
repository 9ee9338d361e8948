//! On the real kernel, each test in network namespaces of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_netbridge::{
    Addresses, Attachment, Bridge, ErrorKind, Gateway, IfName, IpNetwork, NetNs, Pool, Pools, Port,
    delete_link, enable_forwarding, enable_forwarding_on, links, loopback_up,
};
use cofferdam_testkit::{Need, have, turns};
use netlink_packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, LinkAttribute, LinkFlags, LinkInfo,
    State,
};

#[expect(dead_code, reason = "shared with the other tests")]
mod kernel;
#[path = "kernel/left.rs"]
mod left;

use left::Left;

const NEEDS: &[Need] = &[Need::Namespaces];
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs `work` in a network namespace of its own, where the machine allows one.
fn in_own_netns(work: impl FnOnce() + Send) {
    if have(NEEDS) {
        cofferdam_testkit::NetNs::new().run(work);
    }
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn bridge(address: &str) -> Left<Bridge> {
    let builder = Bridge::builder(name("br0")).address(net(address));
    Left::new(builder.create().unwrap())
}

fn attach(bridge: &Bridge, address: &str) -> (NetNs, Left<Port>) {
    let netns = NetNs::new().unwrap();
    let port = bridge
        .attach(&netns, Attachment::new(net(address)))
        .unwrap();
    (netns, Left::new(port))
}

fn link_names() -> BTreeSet<String> {
    links().unwrap().into_iter().map(|link| link.name).collect()
}

fn sysctl(path: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap();
    text.trim_end().to_owned()
}

/// A UDP socket inside, with a deadline.
fn udp(netns: &NetNs, address: IpAddr) -> UdpSocket {
    let socket = netns
        .run(|| UdpSocket::bind((address, 0)))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn echo_udp(from: &UdpSocket, to: &UdpSocket) {
    let mut buffer = [0; 16];
    from.send_to(b"ping", to.local_addr().unwrap()).unwrap();
    let (length, peer) = to.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"ping");
    assert_eq!(peer, from.local_addr().unwrap());
    to.send_to(b"pong", peer).unwrap();
    let (length, _) = from.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"pong");
}

fn echo_tcp(from: &NetNs, listener: TcpListener) {
    let address: SocketAddr = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).unwrap();
        stream.write_all(&buffer).unwrap();
    });
    let connect = || TcpStream::connect_timeout(&address, DEADLINE);
    let mut stream = from.run(connect).unwrap().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"ping").unwrap();
    let mut buffer = [0; 4];
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"ping");
    server.join().unwrap();
}

#[test]
fn containers_reach_each_other_and_the_gateway() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let (one, first) = attach(&bridge, "10.5.0.2/24");
        let (two, second) = attach(&bridge, "10.5.0.3/24");
        let gateway = UdpSocket::bind("10.5.0.1:0").unwrap();
        gateway.set_read_timeout(Some(DEADLINE)).unwrap();

        let here = udp(&one, first.ipv4().unwrap().ip());
        echo_udp(&here, &udp(&two, second.ipv4().unwrap().ip()));
        echo_udp(&here, &gateway);
        let listen = || TcpListener::bind("10.5.0.3:0").unwrap();
        echo_tcp(&one, two.run(listen).unwrap());
        echo_tcp(&two, TcpListener::bind("10.5.0.1:0").unwrap());
    });
}

#[test]
fn the_first_packet_after_attach_is_not_lost() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let gateway = UdpSocket::bind("10.5.0.1:0").unwrap();
        gateway.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut times: Vec<Duration> = (2..32)
            .map(|host| {
                let netns = NetNs::new().unwrap();
                let socket = udp(&netns, "0.0.0.0".parse().unwrap());
                let attachment = Attachment::new(net(&format!("10.5.0.{host}/24")));
                let port = bridge.attach(&netns, attachment).unwrap();
                let begin = Instant::now();
                let to = gateway.local_addr().unwrap();
                socket.send_to(b"ping", to).unwrap();
                gateway.recv_from(&mut [0; 4]).unwrap();
                port.persist();
                begin.elapsed()
            })
            .collect();
        // A lost ARP request is sent again after a second. A slow one is the machine's.
        times.sort();
        assert!(times[28] < Duration::from_millis(500), "{times:?}");
    });
}

#[test]
fn both_ends_and_the_bridge_are_operational_when_attach_returns() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        // The bridge loses its carrier with each port that is removed, being the last.
        let operational = |_| {
            let netns = NetNs::new().unwrap();
            let attachment = Attachment::new(net("10.5.0.2/24"));
            // From inside: to get there afterwards would leave the kernel time.
            let attach = || {
                let port = bridge.attach(&netns, attachment).unwrap();
                (kernel::operstate("eth0"), port)
            };
            let (inside, port) = netns.run(attach).unwrap();
            let outside = kernel::operstate(port.name().as_str());
            let states = [inside, outside, kernel::operstate("br0")];
            port.remove().unwrap();
            states
        };
        let states: Vec<_> = (0..turns(20, 5)).map(operational).collect();
        // A machine may be too busy for the 0.3 s of one.
        let slow = states.iter().filter(|states| **states != [State::Up; 3]);
        assert!(slow.count() <= 1, "{states:?}");
    });
}

#[test]
fn the_default_route_leads_to_the_bridge() {
    in_own_netns(|| {
        let bridge = Bridge::builder(name("br0"))
            .address(net("10.5.0.1/24"))
            .forwarding()
            .create()
            .unwrap();
        let (netns, _port) = attach(&bridge, "10.5.0.2/24");
        // 10.99.0.1 is an address of the host's that only the default route leads to.
        let other = Bridge::builder(name("br1"))
            .address(net("10.99.0.1/24"))
            .create()
            .unwrap();
        let far = UdpSocket::bind("10.99.0.1:0").unwrap();
        far.set_read_timeout(Some(DEADLINE)).unwrap();
        echo_udp(&udp(&netns, "10.5.0.2".parse().unwrap()), &far);
        assert_eq!(other.ipv4().unwrap(), net("10.99.0.1/24"));
    });
}

#[test]
fn without_a_gateway_there_is_no_default_route() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let netns = NetNs::new().unwrap();
        let attachment = Attachment::new(net("10.5.0.2/24")).gateway(Gateway::None);
        let _port = bridge.attach(&netns, attachment).unwrap();
        let defaults = netns.run(kernel::default_gateways).unwrap();
        assert!(defaults.is_empty(), "{defaults:?}");
        let socket = udp(&netns, "10.5.0.2".parse().unwrap());
        let error = socket.send_to(b"x", "10.99.0.1:9").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NetworkUnreachable);
    });
}

#[test]
fn a_container_has_what_was_asked_for() {
    in_own_netns(|| {
        let bridge = Bridge::builder(name("br0"))
            .address(net("10.5.0.1/24"))
            .mtu(1400)
            .create()
            .unwrap();
        let netns = NetNs::new().unwrap();
        let attachment = Attachment::new(net("10.5.0.2/32"))
            .ifname(name("net0"))
            .host_ifname(name("host0"))
            .gateway(Gateway::Address("10.5.0.9".parse().unwrap()));
        let port = bridge.attach(&netns, attachment).unwrap();
        assert_eq!(port.name(), &name("host0"));
        assert_eq!(port.ipv4().unwrap(), net("10.5.0.2/24"));

        let inside = netns.run(|| kernel::link("net0").unwrap()).unwrap();
        assert!(
            inside
                .header
                .flags
                .contains(LinkFlags::Up | LinkFlags::LowerUp)
        );
        assert!(inside.attributes.contains(&LinkAttribute::Mtu(1400)));
        assert!(
            inside
                .attributes
                .contains(&LinkAttribute::Address(port.mac().to_vec()))
        );
        assert_eq!(port.mac(), [0x02, 0x42, 10, 5, 0, 2]);
        let addresses = netns.run(|| kernel::addresses("net0")).unwrap();
        assert_eq!(addresses, [net("10.5.0.2/24")]);
        let defaults = netns.run(kernel::default_gateways).unwrap();
        assert_eq!(defaults, ["10.5.0.9".parse::<IpAddr>().unwrap()]);

        let outside = kernel::link("host0").unwrap();
        assert_eq!(outside.header.index, port.index());
        assert!(
            outside
                .header
                .flags
                .contains(LinkFlags::Up | LinkFlags::LowerUp)
        );
        assert!(outside.attributes.contains(&LinkAttribute::Mtu(1400)));
        assert!(
            outside
                .attributes
                .contains(&LinkAttribute::Controller(bridge.index()))
        );
        let options = kernel::bridge_port(&outside);
        assert!(
            options.contains(&InfoBridgePort::HairpinMode(true)),
            "{options:?}"
        );
        assert!(options.contains(&InfoBridgePort::State(BridgePortState::Forwarding)));
    });
}

#[test]
fn a_bridge_has_what_was_asked_for() {
    in_own_netns(|| {
        let bridge = Bridge::builder(name("br0"))
            .address(net("10.5.0.1/24"))
            .mtu(1300)
            .create()
            .unwrap();
        let link = kernel::link("br0").unwrap();
        assert_eq!(link.header.index, bridge.index());
        assert!(link.header.flags.contains(LinkFlags::Up));
        assert!(link.attributes.contains(&LinkAttribute::Mtu(1300)));
        let mac = vec![0x02, 0x42, 10, 5, 0, 1];
        assert!(
            link.attributes
                .contains(&LinkAttribute::Address(mac.clone()))
        );
        let stp = link.attributes.iter().any(|attribute| {
            matches!(attribute, LinkAttribute::LinkInfo(info) if info.iter().any(|info| {
                matches!(info, LinkInfo::Data(InfoData::Bridge(data)) if data.iter().any(|data| {
                    matches!(data, InfoBridge::StpState(state) if u32::from(*state) == 0)
                }))
            }))
        });
        assert!(stp, "{link:?}");
        assert_eq!(kernel::addresses("br0"), [net("10.5.0.1/24")]);

        // A port comes and goes: neither MAC nor MTU move.
        let (_netns, port) = attach(&bridge, "10.5.0.2/24");
        port.into_inner().remove().unwrap();
        let link = kernel::link("br0").unwrap();
        assert!(link.attributes.contains(&LinkAttribute::Mtu(1300)));
        assert!(link.attributes.contains(&LinkAttribute::Address(mac)));
    });
}

#[test]
fn no_link_of_a_network_has_ipv6() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let (netns, port) = attach(&bridge, "10.5.0.2/24");
        assert_eq!(sysctl("ipv6/conf/br0/disable_ipv6"), "1");
        assert_eq!(sysctl("ipv6/conf/br0/accept_ra"), "0");
        let inside = netns.run(|| sysctl("ipv6/conf/eth0/disable_ipv6")).unwrap();
        assert_eq!(inside, "1");
        for here in [kernel::ipv6_links(), netns.run(kernel::ipv6_links).unwrap()] {
            for link in ["br0", "eth0", port.name().as_str()] {
                assert!(!here.contains(link), "{here:?}");
            }
        }
    });
}

#[test]
fn an_mtu_too_small_for_ipv6_works() {
    in_own_netns(|| {
        let bridge = Bridge::builder(name("br0"))
            .address(net("10.5.0.1/24"))
            .mtu(600)
            .create()
            .unwrap();
        let (netns, port) = attach(&bridge, "10.5.0.2/24");
        let gateway = UdpSocket::bind("10.5.0.1:0").unwrap();
        gateway.set_read_timeout(Some(DEADLINE)).unwrap();
        echo_udp(&udp(&netns, port.ipv4().unwrap().ip()), &gateway);
    });
}

#[test]
fn sysctls_are_set_only_where_asked_for_and_only_in_the_namespace_of_the_thread() {
    in_own_netns(|| {
        let plain = bridge("10.5.0.1/24");
        let asked = Bridge::builder(name("br1"))
            .address(net("10.6.0.1/24"))
            .route_localnet()
            .forwarding()
            .create()
            .unwrap();
        for (bridge, value) in [(&*plain, "0"), (&asked, "1")] {
            let conf = format!("ipv4/conf/{}", bridge.name());
            assert_eq!(sysctl(&format!("{conf}/route_localnet")), value);
            assert_eq!(sysctl(&format!("{conf}/forwarding")), value);
        }
        assert_eq!(sysctl("ipv4/ip_forward"), "0");

        let elsewhere = NetNs::new().unwrap();
        elsewhere.run(enable_forwarding).unwrap().unwrap();
        let there = elsewhere.run(|| sysctl("ipv4/ip_forward")).unwrap();
        assert_eq!(there, "1");
        assert_eq!(sysctl("ipv4/ip_forward"), "0");

        enable_forwarding_on(plain.name()).unwrap();
        assert_eq!(sysctl("ipv4/conf/br0/forwarding"), "1");
        let error = enable_forwarding_on(&name("nowhere")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn the_mtu_is_inferred_from_the_default_route() {
    in_own_netns(|| {
        let uplink = Bridge::builder(name("up0"))
            .address(net("10.9.0.1/24"))
            .mtu(1380)
            .create()
            .unwrap();
        let before = bridge("10.5.0.1/24");
        assert_eq!(before.mtu(), 1500);
        before.into_inner().remove().unwrap();

        kernel::add_route("0.0.0.0/0", uplink.index(), Some([10, 9, 0, 2]));
        let bridge = bridge("10.5.0.1/24");
        assert_eq!(bridge.mtu(), 1380);
        let (netns, _port) = attach(&bridge, "10.5.0.2/24");
        let inside = netns.run(|| kernel::link("eth0").unwrap()).unwrap();
        assert!(inside.attributes.contains(&LinkAttribute::Mtu(1380)));
    });
}

#[test]
fn a_taken_bridge_name_is_already_exists_and_changes_nothing() {
    in_own_netns(|| {
        let first = bridge("10.5.0.1/24");
        let before = link_names();
        let error = Bridge::builder(name("br0"))
            .address(net("10.6.0.1/24"))
            .mtu(900)
            .create()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert_eq!(error.to_string(), "create bridge br0: EEXIST: File exists");
        assert_eq!(link_names(), before);
        assert_eq!(kernel::addresses("br0"), [net("10.5.0.1/24")]);
        let link = kernel::link("br0").unwrap();
        assert!(link.attributes.contains(&LinkAttribute::Mtu(first.mtu())));
    });
}

#[test]
fn a_bridge_that_fails_half_way_leaves_no_link() {
    in_own_netns(|| {
        let before = link_names();
        let error = Bridge::builder(name("br0"))
            .address(net("10.5.0.1/24"))
            .mtu(10)
            .create()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(
            error.to_string().starts_with("set br0 up: EINVAL: "),
            "{error}"
        );
        assert_eq!(link_names(), before);
    });
}

#[test]
fn an_attach_that_fails_leaves_no_link_and_frees_the_address() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let (netns, port) = attach(&bridge, "10.5.0.2/24");
        let inside = || netns.run(link_names).unwrap();
        let (here, there) = (link_names(), inside());
        let to = |address| Attachment::new(net(address)).ifname(name("eth1"));
        let nowhere = Gateway::Address("10.99.0.1".parse().unwrap());
        let failures = [
            (
                to("10.5.0.3/24").ifname(name("eth0")),
                ErrorKind::AlreadyExists,
            ),
            (
                to("10.5.0.3/24").host_ifname(port.name().clone()),
                ErrorKind::AlreadyExists,
            ),
            (
                to("10.5.0.3/24").host_ifname(name("lo")),
                ErrorKind::AlreadyExists,
            ),
            // A second default route.
            (to("10.5.0.3/24"), ErrorKind::AlreadyExists),
            (to("10.5.0.3/24").gateway(nowhere), ErrorKind::InvalidInput),
            (
                to("10.5.0.2/24").gateway(Gateway::None),
                ErrorKind::AlreadyExists,
            ),
            (to("10.5.0.1/24"), ErrorKind::InvalidInput),
            (to("10.5.0.0/24"), ErrorKind::InvalidInput),
            (to("10.5.0.255/24"), ErrorKind::InvalidInput),
            (to("10.6.0.3/24"), ErrorKind::InvalidInput),
            (to("fd00::2/64"), ErrorKind::InvalidInput),
        ];
        for (attachment, kind) in failures {
            let error = bridge.attach(&netns, attachment.clone()).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(link_names(), here, "{attachment:?}");
            assert_eq!(inside(), there, "{attachment:?}");
        }
        let last = to("10.5.0.3/24").gateway(Gateway::None);
        let _second = bridge.attach(&netns, last).unwrap();
        assert_eq!(link_names().len(), here.len() + 1);
        assert_eq!(inside().len(), there.len() + 1);
    });
}

#[test]
fn the_kernels_words_are_in_the_error() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let netns = NetNs::new().unwrap();
        let gateway = Gateway::Address("10.99.0.1".parse().unwrap());
        let attachment = Attachment::new(net("10.5.0.2/24")).gateway(gateway);
        let error = bridge.attach(&netns, attachment).unwrap_err();
        assert_eq!(
            error.to_string(),
            "add default route via 10.99.0.1 on eth0: ENETUNREACH: Network is unreachable (Nexthop has invalid gateway)"
        );
    });
}

#[test]
fn an_fd_that_is_no_namespace_is_refused() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let before = link_names();
        let null = std::fs::File::open("/dev/null").unwrap();
        let attachment = Attachment::new(net("10.5.0.2/24"));
        let error = bridge.attach(&null, attachment).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert_eq!(link_names(), before);
        let netns = NetNs::from(OwnedFd::from(null));
        let error = netns.run(|| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    });
}

#[test]
fn an_address_can_be_attached_again_when_its_port_is_gone() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let (_one, port) = attach(&bridge, "10.5.0.2/24");
        let other = NetNs::new().unwrap();
        let attachment = Attachment::new(net("10.5.0.2/24"));
        let error = bridge.attach(&other, attachment.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        port.into_inner().remove().unwrap();
        let port = bridge.attach(&other, attachment).unwrap();
        let gateway = UdpSocket::bind("10.5.0.1:0").unwrap();
        gateway.set_read_timeout(Some(DEADLINE)).unwrap();
        echo_udp(&udp(&other, port.ipv4().unwrap().ip()), &gateway);
    });
}

#[test]
fn the_address_of_a_persisted_port_is_claimed_until_it_is_released() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let address = "10.5.0.2".parse().unwrap();
        let other = NetNs::new().unwrap();
        let again = || bridge.attach(&other, Attachment::new(net("10.5.0.2/24")));
        let error = bridge.release(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

        let (_netns, port) = attach(&bridge, "10.5.0.2/24");
        let error = bridge.release(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        port.into_inner().persist();
        let error = again().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");

        bridge.release(address).unwrap();
        let port = again().unwrap();
        let error = bridge.release(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        port.remove().unwrap();
    });
}

#[test]
fn remove_and_drop_leave_no_link_and_persist_leaves_all() {
    in_own_netns(|| {
        let before = link_names();
        let make = || {
            let bridge = bridge("10.5.0.1/24");
            let (netns, port) = attach(&bridge, "10.5.0.2/24");
            assert_eq!(link_names().len(), before.len() + 2);
            (bridge.into_inner(), netns, port.into_inner())
        };
        let (bridge, netns, port) = make();
        port.remove().unwrap();
        assert_eq!(netns.run(link_names).unwrap().len(), 1);
        bridge.remove().unwrap();
        assert_eq!(link_names(), before);

        // The bridge first, then its port, by Drop.
        let (bridge, netns, port) = make();
        drop(bridge);
        drop(port);
        assert_eq!(link_names(), before);
        assert_eq!(netns.run(link_names).unwrap().len(), 1);

        let (bridge, netns, port) = make();
        assert_eq!(bridge.persist(), name("br0"));
        let host = port.persist();
        assert_eq!(link_names().len(), before.len() + 2);
        assert!(link_names().contains(host.as_str()));
        drop(netns);
    });
}

#[test]
fn what_was_persisted_is_deleted_by_name() {
    in_own_netns(|| {
        let before = link_names();
        let bridge = bridge("10.5.0.1/24");
        let (one, first) = attach(&bridge, "10.5.0.2/24");
        let (two, second) = attach(&bridge, "10.5.0.3/24");
        let (first, br0) = (first.into_inner().persist(), bridge.into_inner().persist());
        assert_eq!(link_names().len(), before.len() + 3);

        delete_link(&first).unwrap();
        assert_eq!(one.run(link_names).unwrap().len(), 1);
        delete_link(&br0).unwrap();
        assert_eq!(link_names().len(), before.len() + 1);
        // From the container's end, under its port.
        two.run(|| delete_link(&name("eth0"))).unwrap().unwrap();
        assert_eq!(link_names(), before);
        second.into_inner().remove().unwrap();
        for gone in [first, br0] {
            delete_link(&gone).unwrap();
        }
    });
}

#[test]
fn a_link_of_no_kind_that_is_made_here_is_not_deleted() {
    in_own_netns(|| {
        let before = link_names();
        let error = delete_link(&name("lo")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let line = "delete link lo: it is of no kind that is made here";
        assert_eq!(error.to_string(), line);
        assert_eq!(link_names(), before);
    });
}

#[test]
fn the_end_of_the_namespace_takes_the_link_away() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let before = link_names();
        let (one, left) = attach(&bridge, "10.5.0.2/24");
        let (two, kept) = attach(&bridge, "10.5.0.3/24");
        let (three, dropped) = attach(&bridge, "10.5.0.4/24");
        left.into_inner().persist();
        drop((one, two, three));
        let begin = Instant::now();
        while link_names() != before {
            assert!(begin.elapsed() < DEADLINE, "{:?}", link_names());
            thread::sleep(Duration::from_millis(5));
        }
        kept.into_inner().remove().unwrap();
        drop(dropped);
        assert_eq!(link_names(), before);
    });
}

#[test]
fn a_bridge_that_was_deleted_by_another_is_not_found_and_removed_without_an_error() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        kernel::delete_link(bridge.index());
        let before = link_names();
        let netns = NetNs::new().unwrap();
        let attachment = Attachment::new(net("10.5.0.2/24"));
        let error = bridge.attach(&netns, attachment).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert_eq!(link_names(), before);
        assert_eq!(netns.run(link_names).unwrap().len(), 1);
        bridge.into_inner().remove().unwrap();
    });
}

#[test]
fn a_bridge_works_from_threads_in_other_namespaces() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let before = link_names();
        let netns = NetNs::new().unwrap();
        let elsewhere = NetNs::new().unwrap();
        let attachment = Attachment::new(net("10.5.0.2/24"));
        let port = elsewhere
            .run(|| bridge.attach(&netns, attachment))
            .unwrap()
            .unwrap();
        assert_eq!(link_names().len(), before.len() + 1);
        assert_eq!(elsewhere.run(link_names).unwrap().len(), 1);
        elsewhere.run(|| port.remove()).unwrap().unwrap();
        assert_eq!(link_names(), before);
    });
}

#[test]
fn a_picked_subnet_overlaps_nothing_of_the_host() {
    in_own_netns(|| {
        let pools = || Pools::new([Pool::new(net("10.8.0.0/22"), 24).unwrap()]);
        loopback_up().unwrap();
        kernel::add_route("10.8.0.128/25", 1, None);
        let given = bridge("10.8.1.1/24");
        kernel::set_down(given.index());
        let mut picked = BTreeSet::new();
        let mut bridges = Vec::new();
        for n in 0..2 {
            let builder = Bridge::builder(name(&format!("net{n}"))).pools(pools());
            let bridge = builder.create().unwrap();
            picked.insert(bridge.ipv4().unwrap().to_string());
            bridges.push(bridge);
        }
        assert!(
            picked.iter().eq(["10.8.2.1/24", "10.8.3.1/24"]),
            "{picked:?}"
        );

        let before = link_names();
        let error = Bridge::builder(name("net2"))
            .pools(pools())
            .create()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        assert_eq!(link_names(), before);
        assert_eq!(
            pools().pick("net2").unwrap_err().kind(),
            ErrorKind::Exhausted
        );
        drop(bridges);
        assert_eq!(pools().pick("net0").unwrap().prefix(), 24);
    });
}

#[test]
fn bridges_made_at_once_get_subnets_of_their_own() {
    in_own_netns(|| {
        let host = NetNs::of_caller().unwrap();
        // Many routes take long to read, and the pool is just enough for all: so they meet.
        loopback_up().unwrap();
        for n in 0..turns(2000, 400) {
            kernel::add_route(&format!("192.168.{}.{}/32", n / 250, n % 250), 1, None);
        }
        let pools = Pools::new([Pool::new(net("10.8.0.0/21"), 24).unwrap()]);
        for round in 0..turns(3, 1) {
            let create = |n| {
                let builder = Bridge::builder(name(&format!("net{round}x{n}")));
                let builder = builder.pools(pools.clone());
                host.run(|| builder.create().unwrap()).unwrap()
            };
            let bridges: Vec<Bridge> = thread::scope(|scope| {
                let running: Vec<_> = (0..8).map(|n| scope.spawn(move || create(n))).collect();
                running
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            let subnets: BTreeSet<IpAddr> = bridges
                .iter()
                .map(|b| b.ipv4().unwrap().network())
                .collect();
            assert_eq!(subnets.len(), 8, "{subnets:?}");
        }
    });
}

#[test]
fn many_threads_attach_and_remove_at_once() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let before = link_names();
        let addresses = std::sync::Mutex::new(Addresses::new(bridge.ipv4().unwrap()).unwrap());
        let cycle = || {
            let address = addresses.lock().unwrap().allocate().unwrap();
            let netns = NetNs::new().unwrap();
            let port = bridge.attach(&netns, Attachment::new(address)).unwrap();
            assert!(link_names().contains(port.name().as_str()));
            port.remove().unwrap();
            addresses.lock().unwrap().release(address.ip()).unwrap();
        };
        let host = NetNs::of_caller().unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| host.run(|| (0..turns(8, 2)).for_each(|_| cycle())).unwrap());
            }
        });
        assert_eq!(link_names(), before);
        assert_eq!(addresses.lock().unwrap().in_use(), 0);
    });
}

#[test]
fn links_are_listed_with_their_kind() {
    in_own_netns(|| {
        let bridge = bridge("10.5.0.1/24");
        let (_netns, port) = attach(&bridge, "10.5.0.2/24");
        let listed: Vec<_> = links()
            .unwrap()
            .into_iter()
            .map(|link| (link.name, link.kind))
            .collect();
        let veth = port.name().to_string();
        for entry in [
            ("lo".to_owned(), None),
            ("br0".to_owned(), Some("bridge".to_owned())),
            (veth, Some("veth".to_owned())),
        ] {
            assert!(listed.contains(&entry), "{entry:?} in {listed:?}");
        }
        assert_eq!(listed.len(), 3);
    });
}

#[test]
fn a_namespace_has_its_loopback_up_and_ends_with_its_last_user() {
    if !have(NEEDS) {
        return;
    }
    let one = NetNs::new().unwrap();
    let two = NetNs::new().unwrap();
    let identity = |netns: &NetNs| kernel::identity(netns.as_fd());
    assert_ne!(identity(&one), identity(&two));
    assert_ne!(identity(&one), identity(&NetNs::of_caller().unwrap()));
    let inside = one.run(|| NetNs::of_caller().unwrap()).unwrap();
    assert_eq!(identity(&one), identity(&inside));

    let listener = one.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    listener.set_read_timeout(Some(DEADLINE)).unwrap();
    echo_udp(&udp(&one, "127.0.0.1".parse().unwrap()), &listener);
    // From elsewhere, its loopback cannot be reached.
    let stranger = udp(&two, "127.0.0.1".parse().unwrap());
    stranger.connect(listener.local_addr().unwrap()).unwrap();
    stranger.send(b"x").unwrap();
    let refused = stranger.recv(&mut [0; 1]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_panic_inside_a_namespace_goes_on_in_the_caller() {
    if !have(NEEDS) {
        return;
    }
    let netns = NetNs::new().unwrap();
    let caught = std::panic::catch_unwind(|| netns.run(|| std::panic::panic_any(7_u8)));
    assert_eq!(*caught.unwrap_err().downcast::<u8>().unwrap(), 7);
    assert_eq!(netns.run(|| 3).unwrap(), 3);
}

#[test]
fn the_callers_thread_stays_in_its_namespace() {
    in_own_netns(|| {
        let identity = || kernel::identity(NetNs::of_caller().unwrap().as_fd());
        let before = identity();
        let bridge = bridge("10.5.0.1/24");
        let (_netns, port) = attach(&bridge, "10.5.0.2/24");
        assert_eq!(identity(), before);
        port.into_inner().remove().unwrap();
        assert_eq!(identity(), before);
    });
}

#[test]
fn names_the_kernel_takes_and_refuses() {
    in_own_netns(|| {
        for text in ["a", "br-0123456789ab", "...", "n.1_x@y"] {
            let bridge = Bridge::builder(name(text)).address(net("10.5.0.1/24"));
            let made = bridge.create().unwrap();
            assert!(link_names().contains(text));
            made.remove().unwrap();
        }
    });
}
