use std::fs;

use cofferdam_netbridge::{
    Attachment, ErrorKind, Gateway, Ipvlan, IpvlanBuilder, IpvlanFlag, IpvlanMode, LinkKind,
    Macvlan, NetNs, Sublink,
};

use crate::support::{
    Lan, echo, in_own_netns, ip, name, names_in, net, silence, sysctl, udp, udp_here,
};

const KINDS: &[LinkKind] = &[LinkKind::Ipvlan];

fn ipvlan() -> IpvlanBuilder {
    Ipvlan::builder(name("eth0"))
}

fn attach(network: &Ipvlan, address: &str) -> (NetNs, Sublink) {
    let netns = NetNs::new().unwrap();
    let attachment = Attachment::new(net(address));
    let link = network.attach(&netns, attachment).unwrap();
    (netns, link)
}

fn routes(netns: &NetNs) -> String {
    let read = || fs::read_to_string("/proc/thread-self/net/route").unwrap();
    netns.run(read).unwrap()
}

#[test]
fn in_layer_2_containers_reach_each_other_and_the_network_with_the_parents_hardware_address() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = lan.host(&["10.5.0.2/24"]);
        let network = host.run(|| ipvlan().gateway(ip("10.5.0.1")).create().unwrap());
        let (one, first) = attach(&network, "10.5.0.11/24");
        let (two, second) = attach(&network, "10.5.0.12/24");
        assert_eq!([first.mac(), second.mac()], [host.port.mac(); 2]);
        let here = udp(&one, "10.5.0.11");
        echo(&here, &udp(&two, "10.5.0.12"));
        echo(&here, &udp_here("10.5.0.1"));
        assert!(routes(&one).contains("eth0\t00000000\t0100050A"));
        let off = one.run(|| sysctl("ipv6/conf/eth0/disable_ipv6")).unwrap();
        assert_eq!(off, "1");

        let both = Attachment::new(net("10.5.0.13/24")).address(net("fd00:5::13/64"));
        let netns = NetNs::new().unwrap();
        let _link = network.attach(&netns, both).unwrap();
        echo(&udp(&netns, "fd00:5::13"), &udp_here("fd00:5::1"));
    });
}

#[test]
fn in_layer_3_the_default_route_leads_to_the_link() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        for mode in [IpvlanMode::L3, IpvlanMode::L3s] {
            let host = lan.host(&["10.5.0.2/24"]);
            let network = host.run(|| ipvlan().mode(mode).create().unwrap());
            // Not of the network's subnet: whoever is to reach it has a route to the host.
            let (one, _first) = attach(&network, "10.77.0.11/32");
            let (two, _second) = attach(&network, "10.78.0.12/32");
            assert!(
                routes(&one).contains("eth0\t00000000\t00000000"),
                "{}",
                routes(&one)
            );
            echo(&udp(&one, "10.77.0.11"), &udp(&two, "10.78.0.12"));

            let none = Attachment::new(net("10.77.0.13/32")).gateway(Gateway::None);
            let netns = NetNs::new().unwrap();
            let _link = network.attach(&netns, none).unwrap();
            assert!(!routes(&netns).contains("00000000\t00000000"));
            let by = Attachment::new(net("10.77.0.14/24"));
            let by = by.gateway(Gateway::Address(ip("10.77.0.1")));
            let error = network.attach(NetNs::new().unwrap(), by).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            let error = host.run(|| ipvlan().mode(mode).gateway(ip("10.5.0.1")).create());
            assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    });
}

#[test]
fn with_the_flag_private_containers_reach_the_network_but_not_each_other() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = lan.host(&["10.5.0.2/24"]);
        let private = || ipvlan().flag(IpvlanFlag::Private).create().unwrap();
        let network = host.run(private);
        let (one, _first) = attach(&network, "10.5.0.11/24");
        let (two, _second) = attach(&network, "10.5.0.12/24");
        let here = udp(&one, "10.5.0.11");
        echo(&here, &udp_here("10.5.0.1"));
        silence(&here, &udp(&two, "10.5.0.12"));
        drop((one, two));
        drop((_first, _second));
        let vepa = host.run(|| ipvlan().flag(IpvlanFlag::Vepa).create().unwrap());
        let (one, _first) = attach(&vepa, "10.5.0.13/24");
        echo(&udp(&one, "10.5.0.13"), &udp_here("10.5.0.1"));
    });
}

#[test]
fn a_parent_has_links_of_one_kind() {
    in_own_netns(KINDS, || {
        let lan = Lan::new();
        let host = lan.host(&["10.5.0.2/24"]);
        let (ipvlan, macvlan) = host.run(|| {
            let macvlan = Macvlan::builder(name("eth0")).create().unwrap();
            (ipvlan().create().unwrap(), macvlan)
        });
        let netns = NetNs::new().unwrap();
        let one = Attachment::new(net("10.5.0.11/24"));
        let other = Attachment::new(net("10.5.0.12/24"));
        let link = macvlan.attach(&netns, one.clone()).unwrap();
        let error = ipvlan.attach(&netns, other.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains("a VLAN of it"), "{error}");
        link.remove().unwrap();
        let _link = ipvlan.attach(&netns, one.clone()).unwrap();
        let error = macvlan.attach(&netns, other.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");

        let before = names_in(&netns);
        let error = ipvlan.attach(&netns, other.mac([2; 6])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        // The kernel knows whose the address is.
        let error = ipvlan.attach(NetNs::new().unwrap(), one).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert_eq!(names_in(&netns), before);
    });
}
