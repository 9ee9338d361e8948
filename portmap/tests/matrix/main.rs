//! Who reaches what, with real packets: every way between a host, its LAN and its containers, by TCP and UDP, IPv4 and IPv6, with
//! bridged packets shown to the hooks of IP and not, by each back end. [`MATRIX`] has what is to come of each.

#![expect(
    clippy::unwrap_used,
    reason = "fixtures panic where they cannot do their work"
)]

mod backend;
mod links;
mod probe;
mod world;

use std::net::SocketAddr;

use backend::Backend;
use cofferdam_testkit::{Need, have, is_emulated, skip};
use probe::{Outcome, Protocol, Question, Servers};
use world::At::{GateA, GateB, GateI, Lan, Loopback};
use world::Who::{Host, Inner, Mate, Neighbour, Other, Web};
use world::{At, Bridged, Family, Who, World};

/// Published for port 80, 81 and 82 of `Web`: on every address, on the LAN's only, on loopback only.
const ANYWHERE: u16 = 8080;
const ON_LAN: u16 = 8081;
const ON_LOOPBACK: u16 = 8082;
/// Where every container listens, and nothing is published for.
const CLOSED: u16 = 83;
/// What the host itself serves on all its addresses.
const SERVICE: u16 = 7000;
const DNS: u16 = 53;

/// Who listens where, by TCP and UDP.
const LISTENERS: &[(Who, &[At], &[u16])] = &[
    (Host, &[Loopback, Lan, GateA, GateB, GateI], &[SERVICE, DNS]),
    (Neighbour, &[At::Neighbour], &[SERVICE, DNS]),
    (Web, &[At::Web], &[80, 81, 82, CLOSED, DNS]),
    (Mate, &[At::Mate], &[CLOSED]),
    (Other, &[At::Other], &[CLOSED]),
    (Inner, &[At::Inner], &[CLOSED]),
];

/// What is to come of a question.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// An answer of this one's port, which saw the client under this address.
    Gets(Who, u16, At),
    /// The same over IPv4. The kernel takes no packet of `::1` off the host: that is the proxy's work, without which it is shut.
    Gets4(Who, u16, At),
    /// Nothing comes, and a datagram does not even arrive.
    Shut,
}
use Expect::{Gets, Gets4, Shut};

type Cell = (Who, At, u16, Expect);

