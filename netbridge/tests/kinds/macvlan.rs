use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use cofferdam_netbridge::{
    Attachment, ErrorKind, Gateway, Inspect, InterfaceSysctl, LinkKind, Macvlan, MacvlanBuilder,
    MacvlanMode, NetNs, PortFlag, PortFlags, PortVlans, Result, Route, Sublink, delete_link,
};
use cofferdam_testkit::{Snapshot, turns};

use crate::support::{
    Host, Lan, echo, flags, in_own_netns, ip, link_names, name, names_in, net, set_down, silence,
    sysctl, udp, udp_here,
};

const KINDS: &[LinkKind] = &[LinkKind::Macvlan];

/// The machine the containers are on: 10.5.0.2, with the link `eth0`.
fn host(lan: &Lan) -> Host {
    lan.host(&["10.5.0.2/24", "fd00:5::2/64"])
}

fn macvlan() -> MacvlanBuilder {
    Macvlan::builder(name("eth0"))
}

fn of(mode: MacvlanMode) -> Macvlan {
    macvlan().mode(mode).create().unwrap()
}

fn attach(network: &Macvlan, address: &str) -> (NetNs, Sublink) {
    let netns = NetNs::new().unwrap();
    let attachment = Attachment::new(net(address));
    let link = network.attach(&netns, attachment).unwrap();
    (netns, link)
}

#[test]
fn in_mode_bridge_containers_reach_each_other_and_the_network_but_not_the_host() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let before = host.run(|| flags("eth0"));
        host.run(|| {
            let network = of(MacvlanMode::Bridge);
            let (one, _first) = attach(&network, "10.5.0.11/24");
            let (two, _second) = attach(&network, "10.5.0.12/24");
            let here = udp(&one, "10.5.0.11");
            echo(&here, &udp(&two, "10.5.0.12"));
            let host_socket = udp(&host.netns, "10.5.0.2");
            silence(&here, &host_socket);
            silence(&host_socket, &here);
        });
        let router = udp_here("10.5.0.1");
        let (one, link) = host.run(|| attach(&of(MacvlanMode::Bridge), "10.5.0.13/24"));
        echo(&udp(&one, "10.5.0.13"), &router);
        drop(link);
        assert_eq!(host.run(|| flags("eth0")), before);
    });
}

#[test]
fn in_mode_private_containers_reach_the_network_but_not_each_other() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let network = host.run(|| of(MacvlanMode::Private));
        let (one, _first) = attach(&network, "10.5.0.11/24");
        let (two, _second) = attach(&network, "10.5.0.12/24");
        let here = udp(&one, "10.5.0.11");
        echo(&here, &udp_here("10.5.0.1"));
        host.reflect(true);
        silence(&here, &udp(&two, "10.5.0.12"));
    });
}

#[test]
fn in_mode_vepa_containers_reach_each_other_by_the_switch() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let network = host.run(|| of(MacvlanMode::Vepa));
        let (one, _first) = attach(&network, "10.5.0.11/24");
        let (two, _second) = attach(&network, "10.5.0.12/24");
        let there = udp(&two, "10.5.0.12");
        silence(&udp(&one, "10.5.0.11"), &there);
        host.reflect(true);
        echo(&udp(&one, "10.5.0.11"), &udp(&two, "10.5.0.12"));
    });
}

