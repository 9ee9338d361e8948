use std::net::IpAddr;

use cofferdam_netbridge::{
    Attachment, Bridge, ErrorKind, Fdb, LinkKind, NetNs, Port, Vxlan, VxlanBuilder, delete_link,
    links,
};

use crate::support::{
    Host, Lan, echo, in_own_netns, ip, link_names, name, net, silence, sysctl, udp,
};

const KINDS: &[LinkKind] = &[LinkKind::Vxlan];
const VNI: u32 = 42;

/// A machine with a bridge that a VXLAN link connects with others, and a container on it.
struct Node {
    container: NetNs,
    port: Port,
    vxlan: Vxlan,
    bridge: Bridge,
    _host: Host,
    at: IpAddr,
}

impl Node {
    /// The container of node `number` is 10.9.0.`number`.
    fn new(
        lan: &Lan,
        number: u8,
        family: &str,
        vxlan: impl Fn(VxlanBuilder) -> VxlanBuilder + Sync,
    ) -> Self {
        let at = format!("{family}{}", number + 100);
        let prefix = if at.contains(':') { 64 } else { 24 };
        let host = lan.host(&[&format!("{at}/{prefix}")]);
        let container = NetNs::new().unwrap();
        let builder = vxlan(Vxlan::builder(name("vx0"), VNI).local(ip(&at)));
        let (bridge, vxlan, port) = host.run(|| {
            let bridge = Bridge::builder(name("app0"))
                .address(net("10.9.0.254/24"))
                .mtu(1500 - builder.overhead())
                .create()
                .unwrap();
            let vxlan = builder.create_on(&bridge).unwrap();
            let address = net(&format!("10.9.0.{number}/24"));
            let attachment = Attachment::new(address);
            let port = bridge.attach(&container, attachment).unwrap();
            (bridge, vxlan, port)
        });
        Node {
            container,
            port,
            vxlan,
            bridge,
            _host: host,
            at: ip(&at),
        }
    }

    fn fdb(&self) -> Fdb {
        Fdb::new(self.port.mac(), self.at)
    }
}

fn talk(one: &Node, other: &Node) {
    let socket = |node: &Node| udp(&node.container, &node.port.addresses()[0].ip().to_string());
    let (here, there) = (socket(one), socket(other));
    echo(&here, &there);
    echo(&there, &here);
}

#[test]
fn two_hosts_whose_entries_are_fed_talk_and_flood_nothing() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        for family in ["10.5.0.", "fd00:5::"] {
            let node = |number| Node::new(&lan, number, family, |v| v.no_learning().proxy());
            let (one, two) = (node(1), node(2));
            for (at, of) in [(&one, &two), (&two, &one)] {
                at.vxlan.add_fdb(of.fdb()).unwrap();
                let address = of.port.addresses()[0].ip();
                at.vxlan.add_neighbour(address, of.port.mac()).unwrap();
            }
            talk(&one, &two);
            let expected = [two.fdb()];
            let entries: Vec<_> = one.vxlan.fdb().unwrap();
            assert_eq!(entries.iter().map(|e| e.fdb).collect::<Vec<_>>(), expected);
            assert!(entries.iter().all(|entry| !entry.learned), "{entries:?}");

            // Without them nobody is found.
            one.vxlan.remove_fdb(two.fdb()).unwrap();
            one.vxlan.remove_neighbour(ip("10.9.0.2")).unwrap();
            let from = udp(&one.container, "10.9.0.1");
            silence(&from, &udp(&two.container, "10.9.0.2"));
        }
    });
}

