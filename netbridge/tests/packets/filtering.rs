//! What a bridge keeps apart by itself.

use std::path::Path;

use cofferdam_netbridge::{
    Attachment, Bridge, BridgeOptions, ErrorKind, NetNs, PortFlag, PortFlags, PortVlans, VlanId,
};

use super::{Container, bridge, ip, name, net, on_a_host, set};
use crate::wire::{BROADCAST, QUIET, SOON, carries, hears, listener, marker, say};

fn isolated(address: &str) -> Attachment {
    Attachment::new(net(address)).flags(PortFlags::new().on(PortFlag::Isolated))
}

#[test]
fn containers_of_isolated_ports_reach_the_host_alone() {
    const CALL: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    on_a_host(|| {
        let bridge = bridge("br0", "10.5.0.1/24");
        let one = Container::attach(&bridge, isolated("10.5.0.2/24"));
        let two = Container::attach(&bridge, isolated("10.5.0.3/24"));
        let open = Container::new(&bridge, "10.5.0.4/24");
        let [heard_two, heard_open] = [&two, &open].map(|container| listener(&container.netns));
        let host = listener(&NetNs::of_caller().unwrap());
        for call in ["0", "1"] {
            if Path::new(CALL).exists() {
                set("bridge/bridge-nf-call-iptables", call);
            }
            say(&one.netns, ip("10.5.0.3"), b"apart");
            // A frame of a sender that made up what it needs to know.
            one.wire().send(&marker(two.mac(), one.mac(), b"apart"));
            assert!(!hears(&heard_two, QUIET, b"apart"), "bridge-nf-call {call}");
            for (to, socket) in [("10.5.0.1", &host), ("10.5.0.4", &heard_open)] {
                say(&one.netns, ip(to), b"hello");
                assert!(hears(socket, SOON, b"hello"), "{to}");
            }
        }
        // Changed while it runs.
        two.port()
            .set_flags(PortFlags::new().off(PortFlag::Isolated))
            .unwrap();
        say(&one.netns, ip("10.5.0.3"), b"together");
        assert!(hears(&heard_two, SOON, b"together"));
    });
}

#[test]
fn a_frame_comes_back_by_a_port_in_hairpin_mode_alone() {
    on_a_host(|| {
        let bridge = bridge("br0", "10.5.0.1/24");
        let container = Container::new(&bridge, "10.5.0.2/24");
        let wire = container.wire();
        for (flags, comes) in [
            (PortFlags::new(), true),
            (PortFlags::new().off(PortFlag::Hairpin), false),
            (PortFlags::new().on(PortFlag::Hairpin), true),
        ] {
            container.port().set_flags(flags).unwrap();
            wire.drain();
            wire.send(&marker(BROADCAST, container.mac(), b"again"));
            let time = if comes { SOON } else { QUIET };
            let came = wire.incoming(time, carries(b"again")).is_some();
            assert_eq!(came, comes, "{flags}");
        }
    });
}

#[test]
fn what_is_not_known_is_not_flooded_where_flooding_is_off() {
    on_a_host(|| {
        let bridge = bridge("br0", "10.5.0.1/24");
        let one = Container::new(&bridge, "10.5.0.2/24");
        let quiet = PortFlags::new()
            .off(PortFlag::UnicastFlood)
            .off(PortFlag::MulticastFlood);
        let attachment = Attachment::new(net("10.5.0.3/24")).flags(quiet);
        let two = Container::attach(&bridge, attachment);
        let heard = two.wire();
        one.wire()
            .send(&marker([2, 9, 9, 9, 9, 9], one.mac(), b"unknown"));
        one.wire()
            .send(&marker([3, 9, 9, 9, 9, 9], one.mac(), b"unknown"));
        one.wire().send(&marker(two.mac(), one.mac(), b"known"));
        let first = heard.incoming(SOON, |frame| {
            carries(b"unknown")(frame) || carries(b"known")(frame)
        });
        assert!(!carries(b"unknown")(&first.unwrap()));
    });
}

#[test]
fn every_flag_is_read_back_and_changed_while_the_port_runs() {
    on_a_host(|| {
        let bridge = bridge("br0", "10.5.0.1/24");
        let container = Container::new(&bridge, "10.5.0.2/24");
        let port = container.port();
        let first = port.flags().unwrap();
        assert_eq!(first.is_on(PortFlag::Hairpin), Some(true), "{first}");
        assert_eq!(first.is_on(PortFlag::Isolated), Some(false), "{first}");
        for flag in PortFlag::ALL {
            for flags in [PortFlags::new().on(flag), PortFlags::new().off(flag)] {
                port.set_flags(flags).unwrap();
                assert_eq!(port.flags().unwrap().is_on(flag), flags.is_on(flag));
            }
        }
    });
}