#[test]
fn in_mode_passthru_a_container_has_the_parent_for_itself() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let (netns, link) = host.run(|| {
            let quiet = flags("eth0");
            let network = of(MacvlanMode::Passthru);
            let given = Attachment::new(net("10.5.0.11/24")).mac([2; 6]);
            let error = network.attach(NetNs::new().unwrap(), given).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");

            let (netns, link) = attach(&network, "10.5.0.11/24");
            assert_eq!(link.mac(), host.port.mac());
            assert_eq!(flags("eth0"), quiet);
            let second = NetNs::new().unwrap();
            let attachment = Attachment::new(net("10.5.0.12/24"));
            let error = network.attach(&second, attachment).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains("passthru"), "{error}");
            assert_eq!(names_in(&second), ["lo".to_owned()].into());
            (netns, link)
        });
        echo(&udp(&netns, "10.5.0.11"), &udp_here("10.5.0.1"));
        link.remove().unwrap();

        host.run(|| {
            let (_, quiet) = flags("eth0");
            let loud = macvlan().mode(MacvlanMode::Passthru).promiscuous();
            let network = loud.create().unwrap();
            let (_netns, _link) = attach(&network, "10.5.0.11/24");
            assert_eq!(flags("eth0").1, quiet + 1);
        });
    });
}

#[test]
fn in_mode_source_only_the_senders_listed_are_heard() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let router = udp_here("10.5.0.1");
        let host = host(&lan);
        let sender = lan.host(&["10.5.0.3/24"]);
        let network = host.run(|| of(MacvlanMode::Source(vec![sender.port.mac()])));
        let (netns, link) = attach(&network, "10.5.0.11/24");
        let inside = udp(&netns, "10.5.0.11");
        echo(&udp(&sender.netns, "10.5.0.3"), &inside);
        silence(&router, &inside);

        link.set_sources(&[lan_mac(), [2; 6]]).unwrap();
        // Not what may still wait for an answer to ARP.
        echo(&router, &udp(&netns, "10.5.0.11"));
        for bad in [[0; 6], [0xff; 6]] {
            let error = link.set_sources(&[bad]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        let bridged = host.run(|| of(MacvlanMode::Bridge));
        let (_netns, other) = attach(&bridged, "10.5.0.12/24");
        let error = other.set_sources(&[[2; 6]]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    });
}

/// The hardware address of the bridge that is the network: the one derived of 10.5.0.1.
fn lan_mac() -> [u8; 6] {
    [0x02, 0x42, 10, 5, 0, 1]
}

#[test]
fn a_container_has_what_was_asked_for() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let builder = macvlan().gateway(ip("10.5.0.1")).mtu(1400);
        let network = host.run(|| builder.create().unwrap());
        assert_eq!(network.parent(), &name("eth0"));
        let netns = NetNs::new().unwrap();
        let attachment = Attachment::new(net("10.5.0.11/24"))
            .address(net("fd00:5::11/64"))
            .mac([2, 1, 2, 3, 4, 5])
            .ifname(name("net0"))
            .route(Route::via(net("10.6.0.0/16"), ip("10.5.0.9")))
            .route(Route::blackhole(net("169.254.169.254/32")));
        let link = network.attach(&netns, attachment).unwrap();
        assert_eq!(link.mac(), [2, 1, 2, 3, 4, 5]);
        assert_eq!(link.ifname(), &name("net0"));
        assert_eq!(link.addresses().len(), 2);
        assert_eq!(
            names_in(&netns),
            ["lo".to_owned(), "net0".to_owned()].into()
        );

        echo(&udp(&netns, "10.5.0.11"), &udp_here("10.5.0.1"));
        echo(&udp(&netns, "fd00:5::11"), &udp_here("fd00:5::1"));
        let read =
            |file: &str| netns.run(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")));
        let routes = read("route").unwrap().unwrap();
        // The default route, by 10.5.0.1.
        assert!(routes.contains("net0\t00000000\t0100050A"), "{routes}");
        assert!(routes.contains("net0\t0000060A\t0900050A"), "{routes}");
        assert!(routes.contains("FEA9FEA9"), "{routes}");
        let mtu = netns.run(|| sysctl("ipv6/conf/net0/mtu")).unwrap();
        assert_eq!(mtu, "1400");

        // Without an address of IPv6 there is none of it.
        let (other, link) = attach(&network, "10.5.0.12/24");
        assert_eq!(link.ifname(), &name("eth0"));
        assert_eq!(link.mac(), [0x02, 0x42, 10, 5, 0, 12]);
        let off = other.run(|| sysctl("ipv6/conf/eth0/disable_ipv6")).unwrap();
        assert_eq!(off, "1");
        // A second network of the same container.
        let second = Attachment::new(net("10.5.0.13/24")).gateway(Gateway::None);
        let second = network.attach(&other, second).unwrap();
        assert_eq!(second.ifname(), &name("eth1"));
    });
}

