//! What others do to the table, and how it comes back: by real packets and by what the kernel lists.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

#[allow(dead_code, reason = "other tests share it")]
#[path = "../world/mod.rs"]
mod world;

mod owned;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener};

use cofferdam_portmap::{
    ErrorKind, Isolation, NetworkSpec, Owner, PortMapping, Portmap, Reserve, Ruleset, TableRepair,
};
use cofferdam_testkit::{Need, NetNs, have};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute,
    SetMessage,
};
use world::{
    BRIDGE, BridgedPackets, HOST, NEIGHBOUR, WEB, Wait, World, elements, flush_ruleset, foreign,
    foreign_table, generation, rules, tables, tcp,
};

const TABLE: &str = "cofferdam";

fn port(text: &str, to: IpAddr) -> PortMapping {
    PortMapping::of_spec(&text.parse().unwrap(), to).unwrap()
}

fn owner(name: &str) -> Owner {
    name.parse().unwrap()
}

fn network(bridge: &str, subnet: &str) -> NetworkSpec {
    NetworkSpec::new(bridge)
        .unwrap()
        .subnet(subnet.parse().unwrap())
}

fn open(netns: &NetNs) -> Portmap {
    netns.run(|| Portmap::open(TABLE)).unwrap()
}

/// Networks and ports of every kind.
fn declared() -> Ruleset {
    let mut ruleset = Ruleset::new(TABLE).unwrap();
    let app = network("br0", "10.1.0.0/24").subnet("fd00:1::/64".parse().unwrap());
    let inner = network("br1", "10.2.0.0/24").isolation(Isolation::Strict);
    ruleset
        .network(app.trust("vpn0").unwrap().owned_by(owner("app")))
        .unwrap()
        .network(inner.without_icc().without_masquerade())
        .unwrap()
        .publish(port("8080:80", WEB.into()).owned_by(owner("web")))
        .unwrap()
        .publish(port("127.0.0.1:53:53/udp", WEB.into()))
        .unwrap()
        .publish(port("8080:80", "fd00:1::2".parse().unwrap()))
        .unwrap()
        .publish(port("[fd00:9::1]:53:53/sctp", "fd00:1::2".parse().unwrap()))
        .unwrap();
    ruleset
}

/// Deletes the rules of a chain.
fn rules_of(chain: &str) -> (NfTablesMessage, u16) {
    let attributes = vec![
        RuleAttribute::Table(TABLE.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
    ];
    (NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0)
}

/// A rule that does nothing, in a chain of ours.
fn a_rule(chain: &str) -> (NfTablesMessage, u16) {
    let attributes = vec![
        RuleAttribute::Table(TABLE.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(Vec::new()),
    ];
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    (message, NLM_F_CREATE | NLM_F_APPEND)
}

fn a_chain(name: &str) -> (NfTablesMessage, u16) {
    let attributes = vec![
        ChainAttribute::Table(TABLE.to_owned()),
        ChainAttribute::Name(name.to_owned()),
    ];
    let message = NfTablesMessage::NewChain(ChainMessage { attributes });
    (message, NLM_F_CREATE)
}

/// Deletes a set.
fn set(name: &str) -> (NfTablesMessage, u16) {
    let attributes = vec![
        SetAttribute::Table(TABLE.to_owned()),
        SetAttribute::Name(name.to_owned()),
    ];
    (NfTablesMessage::DeleteSet(SetMessage { attributes }), 0)
}

#[test]
fn what_is_declared_is_read_back_by_any_handle_with_its_owners() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let (portmap, other) = (open(&netns), open(&netns));
    assert!(portmap.list().unwrap().is_empty());
    let repaired = portmap.reconcile(&declared()).unwrap();
    assert_eq!(repaired.table, TableRepair::Created);
    assert_eq!(other.list().unwrap(), declared());
    let found = other.list().unwrap();
    assert_eq!(found.ports_of(&owner("web")).count(), 1);
    assert_eq!(
        found.networks().next().unwrap().owner(),
        Some(&owner("app"))
    );
    let gone = other.unpublish_owner(&owner("web")).unwrap();
    assert_eq!(gone, [port("8080:80", WEB.into()).owned_by(owner("web"))]);
    assert_eq!(portmap.list().unwrap().ports().count(), 3);
}

#[test]
fn what_is_right_is_not_touched() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = open(&netns);
    portmap.reconcile(&declared()).unwrap();
    let before = generation(&netns);
    for portmap in [&portmap, &open(&netns)] {
        assert!(portmap.reconcile(&declared()).unwrap().is_nothing());
        assert!(portmap.reapply().unwrap().is_nothing());
    }
    assert_eq!(generation(&netns), before);
    let empty = Ruleset::new(TABLE).unwrap();
    let repaired = portmap.reconcile(&empty).unwrap();
    assert_eq!(repaired.table, TableRepair::Deleted);
    assert_eq!(tables(&netns), [""; 0]);
    assert!(portmap.reconcile(&empty).unwrap().is_nothing());
}