#[test]
fn an_entry_can_be_removed_once_its_container_lives_here() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let node = |number| Node::new(&lan, number, "10.5.0.", |v| v.no_learning().proxy());
        let (one, two) = (node(1), node(2));
        one.vxlan.add_fdb(two.fdb()).unwrap();
        let moved = NetNs::new().unwrap();
        let attachment = Attachment::new(two.port.addresses()[0]);
        let port = one.bridge.attach(&moved, attachment).unwrap();
        assert_eq!(port.mac(), two.port.mac());
        // It has said where it is, and the bridge has heard it.
        let (here, there) = (udp(&one.container, "10.9.0.1"), udp(&moved, "10.9.0.2"));
        echo(&there, &here);
        one.vxlan.remove_fdb(two.fdb()).unwrap();
        assert!(one.vxlan.fdb().unwrap().is_empty());
        echo(&here, &there);
        let again = one.vxlan.remove_fdb(two.fdb()).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn hosts_that_flood_to_each_other_learn_where_containers_are() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let nodes = [1, 2, 3].map(|number| Node::new(&lan, number, "10.5.0.", |v| v));
        for one in &nodes {
            for other in nodes.iter().filter(|other| other.at != one.at) {
                one.vxlan.add_fdb(Fdb::flood(other.at)).unwrap();
                // Once more is no failure, and no second frame.
                one.vxlan.add_fdb(Fdb::flood(other.at)).unwrap();
            }
        }
        let [one, two, three] = &nodes;
        talk(one, two);
        talk(one, three);
        talk(two, three);
        let learned = one.vxlan.fdb().unwrap().into_iter();
        let learned: Vec<Fdb> = learned.filter(|e| e.learned).map(|e| e.fdb).collect();
        assert!(
            learned.contains(&two.fdb()) && learned.contains(&three.fdb()),
            "{learned:?}"
        );
        assert_eq!(
            two.vxlan
                .fdb()
                .unwrap()
                .iter()
                .filter(|e| !e.learned)
                .count(),
            2
        );
    });
}

#[test]
fn hosts_of_a_multicast_group_find_each_other() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        for (family, group) in [("10.5.0.", "239.1.1.1"), ("fd00:5::", "ff05::1:1")] {
            let grouped = |v: VxlanBuilder| v.group(ip(group)).dev(name("eth0"));
            let node = |number| Node::new(&lan, number, family, grouped);
            talk(&node(1), &node(2));
        }
    });
}

#[test]
fn a_link_to_one_other_host_needs_no_entry() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let one = Node::new(&lan, 1, "10.5.0.", |v| {
            v.remote(ip("10.5.0.102")).port(8472)
        });
        let two = Node::new(&lan, 2, "10.5.0.", |v| {
            v.remote(ip("10.5.0.101")).port(8472)
        });
        talk(&one, &two);
    });
}

#[test]
fn another_vni_is_another_network() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let one = Node::new(&lan, 1, "10.5.0.", |v| v.remote(ip("10.5.0.102")));
        let two = Node::new(&lan, 2, "10.5.0.", |v| v.remote(ip("10.5.0.101")));
        let wanted = udp(&two.container, "10.9.0.2");
        echo(&udp(&one.container, "10.9.0.1"), &wanted);
        two.vxlan.remove().unwrap();
        let bridge = two.bridge;
        let other = Vxlan::builder(name("vx1"), VNI + 1).remote(ip("10.5.0.101"));
        let _other = other.create_on(&bridge).unwrap();
        silence(&udp(&one.container, "10.9.0.1"), &wanted);
    });
}

