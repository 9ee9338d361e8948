//! A neighbour hears at once who has an address now.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use cofferdam_netbridge::{Announce, Announcer, Attachment, Bridge, ErrorKind, NetNs};
use cofferdam_testkit::{is_emulated, turns};

use super::{Container, ip, name, net, on_a_host, sys};
use crate::wire::{Arp, QUIET, SOON, Wire, hears, is_advertised, is_gratuitous, listener, say};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 2);

fn dual() -> Bridge {
    let builder = Bridge::builder(name("br0")).address(net("10.5.0.1/24"));
    builder.address(net("fd00:5::1/64")).create().unwrap()
}

fn with_mac(last: u8) -> Attachment {
    Attachment::new(net("10.5.0.2/24"))
        .address(net("fd00:5::2/64"))
        .mac([2, 0, 0, 0, 5, last])
}

#[test]
fn an_attached_container_is_announced_to_its_neighbours() {
    on_a_host(|| {
        let bridge = dual();
        let neighbour = Container::new(&bridge, "10.5.0.9/24");
        let wire = neighbour.wire();
        let container = Container::attach(&bridge, with_mac(1));
        let arp = is_gratuitous(Arp::Request, container.mac(), ADDRESS);
        assert!(wire.incoming(SOON, arp).is_some());
        let advertised = is_advertised("fd00:5::2".parse().unwrap());
        assert!(wire.incoming(SOON, advertised).is_some());
    });
}

#[test]
fn nobody_is_told_what_everybody_knows() {
    on_a_host(|| {
        let bridge = Bridge::builder(name("br0")).address(net("10.5.0.1/24"));
        let bridge = bridge.create().unwrap();
        let neighbour = Container::new(&bridge, "10.5.0.9/24");
        let derived = || Attachment::new(net("10.5.0.2/24"));
        let wire = neighbour.wire();
        let tells = |bridge: &Bridge, attachment: Attachment, within: Duration| {
            let mut container = Container::attach(bridge, attachment);
            let told = is_announced(&wire, within, container.mac());
            container.port.take().unwrap().remove().unwrap();
            told
        };
        for _ in 0..2 {
            assert!(!tells(&bridge, derived(), QUIET));
        }
        assert!(tells(&bridge, derived().mac([2, 0, 0, 0, 5, 1]), SOON));
        // Whoever has the bridge knows that somebody gave one.
        let adopted = Bridge::adopt(name("br0")).unwrap();
        for bridge in [&bridge, &adopted] {
            assert!(tells(bridge, derived(), SOON));
        }
    });
}

#[test]
fn the_first_packet_to_somebody_nobody_was_told_of_is_not_lost() {
    on_a_host(|| {
        let here = NetNs::of_caller().unwrap();
        for _ in 0..turns(30, 5) {
            let bridge = Bridge::builder(name("br0")).address(net("10.5.0.1/24"));
            let bridge = bridge.create().unwrap();
            let container = Container::new(&bridge, "10.5.0.2/24");
            let begin = Instant::now();
            let heard = listener(&container.netns);
            say(&here, ip("10.5.0.2"), b"first");
            assert!(hears(&heard, SOON, b"first"));
            let took = begin.elapsed();
            // The kernel asks for a neighbour again after a second.
            let is_first = took < Duration::from_millis(900) || is_emulated();
            assert!(is_first, "{took:?}");
        }
    });
}

#[test]
fn of_a_bridge_somebody_else_made_nothing_is_known() {
    on_a_host(|| {
        sys::foreign_bridge("br0");
        let bridge = Bridge::adopt(name("br0")).unwrap();
        let neighbour = Container::new(&bridge, "10.5.0.9/24");
        let wire = neighbour.wire();
        let container = Container::new(&bridge, "10.5.0.2/24");
        assert!(is_announced(&wire, SOON, container.mac()));
    });
}

fn is_announced(wire: &Wire, within: Duration, mac: [u8; 6]) -> bool {
    let arp = is_gratuitous(Arp::Request, mac, ADDRESS);
    wire.incoming(within, arp).is_some()
}

#[test]
fn an_announcer_says_it_in_every_form_as_often_as_it_is_asked() {
    on_a_host(|| {
        let bridge = dual();
        let neighbour = Container::new(&bridge, "10.5.0.9/24");
        let container = Container::attach(&bridge, with_mac(1));
        let wire = neighbour.wire();
        let announce = Announce::times(2).every(Duration::from_millis(1));
        let (netns, mac) = (&container.netns, container.mac());
        let addresses = [ip("10.5.0.2"), ip("fd00:5::2")];
        let mut announcer =
            Announcer::open(netns, &name("eth0"), mac, &addresses, announce).unwrap();
        let nowhere = Announcer::open(netns, &name("eth9"), mac, &addresses, announce);
        assert_eq!(nowhere.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(announcer.send().unwrap(), Some(Duration::from_millis(1)));
        assert_eq!(announcer.send().unwrap(), None);
        assert_eq!(announcer.send().unwrap(), None);
        for _ in 0..2 {
            for form in [Arp::Request, Arp::Reply] {
                let arp = is_gratuitous(form, mac, ADDRESS);
                assert!(wire.incoming(SOON, arp).is_some());
            }
            let advertised = is_advertised("fd00:5::2".parse().unwrap());
            assert!(wire.incoming(SOON, advertised).is_some());
        }
    });
}

#[test]
fn an_address_that_moved_to_another_mac_is_reached_within_200_ms() {
    on_a_host(|| {
        let bridge = dual();
        let attachment = Attachment::new(net("10.5.0.9/24")).address(net("fd00:5::9/64"));
        let neighbour = Container::attach(&bridge, attachment);
        let here = NetNs::of_caller().unwrap();
        let mut slowest = Duration::ZERO;
        for last in 1..4 {
            let mut container = Container::attach(&bridge, with_mac(last));
            let begin = Instant::now();
            let heard = listener(&container.netns);
            for from in [&neighbour.netns, &here] {
                for to in ["10.5.0.2", "fd00:5::2"] {
                    // Once: what is lost is lost.
                    say(from, ip(to), b"first");
                    assert!(hears(&heard, SOON, b"first"), "{to} at {last}");
                }
            }
            slowest = slowest.max(begin.elapsed());
            container.port.take().unwrap().remove().unwrap();
        }
        let bound = if is_emulated() { 10 } else { 1 };
        assert!(slowest < bound * Duration::from_millis(200), "{slowest:?}");
        drop(bridge);
    });
}