#[test]
fn options_of_a_bridge_are_read_back_and_changed_while_it_runs() {
    use std::time::Duration;
    on_a_host(|| {
        let options = BridgeOptions::new()
            .multicast_snooping(false)
            .ageing(Duration::from_secs(17));
        let builder = Bridge::builder(name("br0")).address(net("10.5.0.1/24"));
        let bridge = builder.options(options).create().unwrap();
        let now = bridge.options().unwrap();
        assert_eq!(now.snoops_multicast(), Some(false));
        assert_eq!(now.ageing_of(), Some(Duration::from_secs(17)));
        bridge
            .set_options(&BridgeOptions::new().multicast_snooping(true))
            .unwrap();
        let now = bridge.options().unwrap();
        assert_eq!(now.snoops_multicast(), Some(true));
        assert_eq!(now.ageing_of(), Some(Duration::from_secs(17)));
    });
}

/// `None` where the kernel cannot keep VLANs apart.
fn filtering() -> Option<Bridge> {
    let options = BridgeOptions::new().vlan_filtering(VlanId::new(1).ok());
    let builder = Bridge::builder(name("br0")).address(net("10.5.0.1/24"));
    match builder.options(options).create() {
        Ok(bridge) => Some(bridge),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let vm = cofferdam_testkit::is_emulated();
            cofferdam_testkit::skip("a bridge that filters VLANs", vm);
            None
        }
    }
}

#[test]
fn vlans_are_kept_apart() {
    on_a_host(|| {
        let Some(bridge) = filtering() else { return };
        let vlan = |number| VlanId::new(number).unwrap();
        let of = |address, number| {
            let attachment = Attachment::new(net(address));
            Container::attach(&bridge, attachment.vlans(PortVlans::access(vlan(number))))
        };
        let one = of("10.5.0.2/24", 10);
        let two = of("10.5.0.3/24", 10);
        let other = of("10.5.0.4/24", 20);
        let plain = Container::new(&bridge, "10.5.0.5/24");
        assert_eq!(one.port().vlans().unwrap().to_string(), "10 pvid untagged");
        assert_eq!(plain.port().vlans().unwrap().to_string(), "1 pvid untagged");
        let [heard_two, heard_other, heard_plain] =
            [&two, &other, &plain].map(|container| listener(&container.netns));
        let host = listener(&NetNs::of_caller().unwrap());
        for to in ["10.5.0.1", "10.5.0.4", "10.5.0.5"] {
            say(&one.netns, ip(to), b"vlan 10");
        }
        one.wire().send(&marker(BROADCAST, one.mac(), b"vlan 10"));
        say(&one.netns, ip("10.5.0.3"), b"vlan 10");
        assert!(hears(&heard_two, SOON, b"vlan 10"));
        for socket in [&heard_other, &heard_plain, &host] {
            assert!(!hears(socket, QUIET, b"vlan 10"));
        }
        assert_eq!(bridge.vlans().unwrap().to_string(), "1 pvid untagged");
        say(&plain.netns, ip("10.5.0.1"), b"vlan 1");
        assert!(hears(&host, SOON, b"vlan 1"));
        bridge.set_vlans(&PortVlans::none()).unwrap();
        say(&plain.netns, ip("10.5.0.1"), b"no vlan");
        assert!(!hears(&host, QUIET, b"no vlan"));
        // Moved while it runs.
        let both = PortVlans::access(vlan(20)).tagged(vlan(30));
        one.port().set_vlans(&both).unwrap();
        assert_eq!(one.port().vlans().unwrap(), both);
        say(&one.netns, ip("10.5.0.4"), b"vlan 20");
        assert!(hears(&heard_other, SOON, b"vlan 20"));
        say(&one.netns, ip("10.5.0.3"), b"vlan 20");
        assert!(!hears(&heard_two, QUIET, b"vlan 20"));
    });
}

#[test]
fn a_guarded_port_may_change_its_vlan() {
    on_a_host(|| {
        let Some(bridge) = filtering() else { return };
        let host = listener(&NetNs::of_caller().unwrap());
        let attachment = Attachment::new(net("10.5.0.2/24"));
        let vlans = PortVlans::access(VlanId::new(10).unwrap());
        let one = Container::attach(&bridge, attachment.vlans(vlans).guard_mac());
        say(&one.netns, ip("10.5.0.1"), b"vlan 10");
        assert!(!hears(&host, QUIET, b"vlan 10"));
        let vlans = PortVlans::access(VlanId::new(1).unwrap());
        one.port().set_vlans(&vlans).unwrap();
        say(&one.netns, ip("10.5.0.1"), b"vlan 1");
        assert!(hears(&host, SOON, b"vlan 1"));
    });
}
