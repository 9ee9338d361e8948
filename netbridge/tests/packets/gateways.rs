//! Where the default routes of a container in several networks lead.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cofferdam_netbridge::{
    Attachment, Bridge, ErrorKind, Gateway, Gateways, NetNs, NetworkGateway, Port,
};

use super::{ip, name, net, on_a_host};
use crate::wire::{SOON, Wire, carries, say};

struct Network {
    bridge: Bridge,
    number: u8,
}

impl Network {
    fn new(number: u8) -> Self {
        let builder = Bridge::builder(name(&format!("net{number}")));
        let builder = builder.address(net(&format!("10.{number}.0.1/24")));
        let builder = builder.address(net(&format!("fd00:{number}::1/64")));
        let bridge = builder.create().unwrap();
        Network { bridge, number }
    }

    fn attach(&self, netns: &NetNs, ifname: &str) -> Port {
        let number = self.number;
        let attachment = Attachment::new(net(&format!("10.{number}.0.2/24")))
            .address(net(&format!("fd00:{number}::2/64")))
            .ifname(name(ifname))
            .gateway(Gateway::None);
        self.bridge.attach(netns, attachment).unwrap()
    }

    fn offer(&self, ifname: &str) -> NetworkGateway {
        let number = self.number;
        NetworkGateway::new(name(ifname))
            .ipv4([10, number, 0, 1].into())
            .ipv6(format!("fd00:{number}::1").parse().unwrap())
    }

    fn offer_to(&self, port: &Port) -> NetworkGateway {
        let offer = self.bridge.gateway_of(port);
        assert_eq!(offer, self.offer(port.ifname().as_str()));
        offer
    }

    /// Whether what the container sends elsewhere goes out by this network, in both families.
    fn is_the_way_out(&self, netns: &NetNs) -> bool {
        let wire = Wire::here(self.bridge.name().as_str());
        ["10.99.0.1", "fd99::1"].into_iter().all(|to| {
            wire.drain();
            say(netns, ip(to), b"out");
            wire.incoming(SOON, carries(b"out")).is_some()
        })
    }
}

#[test]
fn the_default_route_is_the_first_networks_and_moves_when_that_leaves() {
    on_a_host(|| {
        let [one, two, three] = [1, 2, 3].map(Network::new);
        let netns = NetNs::new().unwrap();
        let mut gateways = Gateways::new();
        let mut ports = Vec::new();
        // In the order of their names "b" comes before "c"; "a" asks for less.
        for (network, called, priority) in [(&one, "c", 0), (&two, "b", 0), (&three, "a", -1)] {
            let ifname = format!("eth{}", ports.len());
            let port = network.attach(&netns, &ifname);
            let offer = network.offer_to(&port).priority(priority);
            ports.push(port);
            gateways.join(&netns, called, offer).unwrap();
        }
        assert_eq!(gateways.ipv4(), Some(("b", ip("10.2.0.1"))));
        let foreign = one.bridge.gateway_of(&ports[1]);
        assert_eq!(foreign, NetworkGateway::new(name("eth1")));
        assert!(two.is_the_way_out(&netns));
        gateways.leave(&netns, "b").unwrap();
        assert!(one.is_the_way_out(&netns));
        gateways.leave(&netns, "c").unwrap();
        assert!(three.is_the_way_out(&netns));
        let offer = two.offer("eth1").priority(7);
        gateways.join(&netns, "b", offer).unwrap();
        assert!(two.is_the_way_out(&netns));

        // Gone before it left: the routes went with the interface.
        ports.remove(1).remove().unwrap();
        gateways.leave(&netns, "b").unwrap();
        assert_eq!(gateways.ipv6(), Some(("a", ip("fd00:3::1"))));
        assert!(three.is_the_way_out(&netns));
        gateways.leave(&netns, "a").unwrap();
        assert_eq!(gateways.ipv4(), None);
        assert!(!say(&netns, ip("10.99.0.1"), b"out"));
        assert!(!say(&netns, ip("fd99::1"), b"out"));
    });
}

#[test]
fn no_packet_finds_the_default_route_missing_while_it_moves() {
    on_a_host(|| {
        let [one, two] = [1, 2].map(Network::new);
        let netns = NetNs::new().unwrap();
        let _ports = [one.attach(&netns, "eth0"), two.attach(&netns, "eth1")];
        let mut gateways = Gateways::new();
        gateways.join(&netns, "one", one.offer("eth0")).unwrap();
        let done = AtomicBool::new(false);
        // To connect is to look the route up.
        let look_up = || {
            let mut looked = 0;
            while !done.load(Ordering::Relaxed) {
                for (from, to) in [("0.0.0.0:0", "10.99.0.1:9"), ("[::]:0", "[fd99::1]:9")] {
                    let socket = UdpSocket::bind(from).unwrap();
                    socket.connect(to).unwrap();
                }
                looked += 1;
            }
            looked
        };
        thread::scope(|scope| {
            let looking = scope.spawn(|| netns.run(look_up).unwrap());
            for _ in 0..cofferdam_testkit::turns(100, 10) {
                let offer = two.offer("eth1").priority(1);
                gateways.join(&netns, "two", offer).unwrap();
                gateways.leave(&netns, "two").unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(looking.join().unwrap() > 10);
        });
    });
}

#[test]
fn a_default_route_of_the_containers_own_is_left_alone() {
    on_a_host(|| {
        let [one, two] = [1, 2].map(Network::new);
        let netns = NetNs::new().unwrap();
        let _ports = [one.attach(&netns, "eth0"), two.attach(&netns, "eth1")];
        // Made by another's hand.
        let mut others = Gateways::new();
        others.join(&netns, "own", one.offer("eth0")).unwrap();

        let mut gateways = Gateways::new();
        let error = gateways.join(&netns, "two", two.offer("eth1")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert_eq!(gateways, Gateways::new());
        gateways.leave(&netns, "two").unwrap();
        assert!(one.is_the_way_out(&netns));
        // What was made here and taken away by another is made again.
        others.leave(&netns, "own").unwrap();
        gateways.join(&netns, "two", two.offer("eth1")).unwrap();
        gateways.clone().leave(&netns, "two").unwrap();
        gateways.refresh(&netns).unwrap();
        assert!(two.is_the_way_out(&netns));
    });
}

#[test]
fn joining_a_network_whose_interface_is_not_there_changes_nothing() {
    on_a_host(|| {
        let one = Network::new(1);
        let netns = NetNs::new().unwrap();
        let _port = one.attach(&netns, "eth0");
        let mut gateways = Gateways::new();
        gateways.join(&netns, "one", one.offer("eth0")).unwrap();
        let before = gateways.clone();
        for (called, ifname, kind) in [
            ("one", "eth0", ErrorKind::AlreadyExists),
            ("two", "eth1", ErrorKind::NotFound),
        ] {
            let offer = NetworkGateway::new(name(ifname)).ipv4([10, 2, 0, 1].into());
            let error = gateways
                .join(&netns, called, offer.priority(9))
                .unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(gateways, before);
        }
        assert!(one.is_the_way_out(&netns));
    });
}
