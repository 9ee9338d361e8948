//! What an attachment may ask for, on the real kernel with real packets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use cofferdam_netbridge::{
    Attachment, Bridge, ErrorKind, Gateway, IfName, IpNetwork, NetNs, Pool, Pools, Port, Route,
    links,
};
use cofferdam_testkit::{Need, have, turns};
use netlink_packet_route::link::LinkAttribute;

#[path = "../kernel/mod.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod kernel;
#[path = "../kernel/left.rs"]
mod left;

use left::Left;

const DEADLINE: Duration = Duration::from_secs(20);

fn in_own_netns(work: impl FnOnce() + Send) {
    if have(&[Need::Namespaces]) {
        cofferdam_testkit::NetNs::new().run(work);
    }
}

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn bridge(text: &str, addresses: &[&str]) -> Left<Bridge> {
    let builder = Bridge::builder(name(text)).unaddressed();
    let builder = addresses.iter().fold(builder, |b, a| b.address(net(a)));
    Left::new(builder.create().unwrap())
}

fn attachment(addresses: &[&str]) -> Attachment {
    let all = addresses.iter().map(|address| net(address));
    all.fold(Attachment::default(), Attachment::address)
}

fn attach(bridge: &Bridge, addresses: &[&str]) -> (NetNs, Left<Port>) {
    let netns = NetNs::new().unwrap();
    let port = bridge.attach(&netns, attachment(addresses)).unwrap();
    (netns, Left::new(port))
}

fn udp(netns: &NetNs, address: &str) -> UdpSocket {
    let bind = || UdpSocket::bind((ip(address), 0)).unwrap();
    let socket = netns.run(bind).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn echo(from: &UdpSocket, to: &UdpSocket) {
    let mut buffer = [0; 16];
    from.send_to(b"ping", to.local_addr().unwrap()).unwrap();
    let (_, peer) = to.recv_from(&mut buffer).unwrap();
    to.send_to(b"pong", peer).unwrap();
    let (length, _) = from.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"pong");
}

fn sysctl(path: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap();
    text.trim_end().to_owned()
}

fn names() -> Vec<String> {
    links().unwrap().into_iter().map(|link| link.name).collect()
}

#[test]
fn containers_talk_over_both_families_at_once() {
    in_own_netns(|| {
        let host = NetNs::of_caller().unwrap();
        let bridge = bridge("br0", &["10.5.0.1/24", "fd00:5::1/64"]);
        let mut slowest = Duration::ZERO;
        for n in 2..10 {
            let (v4, v6) = (format!("10.5.0.{n}"), format!("fd00:5::{n}"));
            let (here, port) = attach(&bridge, &[&v4, &v6]);
            let begin = Instant::now();
            echo(&udp(&here, &v6), &udp(&host, "fd00:5::1"));
            slowest = slowest.max(begin.elapsed());
            echo(&udp(&here, &v4), &udp(&host, "10.5.0.1"));
            let (there, other) = attach(&bridge, &["10.5.0.99", "fd00:5::99"]);
            let _other = other.into_inner(); // each time another has the addresses
            echo(&udp(&here, &v6), &udp(&there, "fd00:5::99"));
            echo(&udp(&there, "10.5.0.99"), &udp(&here, &v4));
            assert_eq!(
                port.addresses(),
                [net(&format!("{v4}/24")), net(&format!("{v6}/64"))]
            );
        }
        // Duplicate address detection takes a second and more, a lost solicitation one.
        assert!(slowest < Duration::from_millis(900), "{slowest:?}");
    });
}

#[test]
fn a_network_of_ipv6_alone_has_a_default_route_and_no_ipv4() {
    in_own_netns(|| {
        let builder = Bridge::builder(name("br0")).address(net("fd00:5::1/64"));
        let bridge = builder.forwarding().create().unwrap();
        assert_eq!(
            (bridge.ipv4(), bridge.ipv6()),
            (None, Some(net("fd00:5::1/64")))
        );
        let far = Bridge::builder(name("br1")).address(net("fd00:9::1/64"));
        let _far = far.create().unwrap();
        let (here, port) = attach(&bridge, &["fd00:5::2"]);
        assert_eq!(port.ipv4(), None);
        let host = NetNs::of_caller().unwrap();
        echo(&udp(&here, "fd00:5::2"), &udp(&host, "fd00:9::1"));
        let addresses = here.run(|| kernel::addresses("eth0")).unwrap();
        assert!(addresses.is_empty(), "{addresses:?}");
        for (link, inside) in [("br0", false), ("eth0", true)] {
            let read = || sysctl(&format!("ipv6/conf/{link}/accept_ra"));
            let accept_ra = if inside {
                here.run(read).unwrap()
            } else {
                read()
            };
            assert_eq!(accept_ra, "0", "{link}");
        }
    });
}