#[test]
fn entries_are_added_moved_and_removed() {
    in_own_netns(KINDS, || {
        let vxlan = Vxlan::builder(name("vx0"), VNI).no_learning();
        let vxlan = vxlan.local(ip("127.0.0.1")).create().unwrap();
        let mac = [2, 0, 0, 0, 0, 9];
        let (here, there) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let fdb = || -> Vec<Fdb> {
            let entries = vxlan.fdb().unwrap();
            entries.iter().map(|entry| entry.fdb).collect()
        };
        let kind = |done: cofferdam_netbridge::Result<()>| done.unwrap_err().kind();

        vxlan.add_fdb(Fdb::new(mac, here)).unwrap();
        assert_eq!(
            kind(vxlan.add_fdb(Fdb::new(mac, there))),
            ErrorKind::AlreadyExists
        );
        assert_eq!(fdb(), [Fdb::new(mac, here)]);
        vxlan.replace_fdb(Fdb::new(mac, there)).unwrap();
        assert_eq!(fdb(), [Fdb::new(mac, there)]);
        // The one that leads elsewhere stays.
        let _the_kernel_says_so_or_not = vxlan.remove_fdb(Fdb::new(mac, here)).is_ok();
        assert_eq!(fdb(), [Fdb::new(mac, there)]);
        vxlan.remove_fdb(Fdb::new(mac, there)).unwrap();
        assert_eq!(
            kind(vxlan.remove_fdb(Fdb::new(mac, there))),
            ErrorKind::NotFound
        );

        for host in [here, there] {
            vxlan.add_fdb(Fdb::flood(host)).unwrap();
        }
        assert_eq!(fdb(), [Fdb::flood(here), Fdb::flood(there)]);
        vxlan.remove_fdb(Fdb::flood(here)).unwrap();
        assert_eq!(fdb(), [Fdb::flood(there)]);

        for bad in [
            vxlan.replace_fdb(Fdb::flood(here)),
            vxlan.add_fdb(Fdb::flood(ip("fd00::1"))),
            vxlan.add_fdb(Fdb::flood(ip("0.0.0.0"))),
            vxlan.add_neighbour(here, mac),
        ] {
            assert_eq!(kind(bad), ErrorKind::InvalidInput);
        }
        assert_eq!(fdb(), [Fdb::flood(there)]);
    });
}

#[test]
fn what_fails_leaves_no_link() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = lan.host(&["10.5.0.2/24"]);
        host.run(|| {
            let bridge = Bridge::builder(name("app0")).address(net("10.9.0.1/24"));
            let bridge = bridge.create().unwrap();
            let vxlan = |index: &str| Vxlan::builder(name(index), VNI).local(ip("10.5.0.2"));
            let before = link_names();

            let error = vxlan("vx0").create_on(&bridge).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("1450"), "{error}");
            let error = vxlan("vx0").dev(name("none0")).create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
            let error = vxlan("vx0").dev(name("eth0")).mtu(1451).create();
            assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
            let error = vxlan("eth0").create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            assert_eq!(link_names(), before);

            let first = vxlan("vx0").create().unwrap();
            assert_eq!(first.mtu(), 1450);
            let error = vxlan("vx1").create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
            let _taken = std::net::UdpSocket::bind("0.0.0.0:4790").unwrap();
            let error = vxlan("vx1").port(4790).create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
            first.remove().unwrap();
            assert_eq!(link_names(), before);
        });
    });
}

#[test]
fn a_link_has_its_three_ends_and_no_address() {
    in_own_netns(KINDS, || {
        let make = || {
            let vxlan = Vxlan::builder(name("vx0"), 0x00ff_ffff).mtu(1400);
            vxlan.create().unwrap()
        };
        let before = link_names();
        let vxlan = make();
        assert_eq!((vxlan.vni(), vxlan.mtu()), (0x00ff_ffff, 1400));
        let listed = links().unwrap();
        let listed = listed.iter().find(|link| link.index == vxlan.index());
        assert_eq!(listed.unwrap().kind.as_deref(), Some("vxlan"));
        let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        assert!(!table.contains("vx0"), "{table}");
        assert_eq!(sysctl("ipv6/conf/vx0/mtu"), "1400");
        for key in ["accept_ra", "autoconf", "accept_redirects"] {
            assert_eq!(sysctl(&format!("ipv6/conf/vx0/{key}")), "0", "{key}");
        }
        assert_eq!(sysctl("ipv4/conf/vx0/accept_redirects"), "0");
        vxlan.remove().unwrap();
        assert_eq!(link_names(), before);
        drop(make());
        assert_eq!(link_names(), before);
        let left = make().persist();
        assert!(link_names().contains("vx0"));
        delete_link(&left).unwrap();
        assert_eq!(link_names(), before);
    });
}
