//! From a zone and a query to a reply, with nothing in between.

use std::ops::Deref;

use crate::wire::{Fault, NAME_MAX, Query, Rcode, Response, Transport, rtype};
use crate::zone::{Found, Node};
use crate::{Name, Zone};

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// This goes back to who asked.
    Answer(Vec<u8>),
    /// The name is none of the zone's: an upstream may know it.
    Forward,
    /// No reply at all: not a query, or too broken to say so.
    Drop,
}

/// Answers one query from `zone`. Nothing is asked of anyone and nothing changes but whose turn it is to be first.
///
/// - A name of the zone is answered whatever the type: `A`, `AAAA`, `SRV`, `ANY`, and `PTR` of its addresses with records,
///   every other type with none (NODATA). Such a query never leaves the host.
/// - A name that is not there is answered with NXDOMAIN if it is in [the zone's domain](Zone::set_domain).
/// - Several addresses take turns in being first.
/// - Any other name is [`Reply::Forward`].
/// - What is not a plain query in class IN is answered with FORMERR, NOTIMP, REFUSED or BADVERS.
///
/// ```
/// use cofferdam_dns::{Reply, Transport, Zone, answer};
///
/// let mut zone = Zone::new();
/// zone.insert("db".parse()?, "10.89.0.2".parse()?);
/// let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01";
/// let Reply::Answer(reply) = answer(&zone, query, Transport::Udp) else { panic!() };
/// assert!(reply.ends_with(&[10, 89, 0, 2]));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn answer(zone: &Zone, query: &[u8], transport: Transport) -> Reply {
    let mut out = Vec::new();
    match respond([zone], query, transport, &mut out) {
        Outcome::Answered(_) | Outcome::Malformed => Reply::Answer(out),
        Outcome::Forward(_) => Reply::Forward,
        Outcome::Drop => Reply::Drop,
    }
}

/// What [`respond`] did.
#[derive(Debug)]
pub(crate) enum Outcome<'q> {
    /// The reply from a zone is in the buffer.
    Answered(Query<'q>),
    /// It is no plain query, and the reply that says so is in the buffer.
    Malformed,
    Forward(Query<'q>),
    Drop,
}

/// Answers one query into `out` from the first of `zones` that has something of the name, or else the first that denies it.
pub(crate) fn respond<'q, Z: Deref<Target = Zone>>(
    zones: impl IntoIterator<Item = Z>,
    query: &'q [u8],
    transport: Transport,
    out: &mut Vec<u8>,
) -> Outcome<'q> {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(Fault::Drop) => return Outcome::Drop,
        Err(Fault::Reply(rcode, envelope)) => {
            Response::new(envelope, transport, out).finish(rcode);
            return Outcome::Malformed;
        }
    };
    let mut buffer = [0; NAME_MAX];
    let key = query.key(&mut buffer);
    let mut denial = None;
    for zone in zones {
        match zone.find(key) {
            Found::Node(node) => {
                let mut response = Response::new(query.envelope, transport, out).authoritative();
                write_node(&zone, node, query.qtype, &mut response);
                response.finish(Rcode::NoError);
                return Outcome::Answered(query);
            }
            // A network may be named as a container of the next.
            Found::Nothing => denial = denial.or(Some(Rcode::NoError)),
            Found::NoSuchName => denial = denial.or(Some(Rcode::NxDomain)),
            Found::Foreign => {}
        }
    }
    let Some(rcode) = denial else {
        return Outcome::Forward(query);
    };
    let response = Response::new(query.envelope, transport, out);
    response.authoritative().finish(rcode);
    Outcome::Answered(query)
}

fn write_node(zone: &Zone, node: &Node, qtype: u16, response: &mut Response<'_, '_>) {
    let ttl = zone.ttl();
    let asked = |rtype| qtype == rtype || qtype == rtype::ANY;
    if asked(rtype::A) {
        for address in from(&node.v4, node.turn_v4.next(node.v4.len())) {
            response.record(rtype::A, ttl, |out| out.extend(address.octets()));
        }
    }
    if asked(rtype::AAAA) {
        for address in from(&node.v6, node.turn_v6.next(node.v6.len())) {
            response.record(rtype::AAAA, ttl, |out| out.extend(address.octets()));
        }
    }
    if asked(rtype::PTR) {
        for name in &node.names {
            response.record(rtype::PTR, ttl, |out| name.write_in(zone.domain(), out));
        }
    }
    if asked(rtype::SRV) {
        write_services(zone, node, response);
    }
}

