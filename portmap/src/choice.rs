//! Which host ports specs get: those they name, or free ones, each reserved before it is published.

use std::collections::HashSet;
use std::io;

use crate::ephemeral::{Candidates, Turn};
use crate::error::Result;
use crate::netns::NetNs;
use crate::reservation::{Claim, Families, Purpose, Reservation, Reserve, bound, refused};
use crate::spec::{PortSpec, Protocol};

/// How to tell whether a spec with its host port chosen is published already.
pub(crate) trait Published: FnMut(&PortSpec) -> Result<bool> + Send {}
impl<F: FnMut(&PortSpec) -> Result<bool> + Send> Published for F {}

/// Where ports are bound, and how.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) netns: &'a NetNs,
    pub(crate) turn: &'a Turn,
    pub(crate) families: Families,
    pub(crate) reserve: Reserve,
}

/// Specs of one port each, with their host ports chosen, and the sockets that keep them.
pub(crate) type Reserved = Vec<(PortSpec, Reservation)>;

/// Reserves what these specs name, and chooses a port for those that name none: one that is not published and that no socket of
/// the host has, in any of the families it is for. All or none.
pub(crate) fn reserve(
    place: Place<'_>,
    specs: &[PortSpec],
    doing: &str,
    is_published: impl Published,
) -> Result<Reserved> {
    let specs: Vec<PortSpec> = specs.iter().flat_map(PortSpec::expand).collect();
    let (named, chosen): (Vec<_>, Vec<_>) = (0..specs.len()).partition(|at| specs[*at].is_single());
    let claims: Vec<Claim> = named
        .iter()
        .map(|at| Claim::of(&specs[*at], place.families))
        .collect();
    let reservations = Reservation::all(place.netns, &claims, place.reserve)
        .map_err(|failure| failure.during(doing))?;
    let mut reserved: Vec<_> = named
        .iter()
        .zip(reservations)
        .map(|(at, reservation)| (*at, (specs[*at], reservation)))
        .collect();
    if !chosen.is_empty() {
        let open = chosen.iter().map(|at| specs[*at]).collect::<Vec<_>>();
        let got = choose(place, &open, &claims, doing, is_published)?;
        reserved.extend(chosen.into_iter().zip(got));
    }
    reserved.sort_by_key(|(at, _)| *at);
    Ok(reserved.into_iter().map(|(_, one)| one).collect())
}

/// Chooses, in one visit to the namespace.
fn choose(
    place: Place<'_>,
    specs: &[PortSpec],
    named: &[Claim],
    doing: &str,
    mut is_published: impl Published,
) -> Result<Reserved> {
    let mut taken: HashSet<(Protocol, u16)> = named
        .iter()
        .map(|claim| (claim.protocol, claim.port))
        .collect();
    let mut whole_range = None;
    let visit = place.netns.run(|| {
        let chosen = specs.iter().map(|spec| {
            let candidates = match (spec.host_port(), &whole_range) {
                (0, Some(known)) => Candidates::clone(known),
                _ => Candidates::for_spec(spec, place.netns)
                    .map_err(|failure| failure.during(doing))?,
            };
            if spec.host_port() == 0 {
                whole_range.get_or_insert_with(|| candidates.clone());
            }
            choose_one(
                place,
                spec,
                &candidates,
                &mut taken,
                doing,
                &mut is_published,
            )
        });
        Ok(chosen.collect::<Result<Reserved>>())
    });
    let mut reserved = visit.map_err(|error: io::Error| refused(None, &error).during(doing))??;
    if place.reserve != Reserve::Hold {
        for (_, reservation) in &mut reserved {
            *reservation = Reservation::nothing();
        }
    }
    Ok(reserved)
}

