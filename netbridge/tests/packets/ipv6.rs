//! No IPv6 that nobody asked for.

use std::fs;
use std::net::Ipv6Addr;
use std::thread;

use cofferdam_netbridge::{Attachment, Bridge, NetNs};

use super::{Container, bridge, net, on_a_host, read, set};
use crate::name;
use crate::wire::{QUIET, SOON, Wire, is_ipv6, router_advertisement};

/// What this namespace knows of a prefix: addresses and routes.
fn traces_here(of: &str) -> Vec<String> {
    [
        "/proc/thread-self/net/if_inet6",
        "/proc/thread-self/net/ipv6_route",
    ]
    .into_iter()
    .flat_map(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().map(str::to_owned).collect::<Vec<_>>();
        lines.into_iter().filter(|line| line.contains(of))
    })
    .collect()
}

const PREFIX: &str = "fd99000000000000";
/// The link-local address the advertisement is from, which would be the router.
const ROUTER: &str = "fe800000000000000000000000000bad";

fn traces(netns: &NetNs) -> Vec<String> {
    netns
        .run(|| [traces_here(PREFIX), traces_here(ROUTER)].concat())
        .unwrap()
}

fn dual(address: &str, second: &str) -> Attachment {
    Attachment::new(net(address)).address(net(second))
}

#[test]
fn a_rogue_router_advertisement_changes_neither_the_host_nor_a_neighbour() {
    on_a_host(|| {
        let builder = Bridge::builder(name("br0")).address(net("10.5.0.1/24"));
        let bridge = builder.address(net("fd00:5::1/64")).create().unwrap();
        let rogue = Container::attach(&bridge, dual("10.5.0.2/24", "fd00:5::2/64"));
        let victim = Container::attach(&bridge, dual("10.5.0.3/24", "fd00:5::3/64"));
        let here = NetNs::of_caller().unwrap();
        // What is told to every link, and to those that come, does not count for one that has its own.
        let open_all = || {
            for which in ["all", "default"] {
                for (key, value) in [
                    ("accept_ra", "2"),
                    ("autoconf", "1"),
                    ("accept_redirects", "1"),
                ] {
                    set(&format!("ipv6/conf/{which}/{key}"), value);
                }
            }
        };
        open_all();
        victim.netns.run(open_all).unwrap();
        let prefix: Ipv6Addr = "fd99::".parse().unwrap();
        let advertisement = router_advertisement(rogue.mac(), prefix);
        let (seen, wire) = (victim.wire(), rogue.wire());
        wire.send(&advertisement);
        assert!(
            seen.incoming(SOON, |frame| frame == advertisement)
                .is_some()
        );
        thread::sleep(QUIET);
        for netns in [&here, &victim.netns] {
            assert_eq!(traces(netns), [""; 0]);
        }
        for key in ["accept_ra", "autoconf", "accept_redirects"] {
            assert_eq!(read(&format!("ipv6/conf/br0/{key}")), "0", "{key}");
            let inside = || read(&format!("ipv6/conf/eth0/{key}"));
            assert_eq!(victim.netns.run(inside).unwrap(), "0", "{key}");
        }

        // The advertisement is one that is believed where it may be.
        let believe = || {
            set("ipv6/conf/eth0/accept_ra", "2");
            set("ipv6/conf/eth0/autoconf", "1");
        };
        victim.netns.run(believe).unwrap();
        wire.send(&advertisement);
        thread::sleep(QUIET);
        assert_eq!(traces(&here), [""; 0]);
        assert_ne!(traces(&victim.netns), [""; 0]);
    });
}

#[test]
fn a_network_of_ipv4_has_no_ipv6_at_all() {
    on_a_host(|| {
        set("ipv6/conf/default/accept_ra", "2");
        let bridge = bridge("br0", "10.5.0.1/24");
        let listener = Container::new(&bridge, "10.5.0.9/24");
        let (inside, outside) = (listener.wire(), Wire::here("br0"));
        let container = Container::new(&bridge, "10.5.0.2/24");
        let own = container.wire();
        let addresses = || fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
        let alone = |text: String| text.lines().all(|line| line.ends_with(" lo"));

        for wire in [&inside, &outside, &own] {
            assert_eq!(wire.either(QUIET, is_ipv6), None);
        }
        // Somebody means well: for the whole host, and for the container.
        let enable = || set("ipv6/conf/all/disable_ipv6", "0");
        enable();
        container.netns.run(enable).unwrap();
        for wire in [&inside, &outside, &own] {
            assert_eq!(wire.either(QUIET, is_of_an_address), None);
        }
        assert!(alone(addresses()), "{}", addresses());
        assert!(alone(container.netns.run(addresses).unwrap()));
    });
}

/// Not what is said in nobody's name: a bridge tells that it listens to its groups.
fn is_of_an_address(frame: &[u8]) -> bool {
    is_ipv6(frame) && frame.get(22..38) != Some(&[0; 16])
}
