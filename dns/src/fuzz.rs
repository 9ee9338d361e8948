//! Bytes that nobody would send in good faith, against everything that reads bytes or text from elsewhere. A few seconds
//! unless `COFFERDAM_FUZZ_SECONDS` says for how long each.

use std::time::{Duration, Instant};

use arbtest::arbitrary::{Result, Unstructured};
use arbtest::arbtest;

use crate::cache::Kept;
use crate::slab::Key;
use crate::wire::{HEADER, Query, UDP_MAX, Verdict, judge, lifetime, ttl_offsets};
use crate::{Cache, ExtraHost, Hosts, Name, Reply, ResolvConf, Service, Transport, Zone, answer};

fn budget() -> Duration {
    let asked = std::env::var("COFFERDAM_FUZZ_SECONDS").ok();
    let seconds = asked.and_then(|seconds| seconds.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(1.0))
}

fn fuzz(property: impl FnMut(&mut Unstructured<'_>) -> Result<()>) {
    arbtest(property).budget(budget());
}

/// A message that is nearly one: a header, names, records, and then some bytes changed, cut or added.
fn message(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    bytes[..4].copy_from_slice(&u.arbitrary::<[u8; 4]>()?);
    for at in [5, 7, 9, 11] {
        bytes[at] = u.int_in_range(0..=2)?;
    }
    if u.ratio(9, 10)? {
        bytes[2] &= 0x81;
        bytes[4..10].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    }
    name(u, &mut bytes)?;
    bytes.extend_from_slice(&[0, *u.choose(&[1, 2, 6, 12, 28, 33, 41, 65, 255])?, 0, 1]);
    for _ in 0..u.int_in_range(0..=4)? {
        name(u, &mut bytes)?;
        bytes.extend_from_slice(&[0, *u.choose(&[1, 5, 6, 28, 41])?, 0, 1]);
        bytes.extend_from_slice(&u.arbitrary::<[u8; 4]>()?);
        let data: Vec<u8> = u.arbitrary()?;
        bytes.extend_from_slice(&(data.len().min(300) as u16).to_be_bytes());
        bytes.extend_from_slice(&data[..data.len().min(300)]);
    }
    mutate(u, &mut bytes)?;
    Ok(bytes)
}

fn name(u: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    for _ in 0..u.int_in_range(0..=5)? {
        match u.int_in_range(0..=9)? {
            0 => {
                // A pointer: forwards, backwards, to itself.
                bytes.extend_from_slice(&[0xc0 | u.int_in_range(0..=63)?, u.arbitrary()?]);
                return Ok(());
            }
            1 => bytes.extend_from_slice(&[63; 64]),
            2 => bytes.extend_from_slice(b"\x02db\x03app"),
            3 => bytes.extend_from_slice(b"\x05_http\x04_tcp\x02db"),
            _ => {
                let label: Vec<u8> = u.arbitrary()?;
                let length = label.len().min(63);
                bytes.push(length as u8);
                bytes.extend_from_slice(&label[..length]);
            }
        }
    }
    bytes.push(0);
    Ok(())
}

fn mutate(u: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    for _ in 0..u.int_in_range(0..=3)? {
        let at = u.choose_index(bytes.len().max(1))?;
        match u.int_in_range(0..=3)? {
            0 => bytes.truncate(at),
            1 => bytes.push(u.arbitrary()?),
            _ if at < bytes.len() => bytes[at] = u.arbitrary()?,
            _ => {}
        }
    }
    Ok(())
}

fn zone() -> Zone {
    let mut zone = Zone::new();
    for last in 0..100 {
        zone.insert("db".parse().unwrap(), [10, 89, 0, last].into());
    }
    let service = Service::new("db".parse().unwrap(), 80);
    zone.insert_service("_http._tcp.db".parse().unwrap(), service);
    zone.set_domain("app".parse().unwrap());
    zone
}

#[test]
fn no_query_does_harm() {
    let zone = zone();
    fuzz(|u| {
        let query = message(u)?;
        for transport in [Transport::Udp, Transport::Tcp] {
            match answer(&zone, &query, transport) {
                Reply::Answer(reply) => {
                    assert!(
                        reply.len()
                            <= if transport == Transport::Udp {
                                UDP_MAX
                            } else {
                                65535
                            }
                    );
                    assert_eq!(reply[..2], query[..2]);
                    assert!(reply[2] & 0x80 != 0 && query[2] & 0x80 == 0);
                    // Of a question that is refused, another reader may not know the type or class.
                    if reply[3] & 15 == 0 {
                        let read = simple_dns::Packet::parse(&reply);
                        assert!(read.is_ok(), "{query:?} gave {reply:?}");
                    }
                }
                // One question, of class IN, that another could answer.
                Reply::Forward => {
                    assert_eq!(query[4..10], [0, 1, 0, 0, 0, 0]);
                    assert!(query[2] & 0xf8 == 0);
                }
                Reply::Drop => assert!(query.len() < HEADER || query[2] & 0x80 != 0),
            }
        }
        Ok(())
    });
}

#[test]
fn no_reply_of_an_upstream_does_harm() {
    fuzz(|u| {
        let asked = message(u)?;
        let Ok(query) = Query::parse(&asked) else {
            return Ok(());
        };
        let end = query.envelope.question_end();
        let mut reply = message(u)?;
        // Most are replies to the question.
        if u.ratio(4, 5)? && reply.len() >= HEADER {
            let tail = reply.split_off(HEADER);
            reply[..2].copy_from_slice(&asked[..2]);
            reply[2] = 0x80 | reply[2] & 7;
            reply[4..6].copy_from_slice(&[0, 1]);
            reply.extend_from_slice(&asked[HEADER..end]);
            reply.extend_from_slice(&tail);
            mutate(u, &mut reply)?;
        }
        let _seconds = lifetime(&reply, end);
        for at in ttl_offsets(&reply, end) {
            assert!(at >= end && at + 4 <= reply.len());
        }
        if judge(&asked, end, &reply) == Verdict::Answer {
            let route = Key {
                index: 0,
                generation: 0,
            };
            let (mut kept, now, mut out) = (Kept::new(Cache::new(2)), Instant::now(), Vec::new());
            kept.keep(route, &query, &reply, now);
            if kept.find(route, &query, now, &mut out) {
                assert_eq!(out.len(), reply.len());
                assert_eq!(out[..2], asked[..2]);
            }
        }
        Ok(())
    });
}

#[test]
fn no_text_does_harm() {
    const WORDS: &[&str] = &[
        "nameserver ",
        "search ",
        "options ",
        "domain ",
        "127.0.0.11",
        "::1",
        "fe80::1%eth0",
        "10.0.0.1",
        "a.example",
        "-bad",
        "ndots:3",
        "\n",
        "\r\n",
        " ",
        "\t",
        "#",
        ";",
        "\0",
        "ä",
        "\u{2028}",
        "=",
        ":",
        "host-gateway",
        "[",
        "]",
        ".",
    ];
    fuzz(|u| {
        let mut text = String::new();
        for _ in 0..u.int_in_range(0..=60)? {
            match u.ratio(9, 10)? {
                true => text.push_str(u.choose(WORDS)?),
                false => text.push(u.arbitrary()?),
            }
        }
        let conf = ResolvConf::parse(&text);
        assert_eq!(ResolvConf::parse(&conf.to_string()), conf, "{text:?}");
        let inside = conf.for_container().to_string();
        let servers = inside.lines().filter(|line| line.starts_with("nameserver"));
        assert_eq!(
            servers.collect::<Vec<_>>(),
            ["nameserver 127.0.0.11"],
            "{text:?}"
        );
        let hosts = Hosts::parse(&text);
        assert_eq!(Hosts::parse(&hosts.to_string()), hosts, "{text:?}");
        if let Ok(name) = text.parse::<Name>() {
            assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
            assert!(name.as_str().is_ascii() && !name.as_str().contains(char::is_whitespace));
        }
        if let Ok(extra) = text.parse::<ExtraHost>() {
            assert_eq!(extra.to_string().parse::<ExtraHost>().unwrap(), extra);
        }
        Ok(())
    });
}