fn choose_one(
    place: Place<'_>,
    spec: &PortSpec,
    candidates: &Candidates,
    taken: &mut HashSet<(Protocol, u16)>,
    doing: &str,
    is_published: &mut impl Published,
) -> Result<(PortSpec, Reservation)> {
    let mut tries = 0;
    for port in candidates.from(place.turn).take(Candidates::TRIES) {
        let one = spec.at_host_port(port);
        tries += 1;
        if taken.contains(&(one.protocol(), port)) || is_published(&one)? {
            continue;
        }
        let claim = Claim::of(&one, place.families);
        match bound(&claim, Purpose::Reserve) {
            Ok(socket) => {
                place.turn.after(candidates, port);
                taken.insert((one.protocol(), port));
                return Ok((one, Reservation::of(claim, socket)));
            }
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {}
            Err(error) => {
                return Err(refused(Some(claim), &error).during(doing));
            }
        }
    }
    Err(candidates.exhausted(doing, tries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use cofferdam_testkit::{Need, NetNs as Own, have};
    use std::fs;
    use std::net::{TcpListener, UdpSocket};

    fn specs(texts: &[&str]) -> Vec<PortSpec> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn printed(reserved: &Reserved) -> Vec<String> {
        reserved.iter().map(|(spec, _)| spec.to_string()).collect()
    }

    fn with_range(range: &str, work: impl FnOnce(&Own, &NetNs) + Send) {
        if !have(&[Need::Namespaces]) {
            return;
        }
        let own = Own::new();
        let path = "/proc/sys/net/ipv4/ip_local_port_range";
        own.run(|| fs::write(path, range).unwrap());
        let netns = NetNs::of_fd(&own).unwrap();
        work(&own, &netns);
    }

    #[test]
    fn a_free_port_is_free_in_both_families_and_not_published() {
        with_range("40000 40005", |own, netns| {
            let _four = own.run(|| TcpListener::bind("127.0.0.1:40000").unwrap());
            let _six = own.run(|| TcpListener::bind("[::1]:40001").unwrap());
            let _udp = own.run(|| UdpSocket::bind("[::]:40003").unwrap());
            let turn = Turn::default();
            let reserve = |reserve, texts: &[&str]| {
                let place = Place {
                    netns,
                    turn: &turn,
                    families: Families::Both,
                    reserve,
                };
                let published = |one: &PortSpec| Ok(one.host_port() == 40002);
                super::reserve(place, &specs(texts), "publish", published)
            };
            let first = reserve(Reserve::Hold, &["80", "40004:81", "82-83/udp"]).unwrap();
            let [one, two, three, four] = &printed(&first)[..] else {
                panic!("{first:?}");
            };
            assert_eq!(one, "40003:80/tcp");
            assert_eq!(two, "40004:81/tcp");
            for (udp, to) in [(three, ":82/udp"), (four, ":83/udp")] {
                assert!(udp.ends_with(to) && !udp.contains("40002") && !udp.contains("40003"));
            }
            let last = reserve(Reserve::Hold, &["84"]).unwrap();
            assert_eq!(printed(&last), ["40005:84/tcp"]);
            for how in [Reserve::Hold, Reserve::Check, Reserve::Never] {
                let error = reserve(how, &["84"]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
                let error = reserve(how, &["40000-40001:84"]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
            }
            drop(first);
            let checked = reserve(Reserve::Check, &["84"]).unwrap();
            let port = checked[0].0.host_port();
            own.run(|| TcpListener::bind(("127.0.0.1", port)).unwrap());
        });
    }

    #[test]
    fn a_wildcard_holds_both_families_by_one_descriptor_and_one_address_does_not() {
        with_range("40000 40005", |own, netns| {
            let turn = Turn::default();
            let reserve = |text, reserve| {
                let place = Place {
                    netns,
                    turn: &turn,
                    families: Families::Both,
                    reserve,
                };
                super::reserve(place, &specs(&[text]), "publish", |_: &PortSpec| Ok(false))
            };
            let binds = |at: &str| own.run(|| TcpListener::bind(at).is_ok());
            let held = reserve("8080:80", Reserve::Hold).unwrap();
            assert!(!binds("127.0.0.1:8080") && !binds("[::1]:8080") && !binds("[::]:8080"));
            drop(held);
            let held = reserve("0.0.0.0:8080:80", Reserve::Hold).unwrap();
            assert!(!binds("127.0.0.1:8080") && binds("[::1]:8080"));
            drop(held);
            let held = reserve("[::]:8080:80", Reserve::Hold).unwrap();
            assert!(binds("127.0.0.1:8080") && !binds("[::1]:8080"));
            drop(held);
            let held = reserve("[::1]:8080:80", Reserve::Hold).unwrap();
            assert!(binds("127.0.0.1:8080") && !binds("[::1]:8080"));
            drop(held);
            let _their = own.run(|| TcpListener::bind("[::1]:8080").unwrap());
            for how in [Reserve::Hold, Reserve::Check] {
                let error = reserve("8080:80", how).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Busy);
                assert_eq!(
                    error.to_string(),
                    "publish: bind *:8080/tcp: EADDRINUSE: Address already in use (a socket of the host has it)"
                );
            }
            assert!(reserve("8080:80", Reserve::Never).is_ok());
            assert!(reserve("127.0.0.1:8080:80", Reserve::Hold).is_ok());
            assert!(reserve("8080:80/sctp", Reserve::Hold).is_ok());
        });
    }
}