/// The services, and behind them the addresses of their targets as far as they fit.
fn write_services(zone: &Zone, node: &Node, response: &mut Response<'_, '_>) {
    let ttl = zone.ttl();
    for service in &node.services {
        response.record(rtype::SRV, ttl, |out| {
            for number in [service.priority, service.weight, service.port] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            service.target.write(out);
        });
    }
    let mut told: Vec<&Name> = Vec::new();
    for service in &node.services {
        let target = &service.target;
        if told.contains(&target) {
            continue;
        }
        told.push(target);
        let Found::Node(host) = zone.find(&target.key()) else {
            continue;
        };
        for address in &host.v4 {
            response.additional(target, rtype::A, ttl, &address.octets());
        }
        for address in &host.v6 {
            response.additional(target, rtype::AAAA, ttl, &address.octets());
        }
    }
}

/// All of `list`, beginning at `first` and around.
fn from<T>(list: &[T], first: usize) -> impl Iterator<Item = &T> {
    let (tail, head) = list.split_at(first);
    head.iter().chain(tail)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use simple_dns::rdata::RData;
    use simple_dns::{Packet, PacketFlag};

    use super::*;
    use crate::wire::{HEADER, UDP_MAX, Verdict, judge};

    const HEAD: [u8; HEADER] = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];

    fn query(name: &str, qtype: u16) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend_from_slice(&qtype.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes
    }

    fn with_opt(mut query: Vec<u8>, payload: u16, version: u8, flags: u8) -> Vec<u8> {
        query[11] += 1;
        query.extend_from_slice(&[0, 0, 41]);
        query.extend_from_slice(&payload.to_be_bytes());
        query.extend_from_slice(&[0, version, flags, 0, 0, 0]);
        query
    }

    fn zone() -> Zone {
        let mut zone = Zone::new();
        for (name, address) in [
            ("web", "10.89.0.2"),
            ("Www", "10.89.0.2"),
            ("web.app", "10.89.0.2"),
            ("dual", "10.89.0.3"),
            ("dual", "fd00::3"),
            ("many", "10.89.1.1"),
            ("many", "10.89.1.2"),
            ("many", "10.89.1.3"),
            ("many", "fd00:1::1"),
            ("many", "fd00:1::2"),
            ("six", "fd00::6"),
        ] {
            zone.insert(name.parse().unwrap(), address.parse().unwrap());
        }
        zone
    }

    fn ask(query: &[u8], transport: Transport) -> Vec<u8> {
        match answer(&zone(), query, transport) {
            Reply::Answer(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// What the records of a reply hold, read by another implementation.
    fn data(reply: &[u8]) -> Vec<String> {
        let packet = Packet::parse(reply).unwrap();
        assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::AUTHORITATIVE_ANSWER));
        assert!(packet.name_servers.is_empty() && packet.additional_records.is_empty());
        let records = packet.answers.iter();
        records
            .map(|record| {
                assert_eq!(record.ttl, 5);
                assert_eq!(record.name, packet.questions[0].qname);
                match &record.rdata {
                    RData::A(a) => IpAddr::V4(a.address.into()).to_string(),
                    RData::AAAA(a) => IpAddr::V6(a.address.into()).to_string(),
                    RData::PTR(ptr) => ptr.0.to_string(),
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    }

    #[test]
    fn every_type_of_an_owned_name_is_answered_here() {
        const NODATA: &[&str] = &[];
        const ARPA6: &str =
            "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        for (name, qtype, expected) in [
            ("web", 1, &["10.89.0.2"][..]),
            ("WWW", 1, &["10.89.0.2"]),
            ("wEb.ApP", 1, &["10.89.0.2"]),
            ("web", 28, NODATA),
            ("six", 1, NODATA),
            ("six", 28, &["fd00::6"]),
            ("dual", 255, &["10.89.0.3", "fd00::3"]),
            ("web", 2, NODATA),
            ("web", 5, NODATA),
            ("web", 6, NODATA),
            ("web", 12, NODATA),
            ("web", 15, NODATA),
            ("web", 16, NODATA),
            ("web", 33, NODATA),
            ("web", 64, NODATA),
            ("web", 65, NODATA),
            ("2.0.89.10.in-addr.arpa", 12, &["web", "Www", "web.app"]),
            ("2.0.89.10.IN-ADDR.ARPA", 255, &["web", "Www", "web.app"]),
            ("2.0.89.10.in-addr.arpa", 1, NODATA),
            (ARPA6, 12, &["dual"]),
        ] {
            for transport in [Transport::Udp, Transport::Tcp] {
                let reply = ask(&query(name, qtype), transport);
                assert_eq!(data(&reply), expected, "{name} {qtype}");
            }
        }
    }

    #[test]
    fn a_domain_is_the_zones_own() {
        let mut zone = zone();
        zone.set_domain("App".parse().unwrap());
        for (name, qtype, rcode, count) in [
            ("web.app", 1, 0, 1),
            ("many.APP", 28, 0, 2),
            ("six.app", 1, 0, 0),
            ("app", 1, 0, 0),
            ("nobody.app", 1, 3, 0),
            ("nobody.app", 65, 3, 0),
        ] {
            let Reply::Answer(reply) = answer(&zone, &query(name, qtype), Transport::Udp) else {
                panic!("{name}");
            };
            assert_eq!(
                (reply[3] & 15, data(&reply).len()),
                (rcode, count),
                "{name}"
            );
        }
        let asked = query("2.0.89.10.in-addr.arpa", 12);
        let Reply::Answer(reply) = answer(&zone, &asked, Transport::Udp) else {
            panic!();
        };
        assert_eq!(data(&reply), ["web.App", "Www.App", "web.app"]);
        let elsewhere = answer(&zone, &query("nobody", 1), Transport::Udp);
        assert_eq!(elsewhere, Reply::Forward);
    }

    #[test]
    fn a_zone_that_has_a_name_answers_before_one_that_denies_it() {
        // A network that is named as a container of another.
        let (mut network, mut other) = (Zone::new(), Zone::new());
        network.set_domain("db".parse().unwrap());
        network.insert("_x.web".parse().unwrap(), "10.0.0.1".parse().unwrap());
        for name in ["db", "y.db", "web"] {
            other.insert(name.parse().unwrap(), "10.0.0.2".parse().unwrap());
        }
        let mut out = Vec::new();
        let mut respond = |name: &str| {
            respond(
                [&network, &other],
                &query(name, 1),
                Transport::Udp,
                &mut out,
            );
            (out[3] & 15, data(&out))
        };
        for name in ["db", "y.db", "web"] {
            assert_eq!(respond(name), (0, vec!["10.0.0.2".to_owned()]), "{name}");
        }
        assert_eq!(respond("z.db"), (3, vec![]));
        assert_eq!(respond("web.db"), (0, vec![]));
    }

    #[test]
    fn targets_in_the_domain_have_their_addresses_too() {
        let mut zone = zone();
        zone.set_domain("net".parse().unwrap());
        let service = crate::Service::new("dual.net".parse().unwrap(), 8080);
        zone.insert_service("_http._tcp.dual".parse().unwrap(), service);
        let asked = query("_http._tcp.dual.net", 33);
        let Reply::Answer(reply) = answer(&zone, &asked, Transport::Udp) else {
            panic!();
        };
        let packet = Packet::parse(&reply).unwrap();
        assert_eq!(packet.additional_records.len(), 2);
    }

    #[test]
    fn services_come_with_the_addresses_of_their_targets() {
        let mut zone = zone();
        let service = crate::Service::new("dual".parse().unwrap(), 8080);
        let second = crate::Service::new("web".parse().unwrap(), 80)
            .priority(7)
            .weight(9);
        let name: crate::Name = "_http._tcp.dual".parse().unwrap();
        assert!(zone.insert_service(name.clone(), service.clone()));
        assert!(!zone.insert_service(name.clone(), service.clone()));
        assert!(zone.insert_service(name.clone(), second));
        let asked = query("_http._tcp.dual", 33);
        let Reply::Answer(reply) = answer(&zone, &asked, Transport::Udp) else {
            panic!();
        };
        let packet = Packet::parse(&reply).unwrap();
        let services: Vec<_> = packet.answers.iter().map(|record| &record.rdata).collect();
        let RData::SRV(first) = services[0] else {
            panic!()
        };
        let RData::SRV(second) = services[1] else {
            panic!()
        };
        assert_eq!(
            (first.port, first.target.to_string()),
            (8080, "dual".to_owned())
        );
        assert_eq!((second.priority, second.weight, second.port), (7, 9, 80));
        let more: Vec<_> = packet
            .additional_records
            .iter()
            .map(|r| r.name.to_string())
            .collect();
        assert_eq!(more, ["dual", "dual", "web"]);

        let with_edns = with_opt(query("_http._tcp.dual", 33), 1232, 0, 0);
        let Reply::Answer(reply) = answer(&zone, &with_edns, Transport::Udp) else {
            panic!();
        };
        let packet = Packet::parse(&reply).unwrap();
        assert!(packet.opt().is_some() && packet.additional_records.len() == 3);

        // Other types of that name, and names on the way to it.
        for (name, qtype) in [("_http._tcp.dual", 1), ("_tcp.dual", 33)] {
            let Reply::Answer(reply) = answer(&zone, &query(name, qtype), Transport::Udp) else {
                panic!();
            };
            assert_eq!((reply[3] & 15, data(&reply).len()), (0, 0), "{name}");
        }
        assert!(zone.remove_service(&name, &service));
        assert!(zone.remove_name(&name) && !zone.remove_name(&name));
    }

    #[test]
    fn addresses_beside_a_service_are_left_out_rather_than_cutting_it() {
        let mut zone = Zone::new();
        for last in 0..250 {
            zone.insert("many".parse().unwrap(), IpAddr::from([10, 89, 2, last]));
        }
        let name = "_http._tcp.many".parse().unwrap();
        zone.insert_service(name, crate::Service::new("many".parse().unwrap(), 80));
        for asked in [
            query("_http._tcp.many", 33),
            with_opt(query("_http._tcp.many", 33), 600, 0, 0),
        ] {
            let Reply::Answer(reply) = answer(&zone, &asked, Transport::Udp) else {
                panic!();
            };
            let packet = Packet::parse(&reply).unwrap();
            assert!(!packet.has_flags(PacketFlag::TRUNCATION));
            assert_eq!(packet.answers.len(), 1);
            assert!(packet.additional_records.len() > 15 && reply.len() <= 600);
        }
    }

    #[test]
    fn other_names_go_to_an_upstream() {
        for name in [
            "",
            "example.com",
            "we",
            "webb",
            "web.app.example",
            "x.web",
            "3.0.89.11.in-addr.arpa",
            "0.89.10.in-addr.arpa",
            "ip6.arpa",
        ] {
            for qtype in [1, 12, 28, 65, 255] {
                let reply = answer(&zone(), &query(name, qtype), Transport::Udp);
                assert_eq!(reply, Reply::Forward, "{name} {qtype}");
            }
        }
    }

    #[test]
    fn the_question_comes_back_byte_for_byte() {
        let asked = query("wEb", 1);
        let reply = ask(&asked, Transport::Udp);
        assert_eq!(reply[..2], asked[..2]);
        assert_eq!(reply[HEADER..asked.len()], asked[HEADER..]);
    }

    #[test]
    fn flags_are_those_of_a_resolver() {
        for (sent, expected) in [
            (0x0000, 0x8480),
            (0x0100, 0x8580),
            (0x0130, 0x8590),
            (0x0670, 0x8490),
        ] {
            let mut asked = query("web", 28);
            asked[2..4].copy_from_slice(&u16::to_be_bytes(sent));
            let reply = ask(&asked, Transport::Udp);
            let flags = u16::from_be_bytes([reply[2], reply[3]]);
            assert_eq!(flags, expected, "{sent:04x} gave {flags:04x}");
        }
    }

    #[test]
    fn addresses_take_turns_in_each_family() {
        let zone = zone();
        let mut firsts = Vec::new();
        // A client asks for both families at once.
        for _ in 0..3 {
            for qtype in [1, 28] {
                let asked = query("many", qtype);
                let Reply::Answer(reply) = answer(&zone, &asked, Transport::Udp) else {
                    panic!();
                };
                let all = data(&reply);
                assert_eq!(all.len(), if qtype == 1 { 3 } else { 2 });
                firsts.push(all[0].clone());
            }
        }
        let expected = [
            "10.89.1.1",
            "fd00:1::1",
            "10.89.1.2",
            "fd00:1::2",
            "10.89.1.3",
            "fd00:1::1",
        ];
        assert_eq!(firsts, expected);
    }

    #[test]
    fn edns_is_answered_where_asked_for() {
        let plain = ask(&query("web", 1), Transport::Udp);
        assert_eq!(plain[11], 0);
        for (flags, transport) in [(0, Transport::Udp), (0x80, Transport::Tcp)] {
            let asked = with_opt(query("web", 1), 4096, 0, flags);
            let reply = ask(&asked, transport);
            let opt = &reply[reply.len() - 11..];
            assert_eq!(opt, [0, 0, 41, 0x04, 0xd0, 0, 0, flags, 0, 0, 0]);
            assert_eq!(Packet::parse(&reply).unwrap().answers.len(), 1);
        }
    }

    #[test]
    fn an_edns_version_of_the_future_is_badvers() {
        let reply = ask(
            &with_opt(query("example.com", 1), 1232, 1, 0),
            Transport::Udp,
        );
        // The low four bits of 16 are in the header, the others in the record's first byte of four.
        assert_eq!(reply[3] & 15, 0);
        let opt = &reply[reply.len() - 11..];
        assert_eq!(opt, [0, 0, 41, 0x04, 0xd0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_record_and_says_so() {
        let mut zone = Zone::new();
        for last in 0..250 {
            let address = IpAddr::from([10, 89, 2, last]);
            zone.insert("many".parse().unwrap(), address);
        }
        for (payload, transport, limit, count) in [
            (None, Transport::Udp, 512, 30),
            (Some(0), Transport::Udp, 512, 29),
            (Some(600), Transport::Udp, 600, 35),
            (Some(65535), Transport::Udp, UDP_MAX, 74),
            (None, Transport::Tcp, 65535, 250),
            (Some(512), Transport::Tcp, 65535, 250),
        ] {
            let plain = query("many", 1);
            let asked = match payload {
                Some(payload) => with_opt(plain, payload, 0, 0),
                None => plain,
            };
            let Reply::Answer(reply) = answer(&zone, &asked, transport) else {
                panic!();
            };
            let packet = Packet::parse(&reply).unwrap();
            let cut = packet.has_flags(PacketFlag::TRUNCATION);
            assert!(reply.len() <= limit, "{payload:?}: {}", reply.len());
            assert_eq!(
                (packet.answers.len(), cut),
                (count, count < 250),
                "{payload:?}"
            );
            assert_eq!(packet.opt().is_some(), payload.is_some());
        }
    }

    #[test]
    fn what_is_no_plain_query_gets_the_code_of_the_rfcs() {
        let change = |at: usize, bytes: &[u8]| {
            let mut query = query("web", 1);
            query[at..at + bytes.len()].copy_from_slice(bytes);
            query
        };
        let two_opts = with_opt(with_opt(query("web", 1), 512, 0, 0), 512, 0, 0);
        let mut named_opt = query("web", 1);
        named_opt[11] = 1;
        named_opt.extend_from_slice(b"\x01x\0\0\x29\x04\xd0\0\0\0\0\0\0");
        let long = query(&["x".repeat(63).as_str(); 4].join("."), 1);
        let cases = [
            ("iquery", change(2, &[0x09]), 4),
            ("status", change(2, &[0x11]), 4),
            ("update", change(2, &[0x29]), 4),
            ("no question", HEAD.with(4, &[0, 0]).to_vec(), 1),
            ("two questions", change(4, &[0, 2]), 1),
            ("an answer", change(6, &[0, 1]), 1),
            ("an authority", change(8, &[0, 1]), 1),
            ("a missing record", change(10, &[0xff, 0xff]), 1),
            ("a cut question", query("web", 1)[..18].to_vec(), 1),
            ("nothing after the header", HEAD.to_vec(), 1),
            ("a pointer to itself", change(12, &[0xc0, 12]), 1),
            ("a reserved label", change(12, &[0x83]), 1),
            ("a long name", long, 1),
            ("more after the end", [query("web", 1), vec![0]].concat(), 1),
            ("two opts", two_opts, 1),
            ("an opt with a name", named_opt, 1),
            ("type 0", query("web", 0), 1),
            ("type opt", query("web", 41), 1),
            ("axfr", query("web", 252), 5),
            ("ixfr of others", query("example.com", 251), 5),
            ("class chaos", change(19, &[0, 3]), 5),
        ];
        for (what, bytes, rcode) in cases {
            let reply = ask(&bytes, Transport::Tcp);
            assert_eq!(reply[3] & 15, rcode, "{what}");
            assert_eq!(reply[..2], bytes[..2], "{what}");
            assert_eq!(reply[2] & 0xf8, 0x80 | bytes[2] & 0x78, "{what}");
            assert_eq!(reply[6..10], [0; 4], "{what}");
        }
    }

    trait With {
        fn with(self, at: usize, bytes: &[u8]) -> Self;
    }

    impl With for [u8; HEADER] {
        fn with(mut self, at: usize, bytes: &[u8]) -> Self {
            self[at..at + bytes.len()].copy_from_slice(bytes);
            self
        }
    }

    #[test]
    fn what_is_no_query_gets_no_reply() {
        let mut response = query("web", 1);
        response[2] |= 0x80;
        for bytes in [&[][..], &HEAD[..11], &response] {
            for transport in [Transport::Udp, Transport::Tcp] {
                assert_eq!(answer(&zone(), bytes, transport), Reply::Drop);
            }
        }
    }

    #[test]
    fn the_longest_name_is_answered() {
        let name = [
            "x".repeat(63),
            "y".repeat(63),
            "z".repeat(63),
            "w".repeat(61),
        ]
        .join(".");
        let mut zone = Zone::new();
        zone.insert(name.parse().unwrap(), "10.0.0.1".parse().unwrap());
        for asked in [query(&name, 1), query("1.0.0.10.in-addr.arpa", 12)] {
            let Reply::Answer(reply) = answer(&zone, &asked, Transport::Udp) else {
                panic!();
            };
            assert_eq!(data(&reply).len(), 1);
        }
    }

    #[test]
    fn broken_messages_break_nothing() {
        let zone = zone();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below as u64) as usize
        };
        let seeds = [
            query("web", 1),
            query("2.0.89.10.in-addr.arpa", 12),
            query(&["x".repeat(63).as_str(); 3].join("."), 28),
            with_opt(query("many", 255), 4096, 0, 0x80),
            with_opt(with_opt(query("example.com", 65), 512, 0, 0), 512, 0, 0),
            [
                query("web", 1),
                b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04abcd".to_vec(),
            ]
            .concat(),
        ];
        let mut answered = 0;
        for round in 0..60_000 {
            let seed = &seeds[round % seeds.len()];
            let mut bytes = seed.clone();
            for _ in 0..next(6) {
                let at = next(bytes.len());
                bytes[at] = [next(256) as u8, 0xc0, 0xff, 0x3f, 0x40, 0][next(6)];
            }
            if next(3) == 0 {
                bytes.truncate(next(bytes.len() + 1));
            }
            for (transport, limit) in [(Transport::Udp, UDP_MAX), (Transport::Tcp, 65535)] {
                if let Reply::Answer(reply) = answer(&zone, &bytes, transport) {
                    assert!((HEADER..=limit).contains(&reply.len()));
                    assert_eq!(reply[..2], bytes[..2]);
                    assert_eq!(reply[2] & 0x80, 0x80);
                    answered += 1;
                }
            }
            // The same bytes as a reply from an upstream.
            let verdict = judge(seed, query("web", 1).len().min(seed.len()), &bytes);
            assert!(verdict == Verdict::Stranger || bytes[2] & 0x80 != 0);
        }
        assert!(answered > 10_000, "{answered}");
    }
}
