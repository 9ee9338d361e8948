//! What is listed, on the real kernel.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::UdpSocket;
use std::time::Duration;

use cofferdam_netbridge::{
    Attachment, Bridge, ErrorKind, Inspect, IpNetwork, NetNs, Route, RouteKind,
};
use cofferdam_testkit::{Need, have};

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

#[test]
fn a_container_is_listed_as_it_was_asked_for() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    cofferdam_testkit::NetNs::new().run(|| {
        let builder = Bridge::builder("br0".parse().unwrap()).address(net("10.5.0.1/24"));
        let bridge = builder
            .address(net("fd00:5::1/64"))
            .mtu(1400)
            .create()
            .unwrap();
        let netns = NetNs::new().unwrap();
        let wanted = Attachment::new(net("10.5.0.2/24"))
            .address(net("fd00:5::2/64"))
            .route(Route::blackhole(net("10.9.0.0/16")).metric(7));
        let port = bridge.attach(&netns, wanted).unwrap();

        let mut outside = Inspect::here().unwrap();
        let mut inside = Inspect::of(&netns).unwrap();
        let eth0 = inside.link(&"eth0".parse().unwrap()).unwrap();
        assert_eq!((eth0.mac, eth0.mtu), (Some(port.mac()), 1400));
        assert_eq!(eth0.kind.as_deref(), Some("veth"));
        assert!(eth0.up && eth0.operational);
        let host = outside.link(port.name()).unwrap();
        assert_eq!(host.controller, Some(bridge.index()));

        let addresses = inside.addresses().unwrap();
        for wanted in port.addresses() {
            let found = addresses.iter().find(|listed| listed.address == *wanted);
            let found = found.unwrap();
            assert!(found.global && !found.tentative, "{found:?}");
            assert_eq!(found.index, eth0.index);
        }
        let routes = inside.routes().unwrap();
        let has = |destination: &str, kind, metric| {
            routes.iter().any(|route| {
                (route.destination, route.kind, route.metric)
                    == (net(destination), Some(kind), metric)
            })
        };
        let via = |text: &str| RouteKind::Via(text.parse().unwrap());
        assert!(has("0.0.0.0/0", via("10.5.0.1"), 0), "{routes:?}");
        assert!(has("::/0", via("fd00:5::1"), 1024), "{routes:?}");
        assert!(has("10.9.0.0/16", RouteKind::Blackhole, 7), "{routes:?}");
        assert!(has("10.5.0.0/24", RouteKind::Direct, 0), "{routes:?}");

        let before = outside.link(port.name()).unwrap().counters;
        let gateway = UdpSocket::bind("10.5.0.1:0").unwrap();
        gateway
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let socket = netns
            .run(|| UdpSocket::bind("10.5.0.2:0").unwrap())
            .unwrap();
        for _ in 0..10 {
            socket
                .send_to(&[0; 1000], gateway.local_addr().unwrap())
                .unwrap();
            gateway.recv_from(&mut [0; 1000]).unwrap();
        }
        let after = outside.link(port.name()).unwrap().counters;
        assert!(after.rx_packets >= before.rx_packets + 10, "{after:?}");
        assert!(after.rx_bytes >= before.rx_bytes + 10_000, "{after:?}");
        let neighbours = inside.neighbours().unwrap();
        let found = neighbours
            .iter()
            .find(|n| n.address == "10.5.0.1".parse::<std::net::IpAddr>().unwrap());
        let found = found.unwrap();
        assert!(found.is_valid() && found.mac.is_some(), "{found:?}");

        let error = outside.link(&"eth0".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    });
}

#[test]
fn hundreds_of_links_are_listed_each_once() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    cofferdam_testkit::NetNs::new().run(|| {
        let builder = Bridge::builder("br0".parse().unwrap());
        let bridge = builder.address(net("10.5.0.1/16")).create().unwrap();
        let netns = NetNs::new().unwrap();
        let count = cofferdam_testkit::turns(200, 60);
        let attach = |n: usize| {
            let attachment = Attachment::new(net(&format!("10.5.1.{}/16", n + 1)));
            let attachment = attachment.gateway(cofferdam_netbridge::Gateway::None);
            bridge.attach(&netns, attachment).unwrap()
        };
        let ports: Vec<_> = (0..count).map(attach).collect();
        for listed in [
            Inspect::here().unwrap().links(),
            Inspect::of(&netns).unwrap().links(),
        ] {
            let mut indexes: Vec<u32> = listed.unwrap().iter().map(|link| link.index).collect();
            let extra = indexes.len() - count;
            assert!(extra == 1 || extra == 2, "{extra}");
            indexes.sort_unstable();
            indexes.dedup();
            assert!(indexes.len() > count);
        }
        bridge.detach_all(ports).unwrap();
    });
}
