//! What others have put into the kernel, by another program: read without harm, told, and taken out where it is not declared.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

#[allow(dead_code, reason = "other tests share it")]
mod world;

use std::process::Command;

use cofferdam_portmap::{ErrorKind, Isolation, NetworkSpec, Owner, PortMapping, Portmap, Ruleset};
use cofferdam_testkit::{Need, NetNs, have};
use world::{WEB, elements};

const TABLE: &str = "cofferdam";

fn nft(netns: &NetNs, text: &str) -> String {
    let mut command = Command::new("nft");
    let done = netns.run(|| command.arg(text).output()).unwrap();
    assert!(done.status.success(), "{text}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

fn declared() -> Ruleset {
    let mut ruleset = Ruleset::new(TABLE).unwrap();
    let network = NetworkSpec::new("br0").unwrap();
    let network = network.subnet("10.1.0.0/24".parse().unwrap());
    ruleset.network(network).unwrap();
    let port = PortMapping::of_spec(&"8080:80".parse().unwrap(), WEB.into());
    ruleset.publish(port.unwrap()).unwrap();
    ruleset
}

/// A handle on a table that has what is declared.
fn made() -> (NetNs, Portmap) {
    let netns = NetNs::new();
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    portmap.reconcile(&declared()).unwrap();
    (netns, portmap)
}

#[test]
fn elements_of_others_are_in_nobodys_way_until_a_reconcile_removes_them() {
    if !have(&[Need::Namespaces, Need::Program("nft")]) {
        return;
    }
    let strange = [
        (
            "ports4_any",
            "tcp . 99 comment \"two words\" : 10.1.0.2 . 80",
        ),
        ("ports4_any", "255 . 99 : 10.1.0.2 . 80"),
        ("ports4_any", "tcp . 0 : 0.0.0.0 . 0"),
        ("ports4_any", "* : 10.1.0.9 . 80"),
        ("ports6", "::1 . udp . 53 : ::1 . 53"),
        ("bridges", "\"br9\" comment \"two words\""),
        ("bridges", "*"),
        ("internal", "\"br8\""),
        ("open", "\"br8\" . \"br9\""),
        ("subnet_pairs4", "10.9.0.0/24 . 10.8.0.0/16"),
        (
            "subnet_pairs6",
            "fd00::1-fd00::9 . fd00::/64 comment \"br0\"",
        ),
    ];
    for (set, element) in strange {
        let (netns, portmap) = made();
        let before = elements(&netns, TABLE, set);
        nft(
            &netns,
            &format!("add element inet {TABLE} {set} {{ {element} }}"),
        );
        let found = portmap.list().unwrap();
        assert!(declared().ports().eq(found.ports()), "{element}: {found}");
        let more = portmap.publish(&"81:81".parse().unwrap(), WEB.into());
        more.unwrap().remove().unwrap();
        assert_eq!(elements(&netns, TABLE, set), before + 1, "{element}");
        let repaired = portmap.reconcile(&declared()).unwrap();
        assert_eq!((repaired.added, repaired.removed), (0, 1), "{element}");
        assert_eq!(elements(&netns, TABLE, set), before, "{element}");
        assert!(portmap.reconcile(&declared()).unwrap().is_nothing());
    }
}

#[test]
fn a_port_that_others_lead_somewhere_under_a_name_that_is_none_is_taken() {
    if !have(&[Need::Namespaces, Need::Program("nft")]) {
        return;
    }
    let (netns, portmap) = made();
    let element = "tcp . 99 comment \"two words\" : 10.1.0.9 . 80";
    nft(
        &netns,
        &format!("add element inet {TABLE} ports4_any {{ {element} }}"),
    );
    let error = portmap.publish(&"99:80".parse().unwrap(), WEB.into());
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(error.to_string().contains("99/tcp"), "{error}");
}

#[test]
fn tables_of_others_stay_as_they_are_whatever_is_in_them() {
    if !have(&[Need::Namespaces, Need::Program("nft")]) {
        return;
    }
    let (netns, portmap) = made();
    let others = r#"
        table ip cofferdam {
            map ports4 { type ipv4_addr : verdict; elements = { 192.0.2.9 : drop }; }
            set times { type inet_service; flags interval,timeout; elements = { 1-9 timeout 1h comment "%s" }; }
            counter some { packets 1 bytes 2; }
            chain one { type filter hook forward priority filter; policy drop; ip saddr vmap @ports4; }
        }
        table bridge other { chain two { type filter hook forward priority 0; }; }
        table netdev third { set empty { type ifname . ether_addr . mark; }; }
    "#;
    nft(&netns, others);
    assert_eq!(portmap.list().unwrap(), declared());
    assert!(portmap.reconcile(&declared()).unwrap().is_nothing());
    nft(&netns, &format!("flush table inet {TABLE}"));
    assert_eq!(portmap.reapply().unwrap().chains, 8);
    portmap.delete_table().unwrap();
    let left = nft(&netns, "list tables");
    let left: Vec<_> = left.lines().collect();
    let theirs = [
        "table ip cofferdam",
        "table bridge other",
        "table netdev third",
    ];
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(theirs.iter().all(|one| left.contains(one)), "{left:?}");
}

#[test]
fn the_text_of_a_ruleset_is_what_nft_reads_and_what_is_read_back() {
    if !have(&[Need::Namespaces, Need::Program("nft")]) {
        return;
    }
    let mut ruleset = declared();
    let strict = NetworkSpec::new("br1").unwrap().trust("vpn0").unwrap();
    let strict = strict.isolation(Isolation::Strict).without_icc();
    let strict = strict.subnet("fd00:1::/64".parse().unwrap());
    ruleset.network(strict).unwrap();
    for (spec, to) in [
        ("[fd00::1]:53:53/udp", "fd00:1::2"),
        ("9:9/sctp", "fd00:1::2"),
    ] {
        let port = PortMapping::of_spec(&spec.parse().unwrap(), to.parse().unwrap());
        let owner = Owner::new("--web'#!;$(`<|&*").unwrap();
        ruleset.publish(port.unwrap().owned_by(owner)).unwrap();
    }
    let netns = NetNs::new();
    nft(&netns, &ruleset.to_string());
    let portmap = netns.run(|| Portmap::open(TABLE)).unwrap();
    assert_eq!(portmap.list().unwrap(), ruleset);
    let theirs = nft(&netns, "list ruleset");
    portmap.delete_table().unwrap();
    portmap.reconcile(&ruleset).unwrap();
    assert_eq!(nft(&netns, "list ruleset"), theirs);
}