#[test]
fn a_container_without_an_ipv6_address_has_no_ipv6_on_a_network_that_has() {
    in_own_netns(|| {
        let bridge = bridge("br0", &["10.5.0.1/24", "fd00:5::1/64"]);
        let (here, _port) = attach(&bridge, &["10.5.0.2"]);
        assert_eq!(
            here.run(|| sysctl("ipv6/conf/eth0/disable_ipv6")).unwrap(),
            "1"
        );
        assert!(!here.run(kernel::ipv6_links).unwrap().contains("eth0"));
    });
}

#[test]
fn an_isolated_bridge_joins_containers_and_not_the_host() {
    in_own_netns(|| {
        let bridge = bridge("br0", &[]);
        assert!(bridge.addresses().is_empty());
        let (one, _first) = attach(&bridge, &["10.5.0.2/24", "fd00:5::2/64"]);
        let (two, _second) = attach(&bridge, &["10.5.0.3/24", "fd00:5::3/64"]);
        echo(&udp(&one, "10.5.0.2"), &udp(&two, "10.5.0.3"));
        echo(&udp(&one, "fd00:5::2"), &udp(&two, "fd00:5::3"));
        assert!(one.run(kernel::default_gateways).unwrap().is_empty());
        assert!(kernel::addresses("br0").is_empty());
        assert!(!kernel::ipv6_links().contains("br0"));
    });
}

#[test]
fn a_bridge_that_was_there_is_used_and_never_deleted() {
    in_own_netns(|| {
        let br0 = bridge("br0", &["10.5.0.1/24"]).name().clone();
        for round in 0..2 {
            let adopted = Bridge::adopt(br0.clone()).unwrap();
            assert!(adopted.is_adopted());
            assert_eq!(adopted.addresses(), [net("10.5.0.1/24")]);
            let (here, _port) = attach(&adopted, &["10.5.0.2"]);
            let host = NetNs::of_caller().unwrap();
            echo(&udp(&here, "10.5.0.2"), &udp(&host, "10.5.0.1"));
            if round == 0 {
                adopted.remove().unwrap();
            }
        }
        assert!(names().contains(&"br0".to_owned()));
        let error = Bridge::adopt(name("lo")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let error = Bridge::adopt(name("br7")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        cofferdam_netbridge::delete_link(&br0).unwrap();
    });
}

#[test]
fn the_mac_of_a_bridge_does_not_change_over_fifty_attachments() {
    in_own_netns(|| {
        for (text, addresses) in [("br0", &["10.5.0.1/24"][..]), ("br1", &[])] {
            let bridge = bridge(text, addresses);
            let mac = kernel::mac(text);
            for n in 0..turns(50, 6) as u8 {
                let netns = NetNs::new().unwrap();
                let low = attachment(&["10.5.0.2/24"]).mac([2, 0, 0, 0, 0, n]);
                let port = bridge.attach(&netns, low).unwrap();
                assert_eq!(port.mac(), [2, 0, 0, 0, 0, n]);
                assert_eq!(kernel::mac(text), mac);
                bridge.detach_all([port]).unwrap();
                assert_eq!(kernel::mac(text), mac);
            }
        }
    });
}

#[test]
fn interfaces_are_named_by_rule_and_keep_their_names() {
    in_own_netns(|| {
        let bridges = [
            bridge("br0", &["10.5.0.1/24"]),
            bridge("br1", &["10.6.0.1/24"]),
            bridge("br2", &["10.7.0.1/24"]),
        ];
        let netns = NetNs::new().unwrap();
        let connect = |n: usize| {
            let address = attachment(&[["10.5.0.2", "10.6.0.2", "10.7.0.2"][n]]);
            let port = bridges[n].attach(&netns, address.gateway(Gateway::None));
            port.unwrap()
        };
        let ports = [connect(0), connect(1), connect(2)];
        let given: Vec<&str> = ports.iter().map(|port| port.ifname().as_str()).collect();
        assert_eq!(given, ["eth0", "eth1", "eth2"]);
        let [first, second, third] = ports;
        second.remove().unwrap();
        let inside = netns.run(names).unwrap();
        assert_eq!(inside, ["lo", "eth0", "eth2"]);
        assert_eq!(connect(1).ifname(), &name("eth1"));
        assert_eq!(first.ifname(), &name("eth0"));
        // Twice in one network, too.
        let again = attachment(&["10.7.0.9"]).gateway(Gateway::None);
        let again = bridges[2].attach(&netns, again).unwrap();
        assert_eq!(again.ifname(), &name("eth1"));
        drop(third);
    });
}

#[test]
fn a_container_has_the_routes_it_asked_for() {
    in_own_netns(|| {
        let bridge = bridge("br0", &["10.5.0.1/24", "fd00:5::1/64"]);
        let host = NetNs::of_caller().unwrap();
        let _far = Bridge::builder(name("br1"))
            .address(net("10.99.0.1/24"))
            .create()
            .unwrap();
        let netns = NetNs::new().unwrap();
        let wanted = attachment(&["10.5.0.2", "fd00:5::2"])
            .gateway(Gateway::None)
            .route(Route::via(net("10.99.0.0/24"), ip("10.5.0.1")).metric(7))
            .route(Route::via(net("10.98.0.0/24"), ip("172.16.0.1")).onlink())
            .route(Route::direct(net("10.97.0.0/24")))
            .route(Route::blackhole(net("10.96.0.0/24")))
            .route(Route::unreachable(net("10.95.0.0/24")))
            .route(Route::prohibit(net("fd00:95::/64")));
        let _port = bridge.attach(&netns, wanted).unwrap();
        let here = udp(&netns, "10.5.0.2");
        echo(&here, &udp(&host, "10.99.0.1"));
        for (to, error) in [
            ("10.96.0.1", libc::EINVAL),
            ("10.95.0.1", libc::EHOSTUNREACH),
            ("10.94.0.1", libc::ENETUNREACH),
        ] {
            let refused = here.send_to(b"x", (ip(to), 9)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(error), "{to}");
        }
        for to in ["10.98.0.1", "10.97.0.1"] {
            here.send_to(b"x", (ip(to), 9)).unwrap();
        }
        let refused = udp(&netns, "fd00:5::2").send_to(b"x", (ip("fd00:95::1"), 9));
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EACCES));
    });
}

