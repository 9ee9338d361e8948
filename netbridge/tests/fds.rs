//! Alone in its binary: the fds counted are the whole process's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use cofferdam_netbridge::{Addresses, Attachment, Bridge, Gateway, NetNs, Pools, links};
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
    Pools::default().pick("other").unwrap();
    netns.run(|| ()).unwrap();
    port.remove().unwrap();
    bridge.remove().unwrap();
}
