//! Changes by handles that have not seen the table: they look at no more of it than matters.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

#[allow(dead_code, reason = "other tests share it")]
mod world;

use std::net::SocketAddr;

use cofferdam_portmap::{ErrorKind, NetworkSpec, Owner, PortMapping, Portmap, Protocol, Reserve};
use cofferdam_testkit::{Need, NetNs, have};
use world::{WEB, elements, generation, tables};

const TABLE: &str = "cofferdam";

fn handle(netns: &NetNs) -> Portmap {
    let builder = Portmap::builder(TABLE).reserve(Reserve::Never);
    netns.run(|| builder.open()).unwrap()
}

fn port(number: u16, owner: &str) -> PortMapping {
    let target = SocketAddr::new(WEB.into(), number);
    let mapping = PortMapping::new(Protocol::Tcp, number, target).unwrap();
    mapping.owned_by(Owner::new(owner).unwrap())
}

fn on(ip: &str, number: u16, owner: &str) -> PortMapping {
    port(number, owner).on(ip.parse().unwrap()).unwrap()
}

#[test]
fn a_handle_that_has_not_seen_the_table_adds_and_takes_out_one_port() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let first = handle(&netns);
    let many = (1000..2000).map(|number| port(number, "many"));
    let many = first.publish_all(many).unwrap();
    for with_network in [false, true] {
        let spec = NetworkSpec::new("br0").unwrap();
        let network = with_network.then(|| first.network(spec).unwrap());
        let before = generation(&netns);
        let new = handle(&netns);
        let one = new.publish_all([port(80, "one")]).unwrap();
        let other = new.publish_all([on("127.0.0.1", 81, "one")]).unwrap();
        assert_eq!(generation(&netns), before + 2);
        assert_eq!(first.list().unwrap(), new.list().unwrap());
        assert_eq!(first.list().unwrap().ports().count(), 1002);
        let new = handle(&netns);
        new.unpublish(&"127.0.0.1:81:81".parse().unwrap()).unwrap();
        other.remove().unwrap();
        one.remove().unwrap();
        assert_eq!(elements(&netns, TABLE, "ports4_any"), 1000);
        assert_eq!(elements(&netns, TABLE, "ports4"), 0);
        network
            .into_iter()
            .for_each(|network| network.remove().unwrap());
    }
    many.remove().unwrap();
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn what_excludes_a_port_is_found_and_named_without_the_rest() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let first = handle(&netns);
    let there = [
        port(80, "any"),
        on("127.0.0.1", 81, "local"),
        on("192.0.2.1", 82, "lan"),
    ];
    let held = first.publish_all(there).unwrap();
    let before = generation(&netns);
    for (wanted, owner) in [
        (port(80, "new"), Some("any")),
        (on("127.0.0.1", 80, "new"), Some("any")),
        (port(81, "new"), Some("local")),
        (on("127.0.0.1", 81, "new"), Some("local")),
        (on("127.0.0.1", 82, "new"), None),
        (port(83, "new"), None),
    ] {
        let published = handle(&netns).publish_all([wanted]);
        match owner {
            Some(owner) => {
                let error = published.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::AlreadyExists);
                let line = error.to_string();
                assert!(line.contains(&format!("of {owner} is there")), "{line}");
            }
            None => published.unwrap().remove().unwrap(),
        }
    }
    assert_eq!(generation(&netns), before + 4);
    held.remove().unwrap();
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn the_last_port_goes_with_the_table_whoever_takes_it_out() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let (one, other) = (handle(&netns), handle(&netns));
    let mine = one.publish_all([port(80, "one")]).unwrap();
    let theirs = other.publish_all([port(81, "other")]).unwrap();
    mine.remove().unwrap();
    assert_eq!(elements(&netns, TABLE, "ports4_any"), 1);
    theirs.remove().unwrap();
    assert_eq!(tables(&netns), [""; 0]);
}
