//! A container that lies about who it is.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use cofferdam_netbridge::{Attachment, Bridge, ErrorKind, NetNs, PortFlag, PortFlags, Sender};
use cofferdam_testkit::{Need, have};

use super::{Container, bridge, ip, net, on_a_host};
use crate::wire::{Arp, BROADCAST, QUIET, SOON, Wire, arp, carries, hears, listener, marker, say};

struct World {
    bridge: Bridge,
    victim: Container,
    peer: Container,
    attacker: Container,
}

impl World {
    fn new(guard: fn(Attachment) -> Attachment) -> Self {
        let bridge = bridge("br0", "10.5.0.1/24");
        let attach = |address| Container::attach(&bridge, guard(Attachment::new(net(address))));
        let (victim, peer) = (attach("10.5.0.2/24"), attach("10.5.0.3/24"));
        let attacker = attach("10.5.0.4/24");
        World {
            bridge,
            victim,
            peer,
            attacker,
        }
    }

    /// What the attacker gets to see of what the host and the peer send to the victim, once it has sent as the victim.
    fn hijacked(&self) -> bool {
        let wire = self.attacker.wire();
        let here = NetNs::of_caller().unwrap();
        let heard = listener(&self.victim.netns);
        // The neighbours know the victim.
        for from in [&here, &self.peer.netns] {
            say(from, ip("10.5.0.2"), b"known");
            assert!(hears(&heard, SOON, b"known"));
        }
        for _ in 0..3 {
            wire.send(&marker(BROADCAST, self.victim.mac(), b"it is me"));
        }
        for from in [&here, &self.peer.netns] {
            say(from, ip("10.5.0.2"), b"secret");
        }
        wire.incoming(QUIET, carries(b"secret")).is_some()
    }
}

#[test]
fn frames_of_another_hardware_address_take_its_traffic_where_ports_are_not_guarded() {
    on_a_host(|| assert!(World::new(|attachment| attachment).hijacked()));
}

#[test]
fn frames_of_another_hardware_address_are_dropped_where_ports_are_guarded() {
    on_a_host(|| {
        let world = World::new(Attachment::guard_mac);
        let flags = world.attacker.port().flags().unwrap();
        assert_eq!(flags.is_on(PortFlag::Locked), Some(true));
        assert_eq!(flags.is_on(PortFlag::Learning), Some(false));
        assert!(!world.hijacked());
        // Nor does anybody get to see them.
        let wires = [world.victim.wire(), world.peer.wire(), Wire::here("br0")];
        let made_up = [2, 7, 7, 7, 7, 7];
        for from in [world.victim.mac(), made_up] {
            let frame = marker(BROADCAST, from, b"it is me");
            world.attacker.wire().send(&frame);
        }
        let honest = marker(BROADCAST, world.attacker.mac(), b"honest");
        world.attacker.wire().send(&honest);
        for wire in wires {
            let either = |frame: &[u8]| carries(b"it is me")(frame) || carries(b"honest")(frame);
            let first = wire.incoming(SOON, either).unwrap();
            assert!(carries(b"honest")(&first));
        }
        drop(world.bridge);
    });
}

#[test]
fn a_port_is_guarded_and_let_go_while_it_runs() {
    on_a_host(|| {
        let world = World::new(|attachment| attachment);
        let ports = [
            world.victim.port(),
            world.peer.port(),
            world.attacker.port(),
        ];
        for port in ports {
            port.guard_mac().unwrap();
            port.guard_mac().unwrap();
        }
        assert!(!world.hijacked());
        for port in ports {
            let free = PortFlags::new()
                .off(PortFlag::Locked)
                .on(PortFlag::Learning);
            port.set_flags(free).unwrap();
        }
        // The entries stay: so it is not the attacker's yet, but it may speak in any name.
        let seen = world.peer.wire();
        let frame = marker(BROADCAST, [2, 7, 7, 7, 7, 7], b"in any name");
        world.attacker.wire().send(&frame);
        assert!(seen.incoming(SOON, carries(b"in any name")).is_some());
    });
}

