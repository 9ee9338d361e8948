//! Queries made by hand, and replies printed as dig's short form does.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const A: u16 = 1;
pub(crate) const PTR: u16 = 12;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;

const ID: [u8; 2] = [0x12, 0x34];

/// A query with recursion desired.
pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = ID.to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// The reply to a query that gives one address, for the example's own upstream.
pub(crate) fn reply(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2..4].copy_from_slice(&[0x81, 0x80]);
    bytes[7] = 1;
    bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    bytes.extend(address.octets());
    bytes
}

/// What a reply says: the data of its records, or why there are none. `None` of one that is broken.
pub(crate) fn read(reply: &[u8]) -> Option<Vec<String>> {
    let header = reply.get(..12).filter(|header| header[..2] == ID)?;
    let rcode = header[3] & 15;
    if rcode != 0 {
        let names = ["", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
        return Some(vec![names.get(usize::from(rcode))?.to_string()]);
    }
    let mut at = name(reply, 12)?.1 + 4;
    let mut data = Vec::new();
    for _ in 0..u16::from_be_bytes([header[6], header[7]]) {
        at = name(reply, at)?.1;
        let kind = number(reply, at)?;
        let end = at + 10 + usize::from(number(reply, at + 8)?);
        data.push(datum(reply, kind, at + 10, end)?);
        at = end;
    }
    if data.is_empty() {
        data.push("NODATA".to_owned());
    }
    Some(data)
}

fn datum(reply: &[u8], kind: u16, start: usize, end: usize) -> Option<String> {
    let bytes = reply.get(start..end)?;
    Some(match kind {
        A => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string(),
        AAAA => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string(),
        PTR => name(reply, start)?.0,
        SRV => {
            let mut text = String::new();
            for at in [start, start + 2, start + 4] {
                write!(text, "{} ", number(reply, at)?).ok()?;
            }
            text + &name(reply, start + 6)?.0
        }
        _ => return None,
    })
}

/// A name and where it ends. Of one that points elsewhere, only the pointer: these replies point at the question.
fn name(reply: &[u8], start: usize) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut at = start;
    loop {
        let length = usize::from(*reply.get(at)?);
        match length {
            0 => return Some((text, at + 1)),
            1..64 => {
                text += std::str::from_utf8(reply.get(at + 1..at + 1 + length)?).ok()?;
                text.push('.');
                at += 1 + length;
            }
            _ => return Some((text, at + 2)),
        }
    }
}

fn number(reply: &[u8], at: usize) -> Option<u16> {
    let pair = reply.get(at..at + 2)?;
    Some(u16::from_be_bytes(pair.try_into().ok()?))
}
