//! Firewalls of others: found, let in to, and left as they were. With real packets.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

mod foreign;
#[path = "../matrix/links.rs"]
mod links;
#[path = "../matrix/probe.rs"]
mod probe;
#[allow(dead_code, reason = "shared with the matrix, which has more places")]
#[path = "../matrix/world.rs"]
mod world;

use std::net::SocketAddr;
use std::process::Command;

use cofferdam_portmap::{
    Drops, ErrorKind, Firewall, ForeignHook, Hook, HookFamily, HookSource, NetworkGuard,
    NetworkSpec, Portmap, Published,
};
use cofferdam_testkit::{Need, have};
use foreign::{Foreign, Last};
use probe::{Outcome, Protocol, Question, Servers};
use world::{At, Bridged, Family, Who, World};

const OURS: &str = "coexist";

fn found(world: &World) -> Vec<ForeignHook> {
    world
        .netns(Who::Host)
        .run(|| ForeignHook::find(OURS))
        .unwrap()
}

/// Whether the neighbour reaches the published port, and the container the neighbour.
fn passes(world: &World, servers: &Servers, must_come: bool) -> [bool; 2] {
    let ways = [
        (Who::Neighbour, At::Lan, 8080),
        (Who::Web, At::Neighbour, 7000),
    ];
    let questions = ways.map(|(from, at, port)| Question {
        from,
        to: SocketAddr::new(at.ip(Family::V4), port),
        protocol: Protocol::Tcp,
        must_come,
    });
    let outcomes = servers.ask(world, &questions);
    [0, 1].map(|index: usize| matches!(outcomes[index], Outcome::Answer { .. }))
}

#[test]
fn a_firewall_that_drops_is_named_let_in_to_and_left_as_it_was() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(Bridged::Unseen);
    let listeners: &[(Who, &[At], &[u16])] = &[
        (Who::Web, &[At::Web], &[80]),
        (Who::Neighbour, &[At::Neighbour], &[7000]),
    ];
    let servers = Servers::new(&world, listeners);
    let host = world.netns(Who::Host);
    let portmap = host.run(|| Portmap::open(OURS)).unwrap();
    let _network = publish(&portmap);
    assert_eq!(passes(&world, &servers, true), [true; 2]);
    assert_eq!(found(&world), []);
    for (last, drops) in [
        (Last::PolicyDrop, Drops::ByPolicy),
        (Last::RuleDrops, Drops::ByLastRule),
    ] {
        let foreign = Foreign::new(host, "filter", "FORWARD", last);
        let before = foreign.dump();
        assert_eq!(passes(&world, &servers, false), [false; 2], "{drops:?}");
        let hooks = found(&world);
        let [hook] = &hooks[..] else {
            panic!("{hooks:?}")
        };
        assert_eq!((hook.table(), hook.chain()), ("filter", "FORWARD"));
        assert_eq!(
            (hook.family(), hook.hook()),
            (HookFamily::Ip, Hook::Forward)
        );
        assert_eq!((hook.priority(), hook.drops()), (10, drops));
        assert_eq!(hook.source(), HookSource::NfTables);
        let way_in = host.run(|| hook.let_in(OURS, "bra")).unwrap();
        assert_eq!(passes(&world, &servers, true), [true; 2], "{drops:?}");
        assert_eq!(foreign.rules(), before.len() + 2);
        way_in.reapply().unwrap();
        assert_eq!(foreign.rules(), before.len() + 2);
        // What a killed process left is taken over, and then removed once.
        way_in.persist();
        let way_in = host.run(|| hook.let_in(OURS, "bra")).unwrap();
        assert_eq!(foreign.rules(), before.len() + 2);
        way_in.remove().unwrap();
        assert_eq!(foreign.dump(), before);
        assert_eq!(passes(&world, &servers, false), [false; 2]);
        drop(foreign);
    }
    assert_eq!(passes(&world, &servers, true), [true; 2]);
}

