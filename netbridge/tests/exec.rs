//! Nothing here needs a program: not a path of it may run one.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Command;

use cofferdam_netbridge::ipam::{Family, Ipam, LeaseRequest, NetworkSpec};
use cofferdam_netbridge::{
    Attachment, Bandwidth, Bridge, Fdb, IfName, Inspect, Macvlan, NetNs, Pools, Rate, Vxlan,
    enable_forwarding_on, links,
};
use cofferdam_testkit::{Need, have, refuse_syscall};

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

#[test]
fn nothing_is_executed_to_connect_and_disconnect() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    cofferdam_testkit::NetNs::new().run(|| {
        // Of this thread, and of all that it starts.
        refuse_syscall(libc::SYS_execve);
        refuse_syscall(libc::SYS_execveat);
        assert!(Command::new("/bin/true").status().is_err());
        let world = NetNs::new().unwrap();
        world.run(bridged).unwrap();
        world.run(lower).unwrap();
        let inside = || links().unwrap().len();
        assert_eq!(world.run(inside).unwrap(), 1);
    });
}

/// A bridge, IPAM by files, an attachment, limits.
fn bridged() {
    let store = std::env::temp_dir().join(format!("cofferdam-exec-{}", std::process::id()));
    let ipam = Ipam::open(&store).unwrap();
    let spec = NetworkSpec::new().pick(Family::V4, Pools::default());
    let network = ipam.create("app", &spec).unwrap();
    let gateway = network.gateway(Family::V4).unwrap();
    let builder = Bridge::builder(name("br0")).address(gateway).forwarding();
    let bridge = builder.create().unwrap();
    enable_forwarding_on(bridge.name()).unwrap();
    let leased = ipam.lease("app", &LeaseRequest::new("one")).unwrap();
    let attachment = Attachment::new(leased.addresses[0]).guard_mac();
    let netns = NetNs::new().unwrap();
    let port = bridge.attach(&netns, attachment).unwrap();
    let bandwidth = Bandwidth::new().ingress(Rate::bits(10_000_000));
    port.limit(&bandwidth).unwrap().remove().unwrap();
    assert!(Inspect::of(&netns).unwrap().links().unwrap().len() == 2);
    port.remove().unwrap();
    let attachment = Attachment::new(leased.addresses[0]);
    let port = bridge.attach(&netns, attachment).unwrap();
    bridge.detach_all([port]).unwrap();
    bridge.remove().unwrap();
    assert_eq!(ipam.release_owner("one").unwrap().len(), 1);
    std::fs::remove_dir_all(&store).unwrap();
}

/// What is made upon another link.
fn lower() {
    let builder = Bridge::builder(name("lan0")).address("10.5.0.1/24".parse().unwrap());
    let lan = builder.create().unwrap();
    let macvlan = Macvlan::builder(lan.name().clone()).create().unwrap();
    let netns = NetNs::new().unwrap();
    let attachment = Attachment::new("10.5.0.2/24".parse().unwrap());
    let port = macvlan.attach(&netns, attachment).unwrap();
    port.remove().unwrap();
    macvlan.remove().unwrap();
    let builder = Vxlan::builder(name("vx0"), 7).local("10.5.0.1".parse().unwrap());
    let vxlan = builder.create().unwrap();
    let flood = Fdb::flood("10.5.0.9".parse().unwrap());
    vxlan.add_fdb(flood).unwrap();
    vxlan.remove().unwrap();
    lan.remove().unwrap();
}