#[test]
fn a_container_may_have_an_mtu_of_its_own() {
    in_own_netns(|| {
        let bridge = bridge("br0", &["10.5.0.1/24"]);
        let netns = NetNs::new().unwrap();
        let small = attachment(&["10.5.0.2"]).mtu(1300);
        let _port = bridge.attach(&netns, small).unwrap();
        let inside = netns.run(|| kernel::link("eth0").unwrap()).unwrap();
        assert!(inside.attributes.contains(&LinkAttribute::Mtu(1300)));
    });
}

#[test]
fn many_containers_are_detached_at_once() {
    in_own_netns(|| {
        let bridge = bridge("br0", &["10.5.0.1/16"]);
        let other = attach(&bridge, &["10.5.9.9"]);
        let count = turns(100, 30);
        let (namespaces, mut ports): (Vec<_>, Vec<_>) = (0..count)
            .map(|n| attach(&bridge, &[&format!("10.5.1.{}", n + 1)]))
            .unzip();
        // One is gone already.
        cofferdam_netbridge::delete_link(ports[0].name()).unwrap();
        let begin = Instant::now();
        bridge
            .detach_all(ports.drain(..).map(Left::into_inner))
            .unwrap();
        let took = begin.elapsed();
        let left = names();
        assert_eq!(left, ["lo", "br0", other.1.name().as_str()]);
        assert_eq!(namespaces[1].run(names).unwrap(), ["lo"]);
        bridge.detach_all([]).unwrap();
        // One by one it takes the kernel 20 ms and more for each, an emulated one ten times as long.
        let bound = Duration::from_secs(turns(1, 3) as u64);
        assert!(took < bound, "{took:?}");
        let again = attach(&bridge, &["10.5.1.1"]);
        drop((again, other));
    });
}