#[test]
fn rules_that_a_reload_wiped_are_put_back_and_its_own_are_not_taken() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(Bridged::Unseen);
    let host = world.netns(Who::Host);
    let first = Foreign::new(host, "firewalld", "filter_FORWARD", Last::RuleDrops);
    let hooks = found(&world);
    assert_eq!(hooks[0].firewall(), Some(Firewall::Firewalld));
    let way_in = host.run(|| hooks[0].let_in(OURS, "bra")).unwrap();
    drop(first);
    // The same handles again, of other rules.
    let second = Foreign::new(host, "firewalld", "filter_FORWARD", Last::ManyRules);
    let before = second.dump();
    let removed = host.run(|| hooks[0].let_in(OURS, "brb")).unwrap();
    way_in.reapply().unwrap();
    assert_eq!(second.rules(), before.len() + 4);
    removed.remove().unwrap();
    drop(way_in);
    assert_eq!(second.dump(), before);
    // A handle of ours is in use there by now.
    let way_in = host.run(|| hooks[0].let_in(OURS, "bra")).unwrap();
    drop(second);
    let third = Foreign::new(host, "firewalld", "filter_FORWARD", Last::ManyRules);
    let before = third.dump();
    drop(way_in);
    assert_eq!(third.dump(), before);
    drop(third);
    let gone = host.run(|| hooks[0].let_in(OURS, "bra")).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
}

#[test]
fn hooks_that_cannot_be_let_in_to_say_so() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let world = World::new(Bridged::Unseen);
    let host = world.netns(Who::Host);
    let _foreign = Foreign::at(host, "app", "in", 1, Last::PolicyDrop);
    let hooks = found(&world);
    assert_eq!(hooks[0].hook(), Hook::Input);
    let error = host.run(|| hooks[0].let_in(OURS, "bra")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = host.run(|| hooks[0].let_in(OURS, "a/b")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_policy_of_iptables_is_found_whichever_way_it_was_set() {
    let programs = ["iptables-legacy", "iptables-nft"].map(Need::Program);
    if !have(&[Need::Namespaces]) || !have(&programs) {
        return;
    }
    for (program, source) in [
        ("iptables-legacy", HookSource::IpTables),
        ("iptables-nft", HookSource::NfTables),
        ("ip6tables-legacy", HookSource::IpTables),
    ] {
        let world = World::new(Bridged::Unseen);
        let iptables = |arguments: &[&str]| {
            let mut command = Command::new(format!("/usr/sbin/{program}"));
            let done = world
                .netns(Who::Host)
                .run(|| command.args(arguments).output())
                .unwrap();
            assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
        };
        iptables(&["-w", "-A", "FORWARD", "-i", "lo", "-j", "ACCEPT"]);
        assert_eq!(found(&world), [], "{program}");
        iptables(&["-w", "-P", "FORWARD", "DROP"]);
        let hooks = found(&world);
        let [hook] = &hooks[..] else {
            panic!("{program}: {hooks:?}")
        };
        assert_eq!(
            (hook.source(), hook.hook(), hook.chain(), hook.drops()),
            (source, Hook::Forward, "FORWARD", Drops::ByPolicy)
        );
        let bridge = world.netns(Who::Host).run(|| hook.let_in(OURS, "bra"));
        if source == HookSource::IpTables {
            assert_eq!(bridge.unwrap_err().kind(), ErrorKind::Unsupported);
            continue;
        }
        let way_in = bridge.unwrap();
        // iptables can read the rules as its own.
        let mut command = Command::new("/usr/sbin/iptables-nft");
        let shown = world
            .netns(Who::Host)
            .run(|| command.args(["-S", "FORWARD"]).output())
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        for way in ["-i", "-o"] {
            let rule = format!("-A FORWARD {way} bra -m comment --comment \"coexist lets");
            assert!(shown.contains(&rule), "{shown}");
        }
        way_in.remove().unwrap();
    }
}

/// Network A with a published port.
fn publish(portmap: &Portmap) -> (NetworkGuard, Published) {
    let subnet = "10.1.0.0/24".parse().unwrap();
    let network = NetworkSpec::new("bra").unwrap().subnet(subnet);
    let network = portmap.network(network).unwrap();
    let spec = "8080:80".parse().unwrap();
    let port = portmap.publish(&spec, At::Web.ip(Family::V4)).unwrap();
    (network, port)
}