#[test]
fn the_first_packet_after_attach_is_not_lost() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let network = host.run(|| of(MacvlanMode::Bridge));
        let router = udp_here("10.5.0.1");
        let count = turns(10, 5);
        let mut times: Vec<Duration> = (20..20 + count)
            .map(|number| {
                let netns = NetNs::new().unwrap();
                let socket = udp(&netns, "0.0.0.0");
                let attachment = Attachment::new(net(&format!("10.5.0.{number}/24")));
                let link = network.attach(&netns, attachment).unwrap();
                let begin = Instant::now();
                socket
                    .send_to(b"ping", router.local_addr().unwrap())
                    .unwrap();
                router.recv_from(&mut [0; 4]).unwrap();
                link.persist();
                begin.elapsed()
            })
            .collect();
        // A lost ARP request is sent again after a second. A slow one is the machine's.
        times.sort();
        assert!(times[count - 2] < Duration::from_millis(500), "{times:?}");
    });
}

#[test]
fn a_link_has_its_three_ends_and_the_parent_stays() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        host.run(|| {
            let before = link_names();
            let network = of(MacvlanMode::Bridge);
            let only_lo = ["lo".to_owned()].into();
            let (netns, link) = attach(&network, "10.5.0.11/24");
            link.remove().unwrap();
            assert_eq!(names_in(&netns), only_lo);
            let (netns, link) = attach(&network, "10.5.0.11/24");
            drop(link);
            assert_eq!(names_in(&netns), only_lo);
            let (netns, link) = attach(&network, "10.5.0.11/24");
            let left = link.persist();
            assert!(names_in(&netns).contains(left.as_str()));
            netns.run(|| delete_link(&left)).unwrap().unwrap();
            assert_eq!(names_in(&netns), only_lo);

            // One that was deleted by another is removed without an error.
            let (netns, link) = attach(&network, "10.5.0.11/24");
            netns.run(|| delete_link(link.ifname())).unwrap().unwrap();
            link.remove().unwrap();
            assert_eq!(network.persist(), None);
            of(MacvlanMode::Bridge).remove().unwrap();
            assert_eq!(link_names(), before);
        });
    });
}

#[test]
fn a_neighbour_hears_at_once_of_an_address_that_moved() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let network = host.run(|| of(MacvlanMode::Bridge));
        let (one, _first) = attach(&network, "10.5.0.11/24");
        for last in [1, 2] {
            let netns = NetNs::new().unwrap();
            let attachment = Attachment::new(net("10.5.0.12/24")).mac([2, 0, 0, 0, 0, last]);
            let link = network.attach(&netns, attachment).unwrap();
            if last == 1 {
                echo(&udp(&one, "10.5.0.11"), &udp(&netns, "10.5.0.12"));
            }
            let known = Inspect::of(&one).unwrap().neighbours().unwrap();
            let known = known.iter().find(|n| n.address == ip("10.5.0.12"));
            assert_eq!(known.unwrap().mac, Some(link.mac()));
            link.remove().unwrap();
        }
    });
}

