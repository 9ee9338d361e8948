//! An internal network is one of its own, whatever the host forwards.

use std::net::IpAddr;
use std::time::Duration;

use cofferdam_netbridge::{Attachment, Bridge, Gateway, NetNs};

use super::{Container, bridge, ip, name, net, on_a_host, set};
use crate::wire::{
    BROADCAST, Mac, QUIET, SOON, Wire, hears, listener, router_advertisement, say, udp,
};

/// A host that forwards between a network of the usual kind and an internal one.
struct World {
    app: Bridge,
    inner: Bridge,
    outside: Container,
    inside: Container,
    neighbour: Container,
}

const ADDRESSES: [&str; 2] = ["10.1.0.2/24", "fd00:1::2/64"];

fn internal() -> Bridge {
    let builder = Bridge::builder(name("inner")).address(net("10.2.0.1/24"));
    let builder = builder.address(net("fd00:2::1/64"));
    builder.internal().create().unwrap()
}

fn attachment(address: &str, second: &str) -> Attachment {
    Attachment::new(net(address)).address(net(second))
}

impl World {
    fn new(inner: impl FnOnce() -> Bridge) -> Self {
        let builder = Bridge::builder(name("app")).address(net("10.1.0.1/24"));
        let app = builder.address(net("fd00:1::1/64")).create().unwrap();
        let inner = inner();
        let none = |at| attachment(&format!("10.2.0.{at}/24"), &format!("fd00:2::{at}/64"));
        let inside = Container::attach(&inner, none(2).gateway(Gateway::None));
        let neighbour = Container::attach(&inner, none(3).gateway(Gateway::None));
        let outside = Container::attach(&app, attachment(ADDRESSES[0], ADDRESSES[1]));
        World {
            app,
            inner,
            outside,
            inside,
            neighbour,
        }
    }

    /// What a container sends to the host's own hardware address, for the host to route on.
    fn sent_from_inside(&self, host: Mac, to: &str, payload: &[u8]) {
        let from = if to.contains(':') {
            "fd00:2::2"
        } else {
            "10.2.0.2"
        };
        let from = (self.inside.mac(), ip(from));
        let frame = udp((host, ip(to)), from, payload);
        self.inside.wire().send(&frame);
    }
}

/// Everything that makes a host route, at once.
fn forward_everything() {
    for (path, value) in [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/all/forwarding", "1"),
    ] {
        set(path, value);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Forwarding {
    First,
    Last,
}

fn world(order: Forwarding, inner: impl FnOnce() -> Bridge) -> World {
    if order == Forwarding::First {
        forward_everything();
    }
    let world = World::new(inner);
    if order == Forwarding::Last {
        forward_everything();
    }
    world
}

/// What of those a container inside got through to, by the host.
fn reached_from_inside(world: &World, host: Mac) -> Vec<&'static str> {
    let here = NetNs::of_caller().unwrap();
    let (outside, own) = (listener(&world.outside.netns), listener(&here));
    let mut reached = Vec::new();
    for (to, target) in [
        ("10.1.0.2", host),
        ("fd00:1::2", host),
        ("10.1.0.1", host),
        ("fd00:1::1", host),
        ("10.1.0.1", BROADCAST),
        ("10.2.0.1", host),
    ] {
        let socket = if to.ends_with('2') { &outside } else { &own };
        world.sent_from_inside(target, to, to.as_bytes());
        if hears(socket, QUIET, to.as_bytes()) {
            reached.push(to);
        }
    }
    reached
}

fn is_apart(order: Forwarding, inner: impl FnOnce() -> Bridge, host: impl FnOnce(&World) -> Mac) {
    let world = world(order, inner);
    let (inside, neighbour) = (
        listener(&world.inside.netns),
        listener(&world.neighbour.netns),
    );
    let host = host(&world);
    assert_eq!(reached_from_inside(&world, host), [""; 0], "{order:?}");

    // Nor does anything get in, neither by the host nor of the host.
    let here = NetNs::of_caller().unwrap();
    for to in ["10.2.0.2", "fd00:2::2"] {
        say(&world.outside.netns, ip(to), b"from outside");
        say(&here, ip(to), b"from the host");
    }
    assert!(!hears(&inside, QUIET, b"from outside"), "{order:?}");
    assert!(!hears(&inside, Duration::from_millis(1), b"from the host"));

    // Which says nothing if the network does not work.
    for to in ["10.2.0.3", "fd00:2::3"] {
        say(&world.inside.netns, ip(to), b"hello");
        assert!(hears(&neighbour, SOON, b"hello"), "{order:?} {to}");
    }
    let app = listener(&here);
    say(&world.outside.netns, ip("10.1.0.1"), b"hello");
    assert!(hears(&app, SOON, b"hello"));
    drop(world.app);
    drop(world.inner);
}

#[test]
fn an_internal_network_is_apart_whether_forwarding_comes_first_or_last() {
    for order in [Forwarding::First, Forwarding::Last] {
        on_a_host(|| is_apart(order, internal, |_| Wire::here("inner").mac()));
    }
}

/// By the frames that the test above sends, a network of the usual kind is left.
#[test]
fn a_network_that_is_not_internal_is_not_apart() {
    on_a_host(|| {
        let inner = || {
            let builder = Bridge::builder(name("inner")).address(net("10.2.0.1/24"));
            builder.address(net("fd00:2::1/64")).create().unwrap()
        };
        let world = world(Forwarding::Last, inner);
        let reached = reached_from_inside(&world, Wire::here("inner").mac());
        let all = ["10.1.0.2", "fd00:1::2", "10.1.0.1", "fd00:1::1"];
        assert_eq!(reached[..4], all);
    });
}

#[test]
fn a_bridge_in_a_namespace_of_its_own_is_apart_by_itself() {
    on_a_host(|| {
        let elsewhere = NetNs::new().unwrap();
        let inner = || elsewhere.run(|| bridge("inner", "10.2.0.1/24")).unwrap();
        forward_everything();
        elsewhere.run(forward_everything).unwrap();
        let inner = inner();
        let host = elsewhere.run(|| Wire::here("inner").mac()).unwrap();
        let app = bridge("app", "10.1.0.1/24");
        let outside = Container::new(&app, "10.1.0.2/24");
        let inside = Container::new(&inner, "10.2.0.2/24");
        let heard = listener(&outside.netns);
        let to: IpAddr = ip("10.1.0.2");
        let frame = udp((host, to), (inside.mac(), ip("10.2.0.2")), b"x");
        inside.wire().send(&frame);
        assert!(!hears(&heard, QUIET, b"x"));
    });
}

#[test]
fn what_is_left_of_a_network_whose_bridge_is_gone_does_not_reach_the_host() {
    on_a_host(|| {
        let mut world = world(Forwarding::First, internal);
        let end = world.inside.port().name().clone();
        let other = Bridge::builder(name("other")).unaddressed();
        let gone = std::mem::replace(&mut world.inner, other.create().unwrap());
        gone.remove().unwrap();
        let host = Wire::here(end.as_str()).mac();
        assert_eq!(reached_from_inside(&world, host), [""; 0]);
        let advertised = router_advertisement(world.inside.mac(), "fd66::".parse().unwrap());
        world.inside.wire().send(&advertised);
        let ipv6 = format!("/proc/sys/net/ipv6/conf/{end}");
        assert!(!std::path::Path::new(&ipv6).exists());
    });
}
