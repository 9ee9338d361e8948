//! Tables with an owner: nobody else changes them, and a flush passes over them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cofferdam_portmap::{ErrorKind, Ownership, Portmap, TableRepair};
use cofferdam_testkit::{Need, NetNs, have, skip, turns};

use crate::world::{
    BridgedPackets, HOST, WEB, Wait, World, elements, flush_ruleset, foreign, rules, tables, tcp,
};
use crate::{TABLE, a_rule, at, declared, listen, network, open, port, rules_of};

fn owning(netns: &NetNs, ownership: Ownership) -> Portmap {
    let builder = Portmap::builder(TABLE).ownership(ownership);
    netns.run(|| builder.open()).unwrap()
}

#[test]
fn traffic_never_stops_while_others_flush_all_tables() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(BridgedPackets::Unseen);
    let portmap = owning(&world.host, Ownership::Owned);
    let _network = portmap.network(network("br0", "10.1.0.0/24")).unwrap();
    let server = listen(&world.web, 80);
    let _web = portmap
        .publish(&"8080:80".parse().unwrap(), WEB.into())
        .unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                flush_ruleset(&world.host);
            }
        });
        for _ in 0..turns(100, 10) {
            let answered = tcp(&world.neighbour, at(HOST, 8080), &server, Wait::Reached);
            let closed = tcp(&world.neighbour, at(WEB, 81), &server, Wait::Gone);
            if answered.is_none() || closed.is_some() {
                done.store(true, Ordering::Relaxed);
                panic!("answered {answered:?}, closed {closed:?}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(portmap.reapply().unwrap().is_nothing());
}

#[test]
fn nobody_else_changes_an_owned_table_and_it_ends_with_its_owner() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let portmap = owning(&netns, Ownership::Owned);
    portmap.reconcile(&declared()).unwrap();
    let other = open(&netns);
    assert_eq!(other.list().unwrap(), declared());
    for error in [
        other.publish_all([port("9:9", WEB.into())]).unwrap_err(),
        other.network(network("br9", "10.9.0.0/24")).unwrap_err(),
        other.unpublish(&"8080:80".parse().unwrap()).unwrap_err(),
        other.remove_network("br0").unwrap_err(),
        other.reconcile(&declared()).unwrap_err(),
        other.delete_table().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Owned, "{error}");
        assert!(error.to_string().contains(TABLE), "{error}");
    }
    for message in [a_rule("published"), rules_of("published")] {
        assert_eq!(foreign(&netns, vec![message]), Err(1)); // EPERM
    }
    assert!(portmap.reconcile(&declared()).unwrap().is_nothing());
    // The guards hold the table too.
    let held = portmap.publish_all([port("9:9/udp", WEB.into())]).unwrap();
    drop(portmap);
    assert_eq!(elements(&netns, TABLE, "bridges"), 2);
    held.persist();
    assert_eq!(tables(&netns), [""; 0]);
}

#[test]
fn a_table_that_was_shared_gets_an_owner_in_one_step() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let shared = open(&netns);
    shared.reconcile(&declared()).unwrap();
    let all = rules(&netns);
    let owner = owning(&netns, Ownership::Owned);
    let port = owner.publish_all([port("9:9/udp", WEB.into())]).unwrap();
    assert_eq!(rules(&netns), all);
    assert_eq!(shared.list().unwrap().ports().count(), 5);
    flush_ruleset(&netns);
    port.remove().unwrap();
    assert_eq!(shared.list().unwrap(), declared());
    drop(owner);
    assert_eq!(tables(&netns), [""; 0]);
    let owner = owning(&netns, Ownership::Owned);
    shared.reapply().unwrap();
    let repaired = owner.reconcile(&declared()).unwrap();
    assert_eq!(repaired.table, TableRepair::Replaced);
    assert_eq!((repaired.added, repaired.removed), (0, 0));
}

#[test]
fn a_persistent_table_outlives_its_owner_and_is_taken_over() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let netns = NetNs::new();
    let first = owning(&netns, Ownership::OwnedPersistent);
    match first.reconcile(&declared()) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            assert!(error.to_string().contains("6.9"), "{error}");
            assert_eq!(tables(&netns), [""; 0]);
            return skip("a kernel with NFT_TABLE_F_PERSIST", false);
        }
        Err(error) => panic!("{error}"),
    }
    flush_ruleset(&netns);
    let second = owning(&netns, Ownership::OwnedPersistent);
    let taken = second.publish_all([port("9:9/udp", WEB.into())]);
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::Owned);
    drop(first);
    assert_eq!(second.list().unwrap(), declared());
    let port = second.publish_all([port("9:9/udp", WEB.into())]).unwrap();
    let before = crate::generation(&netns);
    flush_ruleset(&netns);
    port.remove().unwrap();
    assert_eq!(second.list().unwrap(), declared());
    assert!(crate::generation(&netns) > before);
    let error = open(&netns).delete_table().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Owned, "{error}");
    second.delete_table().unwrap();
}