#[rustfmt::skip]
const MATRIX: &[Cell] = &[
    // from      to             port         what comes
    // The host itself, by every address of its own, and straight to its containers.
    (Host,      Loopback,      ANYWHERE,    Gets4(Web, 80, GateA)),
    (Host,      Loopback,      ON_LAN,      Shut),
    (Host,      Loopback,      ON_LOOPBACK, Gets4(Web, 82, GateA)),
    (Host,      Lan,           ANYWHERE,    Gets(Web, 80, Lan)),
    (Host,      Lan,           ON_LAN,      Gets(Web, 81, Lan)),
    (Host,      Lan,           ON_LOOPBACK, Shut),
    (Host,      GateA,         ANYWHERE,    Gets(Web, 80, GateA)),
    (Host,      GateB,         ANYWHERE,    Gets(Web, 80, GateB)),
    (Host,      GateA,         ON_LAN,      Shut),
    (Host,      At::Web,       CLOSED,      Gets(Web, CLOSED, GateA)),
    (Host,      At::Inner,     CLOSED,      Gets(Inner, CLOSED, GateI)),
    (Host,      At::Neighbour, SERVICE,     Gets(Neighbour, SERVICE, Lan)),
    // The LAN: published ports with its own address, nothing else, neither by routing to containers nor in loopback's name.
    (Neighbour, Lan,           ANYWHERE,    Gets(Web, 80, At::Neighbour)),
    (Neighbour, Lan,           ON_LAN,      Gets(Web, 81, At::Neighbour)),
    (Neighbour, Lan,           ON_LOOPBACK, Shut),
    (Neighbour, Lan,           CLOSED,      Shut),
    (Neighbour, GateA,         ANYWHERE,    Gets(Web, 80, At::Neighbour)),
    (Neighbour, GateA,         ON_LAN,      Shut),
    (Neighbour, Loopback,      ANYWHERE,    Shut),
    (Neighbour, Loopback,      ON_LAN,      Shut),
    (Neighbour, Loopback,      ON_LOOPBACK, Shut),
    (Neighbour, Loopback,      DNS,         Shut),
    (Neighbour, At::Web,       80,          Shut),
    (Neighbour, At::Web,       81,          Shut),
    (Neighbour, At::Web,       82,          Shut),
    (Neighbour, At::Web,       CLOSED,      Shut),
    (Neighbour, At::Mate,      CLOSED,      Shut),
    (Neighbour, At::Other,     CLOSED,      Shut),
    (Neighbour, At::Inner,     CLOSED,      Shut),
    (Neighbour, Lan,           SERVICE,     Gets(Host, SERVICE, At::Neighbour)),
    // The published container: itself by the host (hairpin), its mates, the host, the outside under the host's address.
    (Web,       Lan,           ANYWHERE,    Gets(Web, 80, GateA)),
    (Web,       Lan,           ON_LAN,      Gets(Web, 81, GateA)),
    (Web,       GateA,         ANYWHERE,    Gets(Web, 80, GateA)),
    (Web,       GateB,         ANYWHERE,    Gets(Web, 80, GateA)),
    (Web,       GateA,         ON_LOOPBACK, Shut),
    (Web,       At::Mate,      CLOSED,      Gets(Mate, CLOSED, At::Web)),
    (Web,       GateA,         SERVICE,     Gets(Host, SERVICE, At::Web)),
    (Web,       Lan,           SERVICE,     Gets(Host, SERVICE, At::Web)),
    (Web,       At::Neighbour, SERVICE,     Gets(Neighbour, SERVICE, Lan)),
    (Web,       At::Other,     CLOSED,      Shut),
    (Web,       At::Inner,     CLOSED,      Shut),
    // Another on its network: past the host and by it.
    (Mate,      At::Web,       CLOSED,      Gets(Web, CLOSED, At::Mate)),
    (Mate,      At::Web,       80,          Gets(Web, 80, At::Mate)),
    (Mate,      Lan,           ANYWHERE,    Gets(Web, 80, GateA)),
    (Mate,      GateA,         ANYWHERE,    Gets(Web, 80, GateA)),
    (Mate,      Lan,           ON_LOOPBACK, Shut),
    (Mate,      At::Neighbour, SERVICE,     Gets(Neighbour, SERVICE, Lan)),
    // Another network: what is published, with its own address, and nothing past the host.
    (Other,     Lan,           ANYWHERE,    Gets(Web, 80, At::Other)),
    (Other,     GateB,         ANYWHERE,    Gets(Web, 80, At::Other)),
    (Other,     GateA,         ANYWHERE,    Gets(Web, 80, At::Other)),
    (Other,     Lan,           ON_LOOPBACK, Shut),
    (Other,     At::Web,       80,          Shut),
    (Other,     At::Web,       CLOSED,      Shut),
    (Other,     At::Mate,      CLOSED,      Shut),
    (Other,     At::Inner,     CLOSED,      Shut),
    (Other,     At::Neighbour, SERVICE,     Gets(Neighbour, SERVICE, Lan)),
    // An internal network: names of the host, and nothing else.
    (Inner,     GateI,         DNS,         Gets(Host, DNS, At::Inner)),
    (Inner,     GateI,         SERVICE,     Shut),
    (Inner,     GateA,         SERVICE,     Shut),
    (Inner,     Lan,           SERVICE,     Shut),
    (Inner,     Lan,           ANYWHERE,    Shut),
    (Inner,     GateI,         ANYWHERE,    Shut),
    (Inner,     At::Web,       80,          Shut),
    (Inner,     At::Web,       CLOSED,      Shut),
    (Inner,     At::Web,       DNS,         Shut),
    (Inner,     At::Other,     CLOSED,      Shut),
    (Inner,     At::Neighbour, SERVICE,     Shut),
    (Inner,     At::Neighbour, DNS,         Shut),
];