#[test]
fn elements_that_are_missing_too_many_or_led_elsewhere_are_made_right() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = open(&netns);
    portmap.reconcile(&declared()).unwrap();
    let other = open(&netns);
    let elsewhere = "10.1.0.9".parse().unwrap();
    for text in ["8080:80", "127.0.0.1:53:53/udp"] {
        other.unpublish(&text.parse().unwrap()).unwrap();
    }
    other.remove_network("br1").unwrap();
    let extra = other.publish(&"99:99".parse().unwrap(), elsewhere).unwrap();
    let moved = other.publish(&"8080:80".parse().unwrap(), elsewhere);
    let more = other.network(network("br7", "10.7.0.0/24")).unwrap();
    let repaired = portmap.reconcile(&declared()).unwrap();
    assert_eq!(repaired.table, TableRepair::Kept);
    assert_eq!(repaired.chains, 0);
    assert!(repaired.added > 5 && repaired.removed > 4, "{repaired:?}");
    assert_eq!(other.list().unwrap(), declared());
    // Guards of what is gone leave what is there alone.
    drop((extra, moved, more));
    assert_eq!(other.list().unwrap(), declared());
}

#[test]
fn rules_chains_and_sets_that_others_changed_are_restored() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = open(&netns);
    portmap.reconcile(&declared()).unwrap();
    let all = rules(&netns);
    let both = [rules_of("guard_loopback"), a_rule("filter_forward")];
    let cases: [(Vec<_>, _, _); 6] = [
        (vec![rules_of("filter_forward")], TableRepair::Kept, 1),
        (vec![a_rule("filter_forward")], TableRepair::Kept, 1),
        (both.to_vec(), TableRepair::Kept, 2),
        (vec![a_chain("more")], TableRepair::Replaced, 0),
        (
            vec![rules_of("filter_input"), set("strict")],
            TableRepair::Replaced,
            0,
        ),
        (
            vec![rules_of("published"), set("ports4")],
            TableRepair::Replaced,
            0,
        ),
    ];
    for (messages, table, chains) in cases {
        for reapply in [false, true] {
            let what = format!("{messages:?}");
            foreign(&netns, messages.clone()).unwrap_or_else(|errno| panic!("{errno}: {what}"));
            let repaired = match reapply {
                false => portmap.reconcile(&declared()).unwrap(),
                true => portmap.reapply().unwrap(),
            };
            assert_eq!((repaired.table, repaired.chains), (table, chains), "{what}");
            assert_eq!(rules(&netns), all, "{what}");
            assert_eq!(portmap.list().unwrap(), declared(), "{what}");
            assert!(
                portmap.reconcile(&declared()).unwrap().is_nothing(),
                "{what}"
            );
        }
    }
}

#[test]
fn a_table_without_its_sets_is_damaged_until_it_is_made_whole() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = open(&netns);
    portmap.reconcile(&declared()).unwrap();
    foreign(&netns, vec![rules_of("published"), set("ports4")]).unwrap();
    let error = portmap.list().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    assert!(error.to_string().contains("reconcile"), "{error}");
    portmap.reapply().unwrap();
    assert_eq!(portmap.list().unwrap(), declared());
}

#[test]
fn a_table_of_somebody_else_is_neither_reconciled_nor_reapplied() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    foreign_table(&netns, TABLE);
    let before = generation(&netns);
    let portmap = open(&netns);
    for error in [
        portmap.reconcile(&declared()).unwrap_err(),
        portmap.reapply().unwrap_err(),
        portmap.list().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    }
    assert_eq!(generation(&netns), before);
}

