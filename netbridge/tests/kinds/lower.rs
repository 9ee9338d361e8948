use cofferdam_netbridge::{
    Attachment, Dummy, ErrorKind, Ipvlan, IpvlanMode, LinkKind, Macvlan, NetNs, Sublink, Vlan,
    VlanId, delete_link, links,
};

use crate::support::{
    Lan, echo, flags, in_own_netns, link_names, name, names_in, net, set_down, silence, sysctl, udp,
};

const VLANS: &[LinkKind] = &[LinkKind::Vlan];
const DUMMIES: &[LinkKind] = &[LinkKind::Dummy];

fn id(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

fn attach(network: &Macvlan, address: &str) -> (NetNs, Sublink) {
    let netns = NetNs::new().unwrap();
    let attachment = Attachment::new(net(address));
    let link = network.attach(&netns, attachment).unwrap();
    (netns, link)
}

#[test]
fn containers_of_one_vlan_talk_across_hosts_and_those_of_another_do_not() {
    in_own_netns(VLANS, || {
        let lan = Lan::new();
        let hosts = ["10.5.0.2/24", "10.5.0.3/24"].map(|address| lan.host(&[address]));
        let networks = [100, 100, 200]
            .iter()
            .zip([&hosts[0], &hosts[1], &hosts[1]]);
        let networks: Vec<Macvlan> = networks
            .map(|(number, host)| {
                let vlan = Vlan::builder(name("eth0"), id(*number));
                host.run(|| Macvlan::builder(vlan).create().unwrap())
            })
            .collect();
        let names: Vec<&str> = networks.iter().map(|n| n.parent().as_str()).collect();
        assert_eq!(names, ["eth0.100", "eth0.100", "eth0.200"]);
        let (one, _a) = attach(&networks[0], "10.9.0.1/24");
        let (two, _b) = attach(&networks[1], "10.9.0.2/24");
        let (three, _c) = attach(&networks[2], "10.9.0.3/24");
        echo(&udp(&one, "10.9.0.1"), &udp(&two, "10.9.0.2"));
        silence(&udp(&one, "10.9.0.1"), &udp(&three, "10.9.0.3"));

        // The host has no IPv6 address by which it would be on the VLAN.
        let off = hosts[0].run(|| sysctl("ipv6/conf/eth0.100/disable_ipv6"));
        assert_eq!(off, "1");
        drop(networks);
        for host in &hosts {
            assert_eq!(
                names_in(&host.netns),
                ["eth0".to_owned(), "lo".to_owned()].into()
            );
        }
        // With the parent the containers' links went.
        assert_eq!(names_in(&one), ["lo".to_owned()].into());
    });
}

#[test]
fn a_vlan_alone_has_its_three_ends() {
    in_own_netns(VLANS, || {
        let lan = Lan::new();
        let host = lan.host(&["10.5.0.2/24"]);
        host.run(|| {
            let before = link_names();
            let make = || {
                Vlan::builder(name("eth0"), id(7))
                    .name(name("v7"))
                    .mtu(1400)
            };
            let vlan = make().create().unwrap();
            assert_eq!(
                (vlan.id(), vlan.mtu(), vlan.name().as_str()),
                (id(7), 1400, "v7")
            );
            let listed = links().unwrap();
            let listed = listed
                .iter()
                .find(|link| link.index == vlan.index())
                .unwrap();
            assert_eq!(listed.kind.as_deref(), Some("vlan"));
            assert_eq!(flags("v7").0 & 1, 1);
            let again = make().name(name("w7")).create().unwrap_err();
            assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{again}");
            vlan.remove().unwrap();
            drop(make().create().unwrap());
            assert_eq!(link_names(), before);
            let left = make().create().unwrap().persist();
            delete_link(&left).unwrap();
            assert_eq!(link_names(), before);

            let error = make().mtu(1501).create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let error = Vlan::builder(name("none0"), id(7)).create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
        });
        set_down(&host.netns, "eth0");
        host.run(|| {
            let vlan = Vlan::builder(name("eth0"), id(7));
            assert_eq!(vlan.clone().create().unwrap_err().kind(), ErrorKind::Busy);
            drop(vlan.parent_up().create().unwrap());
            assert_eq!(flags("eth0").0 & 1, 1);
        });
    });
}

#[test]
fn containers_on_a_dummy_reach_each_other_and_nobody_else() {
    in_own_netns(DUMMIES, || {
        let before = link_names();
        let network = Macvlan::builder(Dummy::builder(name("app0")))
            .create()
            .unwrap();
        let (one, _a) = attach(&network, "10.9.0.1/24");
        let (two, _b) = attach(&network, "10.9.0.2/24");
        echo(&udp(&one, "10.9.0.1"), &udp(&two, "10.9.0.2"));
        let taken = Macvlan::builder(Dummy::builder(name("app0"))).create();
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::AlreadyExists);
        let off = sysctl("ipv6/conf/app0/disable_ipv6");
        assert_eq!(off, "1");
        network.remove().unwrap();
        assert_eq!(link_names(), before);
        assert_eq!(names_in(&one), ["lo".to_owned()].into());

        let network = Macvlan::builder(Dummy::builder(name("app0")))
            .create()
            .unwrap();
        let left = network.persist().unwrap();
        delete_link(&left).unwrap();
        assert_eq!(link_names(), before);
    });
}

#[test]
fn an_ipvlan_on_a_dummy_is_internal_too() {
    in_own_netns(&[LinkKind::Dummy, LinkKind::Ipvlan], || {
        let dummy = Dummy::builder(name("app0")).mtu(9000);
        let network = Ipvlan::builder(dummy)
            .mode(IpvlanMode::L3)
            .create()
            .unwrap();
        assert_eq!(network.mtu(), 9000);
        let ends = ["10.9.0.1", "10.9.0.2"].map(|address| {
            let netns = NetNs::new().unwrap();
            let attachment = Attachment::new(net(&format!("{address}/32")));
            let link = network.attach(&netns, attachment).unwrap();
            (udp(&netns, address), link)
        });
        echo(&ends[0].0, &ends[1].0);
    });
}

#[test]
fn a_network_that_fails_leaves_no_parent() {
    in_own_netns(DUMMIES, || {
        let before = link_names();
        let dummy = || Dummy::builder(name("app0")).mtu(1400);
        let error = Macvlan::builder(dummy()).mtu(1500).create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let ipvlan = Ipvlan::builder(dummy()).mtu(1500);
        if LinkKind::Ipvlan.available().is_ok() {
            assert_eq!(ipvlan.create().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(link_names(), before);
    });
}