#[test]
fn every_way_is_as_the_matrix_has_it_by_nf_tables() {
    if have(&[Need::Namespaces]) {
        every_way(Backend::NfTables);
    }
}

#[cfg(feature = "iptables")]
#[test]
fn every_way_is_as_the_matrix_has_it_by_iptables_nft() {
    if have(&[Need::Namespaces, Need::Program("ip6tables-nft-restore")]) {
        every_way(Backend::Iptables(cofferdam_portmap::Variant::Nft));
    }
}

#[cfg(feature = "iptables")]
#[test]
fn every_way_is_as_the_matrix_has_it_by_iptables_legacy() {
    if have(&[Need::Namespaces, Need::Program("ip6tables-legacy-restore")]) {
        every_way(Backend::Iptables(cofferdam_portmap::Variant::Legacy));
    }
}

fn every_way(backend: Backend) {
    if !Bridged::possible().contains(&Bridged::Seen) {
        skip("br_netfilter for bridged packets", is_emulated());
    }
    for bridged in Bridged::possible() {
        let world = World::new(*bridged);
        let servers = Servers::new(&world, LISTENERS);
        links_carry(&world, &servers);
        let _published = backend.publish(&world);
        let cells = cells();
        let questions: Vec<_> = cells.iter().map(|one| one.question).collect();
        let outcomes = servers.ask(&world, &questions);
        let wrong: Vec<_> = cells
            .iter()
            .zip(outcomes)
            .filter(|(cell, outcome)| cell.expected != *outcome)
            .map(|(cell, outcome)| {
                let Question {
                    from, to, protocol, ..
                } = cell.question;
                format!(
                    "{from:?} to {to} by {protocol:?}: {outcome:?}, not {:?}",
                    cell.expected
                )
            })
            .collect();
        assert!(
            wrong.is_empty(),
            "{backend:?}, bridged packets {bridged:?}, {} of {} are wrong:\n{}",
            wrong.len(),
            cells.len(),
            wrong.join("\n")
        );
    }
}

/// Waits until everybody's link carries packets: a way that is shut by a link not yet up would look right.
fn links_carry(world: &World, servers: &Servers) {
    let gates = [
        (Neighbour, Lan),
        (Web, GateA),
        (Mate, GateA),
        (Other, GateB),
        (Inner, GateI),
    ];
    let questions = gates.iter().flat_map(|(from, at)| {
        Family::BOTH.map(|family| Question {
            from: *from,
            to: SocketAddr::new(at.ip(family), DNS),
            protocol: Protocol::Udp,
            must_come: true,
        })
    });
    let questions: Vec<_> = questions.collect();
    for (question, outcome) in questions.iter().zip(servers.ask(world, &questions)) {
        assert!(matches!(outcome, Outcome::Answer { .. }), "{question:?}");
    }
}

/// A cell of the matrix by one protocol and family.
struct One {
    question: Question,
    expected: Outcome,
}

fn cells() -> Vec<One> {
    let mut cells = Vec::new();
    for (from, to, port, expect) in MATRIX.iter().copied() {
        for family in Family::BOTH {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let expected = expected(expect, family);
                let question = Question {
                    from,
                    to: SocketAddr::new(to.ip(family), port),
                    protocol,
                    must_come: expected != Outcome::Nothing,
                };
                cells.push(One { question, expected });
            }
        }
    }
    cells
}

fn expected(expect: Expect, family: Family) -> Outcome {
    match (expect, family) {
        (Gets(who, port, at), _) | (Gets4(who, port, at), Family::V4) => {
            let seen = at.ip(family);
            Outcome::Answer { who, port, seen }
        }
        (Gets4(..), Family::V6) | (Shut, _) => Outcome::Nothing,
    }
}