#[test]
fn reapply_brings_back_what_the_handle_has_and_leaves_what_others_have() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let (portmap, other) = (open(&netns), open(&netns));
    let _network = portmap.network(network("br0", "10.1.0.0/24")).unwrap();
    let web = portmap
        .publish(&"80:80/udp".parse().unwrap(), WEB.into())
        .unwrap();
    let gone = portmap
        .publish(&"81:80/udp".parse().unwrap(), WEB.into())
        .unwrap();
    gone.remove().unwrap();
    let persisted = portmap
        .publish(&"82:80/udp".parse().unwrap(), WEB.into())
        .unwrap();
    persisted.persist();
    flush_ruleset(&netns);
    let theirs = other
        .publish(&"83:80/udp".parse().unwrap(), WEB.into())
        .unwrap();
    let repaired = portmap.reapply().unwrap();
    assert_eq!(repaired.removed, 0);
    let listed: Vec<u16> = other
        .list()
        .unwrap()
        .ports()
        .map(PortMapping::host_port)
        .collect();
    assert_eq!(listed, [80, 83]);
    assert_eq!(elements(&netns, TABLE, "bridges"), 1);
    // Taken by somebody else meanwhile: told, and nothing changed.
    flush_ruleset(&netns);
    drop(theirs);
    let elsewhere = "10.1.0.9".parse().unwrap();
    let unreserved = Portmap::builder(TABLE).reserve(Reserve::Never);
    let unreserved = netns.run(|| unreserved.open()).unwrap();
    let taken = unreserved
        .publish(&"80:80/udp".parse().unwrap(), elsewhere)
        .unwrap();
    let before = generation(&netns);
    let error = portmap.reapply().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(
        error.to_string().contains("0.0.0.0:80/udp to 10.1.0.2:80"),
        "{error}"
    );
    assert_eq!(generation(&netns), before);
    drop(taken);
    portmap.reapply().unwrap();
    web.remove().unwrap();
}

fn listen(netns: &NetNs, port: u16) -> TcpListener {
    netns
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .unwrap()
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

#[test]
fn after_a_flush_one_call_brings_back_ports_and_guards() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let portmap = open(&world.host);
    let _networks = [("br0", "10.1.0.0/24"), ("br1", "10.2.0.0/24")]
        .map(|(bridge, subnet)| portmap.network(network(bridge, subnet)).unwrap());
    let server = listen(&world.web, 80);
    let udp = world
        .web
        .run(|| std::net::UdpSocket::bind("0.0.0.0:53"))
        .unwrap();
    let _web = portmap
        .publish(&"8080:80".parse().unwrap(), WEB.into())
        .unwrap();
    let local = "127.0.0.1:53:53/udp".parse().unwrap();
    let _local = portmap.publish(&local, WEB.into()).unwrap();
    world::send_loopback_to_the_host(&world.neighbour);
    let all_is_well = || {
        let from = tcp(&world.neighbour, at(HOST, 8080), &server, Wait::Reached);
        assert_eq!(from, Some(NEIGHBOUR.into()));
        let hairpin = tcp(&world.mate, at(HOST, 8080), &server, Wait::Reached);
        assert_eq!(hairpin, Some(BRIDGE.into()));
        for client in [&world.neighbour, &world.stranger] {
            assert_eq!(tcp(client, at(WEB, 80), &server, Wait::Closed), None);
        }
        let loopback = at(Ipv4Addr::LOCALHOST, 53);
        assert!(!world::arrives(
            &world.neighbour,
            loopback,
            &udp,
            Wait::Closed
        ));
        assert!(world::arrives(&world.host, loopback, &udp, Wait::Reached));
    };
    all_is_well();
    flush_ruleset(&world.host);
    assert_eq!(
        tcp(&world.neighbour, at(HOST, 8080), &server, Wait::Closed),
        None
    );
    assert!(tcp(&world.neighbour, at(WEB, 80), &server, Wait::Reached).is_some());
    let repaired = portmap.reapply().unwrap();
    assert_eq!(repaired.table, TableRepair::Created);
    all_is_well();
}