#[test]
fn ports_of_several_namespaces_are_detached_each_in_its_own() {
    in_own_netns(|| {
        let here = bridge("br0", &["10.5.0.1/24"]);
        let first = attach(&here, &["10.5.0.2"]);
        let host = NetNs::new().unwrap();
        let there = host.run(|| bridge("br0", &["10.5.0.1/24"])).unwrap();
        // There it has the index of a link that stays here.
        let ports: Vec<_> = (2..12)
            .map(|n| attach(&there, &[&format!("10.5.0.{n}")]))
            .collect();
        assert!(
            ports
                .iter()
                .any(|(_, port)| port.index() == first.1.index())
        );
        let second = attach(&here, &["10.5.0.3"]);
        let ports = ports.into_iter().map(|(_, port)| port);
        let all = ports.chain([second.1]).map(Left::into_inner);
        here.detach_all(all).unwrap();
        assert_eq!(names(), ["lo", "br0", first.1.name().as_str()]);
        assert_eq!(host.run(names).unwrap(), ["lo", "br0"]);
    });
}

#[test]
fn a_bridge_picks_a_subnet_of_each_family_that_is_asked_for() {
    in_own_netns(|| {
        let pools = || Pools::default().pool(Pool::ula("host"));
        let taken = pools().pick6("br1").unwrap();
        let first = bridge("br0", &[&taken.to_string().replace("::/", "::1/")]);
        let second = Bridge::builder(name("br1"))
            .pools(pools())
            .create()
            .unwrap();
        let (ipv4, ipv6) = (second.ipv4().unwrap(), second.ipv6().unwrap());
        assert_eq!(second.addresses(), [ipv4, ipv6]);
        assert!(Pool::ula("host").base().contains(ipv6.ip()));
        assert_ne!(ipv6.network(), taken.network());
        let only = Bridge::builder(name("br2")).pools(Pools::new([Pool::ula("host")]));
        let only = only.create().unwrap();
        assert_eq!(only.ipv4(), None);
        let (netns, _port) = attach(&second, &[&next(ipv4), &next(ipv6)]);
        for address in [ipv4, ipv6] {
            let inside = udp(&netns, &next(address));
            let outside = UdpSocket::bind((address.ip(), 0)).unwrap();
            outside.set_read_timeout(Some(DEADLINE)).unwrap();
            inside.send_to(b"x", outside.local_addr().unwrap()).unwrap();
            assert_eq!(outside.recv(&mut [0; 9]).unwrap(), 1);
        }
        drop(first);
    });
}

/// The address behind the one of a bridge.
fn next(address: IpNetwork) -> String {
    match address.ip() {
        IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip) + 1).to_string(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip) + 1).to_string(),
    }
}

#[test]
fn what_no_container_can_have_is_refused_on_a_bridge_of_no_subnet_too() {
    in_own_netns(|| {
        let bridge = bridge("br0", &[]);
        let netns = NetNs::new().unwrap();
        for address in [
            "127.0.0.1/8",
            "0.0.0.0/0",
            "224.0.0.1/4",
            "10.5.0.255/24",
            "::1/128",
        ] {
            let error = bridge.attach(&netns, attachment(&[address])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let small = attachment(&["fd00::2/64"]).mtu(1279);
        let error = bridge.attach(&netns, small).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        for name in ["all", "default"] {
            assert!(name.parse::<IfName>().is_err(), "{name}");
        }
    });
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    in_own_netns(|| {
        let bridge = bridge("br0", &["10.5.0.1/24"]);
        let netns = NetNs::new().unwrap();
        let before = names();
        let one = attachment(&["10.5.0.2"]);
        let crossed = Route::via(net("10.9.0.0/16"), ip("fd00::1"));
        for bad in [
            one.clone().address(net("10.5.0.2/24")),
            one.clone().address(net("10.5.0.1/24")),
            one.clone().address(net("fd00::2/64")),
            one.clone().gateway(Gateway::Address(ip("fd00::1"))),
            one.clone().mac([1, 0, 0, 0, 0, 1]),
            one.clone().route(crossed),
        ] {
            let error = bridge.attach(&netns, bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().starts_with("attach "), "{error}");
        }
        assert_eq!(names(), before);
        let small = Bridge::builder(name("br1")).mtu(1000);
        let error = small.address(net("fd00::1/64")).create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        // Nothing of the failures is claimed.
        bridge.attach(&netns, one).unwrap().remove().unwrap();
    });
}
