//! Alone in its binary: the fds counted are the whole process's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use cofferdam_netbridge::{
    Addresses, Announce, Announcer, Attachment, Bandwidth, Bridge, Gateway, Gateways, IfName,
    InterfaceSysctl, LinkKind, Macvlan, NetNs, NetworkGateway, Pools, Port, Rate, Vxlan, links,
};
use cofferdam_testkit::{Need, Snapshot, have};

#[test]
fn nothing_leaks_an_fd() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    cofferdam_testkit::NetNs::new().run(|| {
        let before = Snapshot::take();
        for _ in 0..5 {
            work();
        }
        let now = Snapshot::take();
        assert_eq!(now.fds, before.fds);
        assert_eq!(now.links, before.links);
    });
}

/// All that works, and failures at each step.
fn work() {
    let bridge = Bridge::builder("br0".parse().unwrap()).create().unwrap();
    assert!(Bridge::builder("br0".parse().unwrap()).create().is_err());
    assert!(
        Bridge::builder("br1".parse().unwrap())
            .mtu(10)
            .create()
            .is_err()
    );
    let mut addresses = Addresses::new(bridge.ipv4().unwrap()).unwrap();
    let netns = NetNs::new().unwrap();
    let attachment = Attachment::new(addresses.allocate().unwrap());
    let port = bridge.attach(&netns, attachment.clone()).unwrap();
    assert!(bridge.attach(&netns, attachment).is_err());
    let nowhere = Gateway::Address("10.99.0.1".parse().unwrap());
    for gateway in [Gateway::Bridge, nowhere] {
        let second = Attachment::new(addresses.allocate().unwrap())
            .ifname("eth1".parse().unwrap())
            .gateway(gateway);
        assert!(bridge.attach(&netns, second).is_err());
    }
    assert_eq!(links().unwrap().len(), 3);
    others(&bridge, &netns, &port);
    assert_eq!(links().unwrap().len(), 3);
    Pools::default().pick("other").unwrap();
    netns.run(|| ()).unwrap();
    port.remove().unwrap();
    bridge.remove().unwrap();
}

/// The other constructors of several steps, each failing at a later one than the last.
fn others(bridge: &Bridge, netns: &NetNs, port: &Port) {
    let eth9: IfName = "eth9".parse().unwrap();
    let no_such: InterfaceSysctl = "net.ipv4.conf.IFNAME.no_such=1".parse().unwrap();
    let last = || Attachment::default().ifname(eth9.clone());
    assert!(
        bridge
            .attach(netns, last().sysctl(no_such.clone()))
            .is_err()
    );
    if LinkKind::Macvlan.available().is_ok() {
        // Of the bridge, which has no port that would have to let go of its frames.
        let network = Macvlan::builder(bridge.name().clone()).create().unwrap();
        assert!(network.attach(netns, last().guard_mac()).is_err());
        assert!(network.attach(netns, last().sysctl(no_such)).is_err());
        network.attach(netns, last()).unwrap().remove().unwrap();
    }
    if LinkKind::Vxlan.available().is_ok() {
        let vxlan = || Vxlan::builder("vx0".parse().unwrap(), 7).mtu(1500);
        assert!(
            vxlan()
                .group("239.0.0.1".parse().unwrap())
                .create()
                .is_err()
        );
        let first = vxlan().create_on(bridge).unwrap();
        assert!(vxlan().create().is_err());
        first.remove().unwrap();
    }
    let rate = Bandwidth::new().ingress(Rate::bits(1 << 20));
    if let Ok(shaper) = port.limit(&rate) {
        assert!(port.limit(&rate).is_err());
        shaper.remove().unwrap();
    }
    let mut gateways = Gateways::new();
    let nowhere = NetworkGateway::new(eth9.clone()).ipv4([10, 99, 0, 1].into());
    assert!(gateways.join(netns, "none", nowhere).is_err());
    let announce = Announce::default();
    assert!(Announcer::open(netns, &eth9, port.mac(), &[], announce).is_err());
}