/// The ruleset that the documentation of [`Sender`] shows, but for what nft 1.0.6 has no word for.
fn ruleset(senders: &[Sender]) -> String {
    let element = |sender: &Sender, address: Option<String>| {
        let text = sender.to_string();
        let mut words = text.split(' ');
        let (ifname, mac) = (words.next().unwrap(), words.next().unwrap());
        let address = address.map_or_else(String::new, |address| format!(" . {address}"));
        format!("\"{ifname}\" . {mac}{address}")
    };
    let macs: Vec<_> = senders.iter().map(|sender| element(sender, None)).collect();
    let ip4: Vec<_> = senders
        .iter()
        .map(|sender| element(sender, Some(sender.addresses[0].to_string())))
        .collect();
    let guarded: Vec<_> = senders
        .iter()
        .map(|sender| format!("\"{}\"", sender.ifname))
        .collect();
    let (macs, ip4, guarded) = (macs.join(", "), ip4.join(", "), guarded.join(", "));
    format!(
        "table bridge senders {{
            set macs {{ type ifname . ether_addr; elements = {{ {macs} }} }}
            set v4_senders {{ type ifname . ether_addr . ipv4_addr; elements = {{ {ip4} }} }}
            set v6_senders {{ type ifname . ether_addr . ipv6_addr; }}
            set guarded {{ type ifname; elements = {{ {guarded} }} }}
            chain sent {{
                type filter hook prerouting priority -300; policy accept;
                iifname != @guarded accept
                iifname . ether saddr != @macs drop
                ether type arp iifname . arp saddr ether . arp saddr ip != @v4_senders drop
                ether type ip ip saddr 0.0.0.0 accept
                ether type ip iifname . ether saddr . ip saddr != @v4_senders drop
                icmpv6 type nd-router-advert drop
                ether type ip6 ip6 saddr {{ ::, fe80::/10 }} accept
                ether type ip6 iifname . ether saddr . ip6 saddr != @v6_senders drop
            }}
        }}"
    )
}

#[test]
fn what_a_port_tells_of_its_sender_is_enough_for_a_packet_filter_to_drop_false_arp() {
    if !have(&[Need::Program("nft")]) {
        return;
    }
    on_a_host(|| {
        let world = World::new(|attachment| attachment);
        let senders = [&world.victim, &world.peer, &world.attacker];
        let senders = senders.map(|container| container.port().sender());
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let ruleset = ruleset(&senders);
        nft.stdin
            .take()
            .unwrap()
            .write_all(ruleset.as_bytes())
            .unwrap();
        assert!(nft.wait().unwrap().success(), "{ruleset}");

        let seen = world.peer.wire();
        let attacker = &world.attacker;
        let victims: Ipv4Addr = [10, 5, 0, 2].into();
        for form in [Arp::Request, Arp::Reply] {
            let wire = attacker.wire();
            let claims = |to, address| arp(form, to, attacker.mac(), address);
            wire.send(&claims(BROADCAST, victims));
            wire.send(&claims(BROADCAST, [10, 5, 0, 4].into()));
        }
        let claimed = |frame: &[u8]| frame.get(12..14) == Some(&[8, 6]);
        for _ in 0..2 {
            let frame = seen.incoming(SOON, claimed).unwrap();
            assert_eq!(frame[28..32], [10, 5, 0, 4]);
        }
        let heard = listener(&world.victim.netns);
        say(&world.peer.netns, ip("10.5.0.2"), b"hello");
        assert!(hears(&heard, SOON, b"hello"));
    });
}

#[test]
fn a_kernel_without_locked_ports_says_so() {
    on_a_host(|| {
        let bridge = bridge("br0", "10.5.0.1/24");
        let container = Container::new(&bridge, "10.5.0.2/24");
        match container.port().guard_mac() {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                assert_eq!(
                    container.port().flags().unwrap().is_on(PortFlag::Learning),
                    Some(true)
                );
            }
        }
    });
}