#[test]
fn what_fails_leaves_no_link_in_the_container() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let network = host.run(|| of(MacvlanMode::Bridge));
        let (netns, _link) = attach(&network, "10.5.0.11/24");
        let before = names_in(&netns);
        let one = || Attachment::new(net("10.5.0.12/24"));
        let fails = |attachment: Attachment, kind: ErrorKind| {
            let error = network.attach(&netns, attachment).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(names_in(&netns), before, "{error}");
        };
        fails(one().ifname(name("eth0")), ErrorKind::AlreadyExists);
        fails(one().host_ifname(name("x0")), ErrorKind::InvalidInput);
        fails(one().mtu(1501), ErrorKind::InvalidInput);
        fails(one().guard_mac(), ErrorKind::InvalidInput);
        let isolated = PortFlags::new().on(PortFlag::Isolated);
        fails(one().flags(isolated), ErrorKind::InvalidInput);
        fails(one().vlans(PortVlans::none()), ErrorKind::InvalidInput);
        let no_such: InterfaceSysctl = "net.ipv4.conf.IFNAME.no_such=1".parse().unwrap();
        fails(one().sysctl(no_such), ErrorKind::NotFound);
        fails(one().mac([1; 6]), ErrorKind::InvalidInput);
        let far = Gateway::Address(ip("10.7.0.1"));
        fails(one().gateway(far), ErrorKind::InvalidInput);
        for address in [
            "10.5.0.0/24",
            "10.5.0.255/24",
            "224.0.0.1/24",
            "127.0.0.1/8",
        ] {
            fails(Attachment::new(net(address)), ErrorKind::InvalidInput);
        }
        let no_netns = fs::File::open("/dev/null").unwrap();
        assert!(network.attach(no_netns.as_fd(), one()).is_err());
    });
}

#[test]
fn a_parent_that_cannot_be_one_is_refused() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let kind = |done: Result<Macvlan>| done.unwrap_err().kind();
        let none = Macvlan::builder(name("none0"));
        assert_eq!(kind(none.create()), ErrorKind::NotFound);
        host.run(|| {
            assert_eq!(kind(macvlan().mtu(1501).create()), ErrorKind::InvalidInput);
        });
        // A port of a bridge is the bridge's.
        let port = Macvlan::builder(host.port.name().clone()).create().unwrap();
        let netns = NetNs::new().unwrap();
        let error = port
            .attach(&netns, Attachment::new(net("10.5.0.11/24")))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains("a VLAN of it"), "{error}");
        assert_eq!(names_in(&netns), ["lo".to_owned()].into());

        // One that is down is an error, and is set up only where that is asked for.
        set_down(&host.netns, "eth0");
        host.run(|| {
            let error = macvlan().create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy);
            assert!(error.to_string().contains("parent_up"), "{error}");
            assert_eq!(flags("eth0").0 & 1, 0);
            let network = macvlan().parent_up().create().unwrap();
            assert_eq!(flags("eth0").0 & 1, 1);
            drop(network);
            assert_eq!(flags("eth0").0 & 1, 1);
        });
    });
}

/// Linux 6.4 knows it; the kernel of the VM leaves it out without a word.
#[test]
fn an_option_the_kernel_leaves_out_is_an_error() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let netns = NetNs::new().unwrap();
        let attachment = Attachment::new(net("10.5.0.11/24"));
        let queue = host.run(|| macvlan().bc_queue_len(2000).create().unwrap());
        queue
            .attach(&netns, attachment.clone())
            .unwrap()
            .remove()
            .unwrap();
        let cutoff = host.run(|| macvlan().bc_cutoff(-1).create().unwrap());
        match cutoff.attach(&netns, attachment) {
            Ok(link) => link.remove().unwrap(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                assert!(error.to_string().contains("6.4"), "{error}");
            }
        }
        assert_eq!(names_in(&netns), ["lo".to_owned()].into());
    });
}

#[test]
fn many_threads_attach_and_remove_at_once() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = host(&lan);
        let network = host.run(|| of(MacvlanMode::Bridge));
        let before = host.run(|| Snapshot::take().links);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let network = &network;
                scope.spawn(move || {
                    for turn in 0..turns(5, 2) {
                        let address = format!("10.5.0.{}/24", 50 + thread * 10 + turn);
                        let (netns, link) = attach(network, &address);
                        assert_eq!(names_in(&netns).len(), 2);
                        link.remove().unwrap();
                    }
                });
            }
        });
        assert_eq!(host.run(|| Snapshot::take().links), before);
    });
}
