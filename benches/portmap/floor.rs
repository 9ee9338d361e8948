//! nf_tables' messages written by hand: one table with the least that leads ports on, as a map and as a chain of rules.

use std::net::Ipv4Addr;

use crate::raw::{CREATE, acknowledged, attribute, message, nested, number, text};

pub(crate) const TABLE: &str = "floor";
const MAP: &str = "ports";
const CHAIN: &str = "pre";
const LINE: &str = "line";

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;
const APPEND: u16 = 0x800;
const UDP: u8 = 17;

fn nft(kind: u16, flags: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    const NFPROTO_INET: u8 = 1;
    let family = [NFPROTO_INET, 0, 0, 0];
    let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
    message(kind, flags, &[&family, &attributes.concat()])
}

/// One transaction. The last message is acknowledged.
pub(crate) fn transaction(mut messages: Vec<Vec<u8>>) -> Vec<u8> {
    let batch = |kind| message(kind, 0, &[&[0, 0, 0, 10]]);
    if let Some(last) = messages.pop() {
        messages.push(acknowledged(last));
    }
    [batch(16), messages.concat(), batch(17)].concat()
}

/// Table, map, base chain and the one rule that looks up `protocol . port`.
pub(crate) fn table() -> Vec<Vec<u8>> {
    vec![
        nft(NEWTABLE, CREATE, &[text(1, TABLE)]),
        nft(
            NEWSET,
            CREATE,
            &[
                text(1, TABLE),
                text(2, MAP),
                number(3, 0x8), // NFT_SET_MAP
                number(4, 12 << 6 | 13),
                number(5, 8),
                number(6, 7 << 6 | 13),
                number(7, 8),
                number(10, 1),
            ],
        ),
        base_chain(),
        rule(CHAIN, &lookup()),
    ]
}

fn base_chain() -> Vec<u8> {
    let hook = nested(4, &[number(1, 0), number(2, -100_i32 as u32)]);
    nft(
        NEWCHAIN,
        CREATE,
        &[text(1, TABLE), text(3, CHAIN), hook, text(7, "nat")],
    )
}

pub(crate) fn delete() -> Vec<Vec<u8>> {
    vec![nft(DELTABLE, 0, &[text(1, TABLE)])]
}

/// Ports of 10.1.0.2, as many in a message as its lengths of sixteen bits allow.
pub(crate) fn add(ports: &[u16], to: Ipv4Addr) -> Vec<Vec<u8>> {
    const MANY: usize = 1000;
    let list = |ports: &[u16]| {
        let elements: Vec<_> = ports.iter().map(|port| element(*port, Some(to))).collect();
        elements_message(NEWSETELEM, CREATE | 0x200, &elements)
    };
    ports.chunks(MANY).map(list).collect()
}

pub(crate) fn remove(ports: &[u16]) -> Vec<Vec<u8>> {
    const MANY: usize = 1000;
    let list = |ports: &[u16]| {
        let elements: Vec<_> = ports.iter().map(|port| element(*port, None)).collect();
        elements_message(DELSETELEM, 0, &elements)
    };
    ports.chunks(MANY).map(list).collect()
}

fn elements_message(kind: u16, flags: u16, elements: &[Vec<u8>]) -> Vec<u8> {
    nft(
        kind,
        flags,
        &[text(1, TABLE), text(2, MAP), nested(3, elements)],
    )
}

fn element(port: u16, to: Option<Ipv4Addr>) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let key = [UDP, 0, 0, 0, high, low, 0, 0];
    let mut parts = vec![nested(1, &[attribute(1, &key)])];
    if let Some(to) = to {
        let data = [to.octets(), [high, low, 0, 0]].concat();
        parts.push(nested(2, &[attribute(1, &data)]));
    }
    nested(1, &parts)
}

/// A chain of its own with one rule a port, that the base chain jumps to: as the peers have it.
pub(crate) fn linear(ports: &[u16], to: Ipv4Addr) -> Vec<Vec<u8>> {
    let mut messages = vec![
        nft(NEWTABLE, CREATE, &[text(1, TABLE)]),
        nft(NEWCHAIN, CREATE, &[text(1, TABLE), text(3, LINE)]),
        base_chain(),
        rule(CHAIN, &[jump()]),
    ];
    messages.extend(ports.iter().map(|port| rule(LINE, &one_port(*port, to))));
    messages
}

pub(crate) fn dump_rules() -> Vec<u8> {
    const DUMP: u16 = 0x300;
    message(10 << 8 | GETRULE, DUMP, &[&[0, 0, 0, 0]])
}

fn rule(chain: &str, expressions: &[Vec<u8>]) -> Vec<u8> {
    nft(
        NEWRULE,
        CREATE | APPEND,
        &[text(1, TABLE), text(2, chain), nested(4, expressions)],
    )
}

fn expression(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, parts)])
}

fn meta(key: u32, register: u32) -> Vec<u8> {
    expression("meta", &[number(1, register), number(2, key)])
}

fn port_of_packet(register: u32) -> Vec<u8> {
    expression(
        "payload",
        &[
            number(1, register),
            number(2, 2),
            number(3, 2),
            number(4, 2),
        ],
    )
}

fn compare(register: u32, value: &[u8]) -> Vec<u8> {
    let data = nested(3, &[attribute(1, value)]);
    expression("cmp", &[number(1, register), number(2, 0), data])
}

fn immediate(register: u32, value: &[u8]) -> Vec<u8> {
    let data = nested(2, &[attribute(1, value)]);
    expression("immediate", &[number(1, register), data])
}

fn nat(address: u32, port: u32) -> Vec<u8> {
    expression(
        "nat",
        &[
            number(1, 1),
            number(2, 2),
            number(3, address),
            number(5, port),
        ],
    )
}

fn jump() -> Vec<u8> {
    const NFT_JUMP: i32 = -3;
    let verdict = nested(2, &[number(1, NFT_JUMP as u32), text(2, LINE)]);
    let data = nested(2, &[verdict]);
    expression("immediate", &[number(1, 0), data])
}

const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;

fn lookup() -> Vec<Vec<u8>> {
    let map = [text(1, MAP), number(2, 8), number(3, 8), number(4, 1)];
    vec![
        meta(NFPROTO, 1),
        compare(1, &[2]),
        meta(L4PROTO, 8),
        port_of_packet(9),
        expression("lookup", &map),
        nat(8, 9),
    ]
}

fn one_port(port: u16, to: Ipv4Addr) -> Vec<Vec<u8>> {
    vec![
        meta(NFPROTO, 1),
        compare(1, &[2]),
        meta(L4PROTO, 1),
        compare(1, &[UDP]),
        port_of_packet(1),
        compare(1, &port.to_be_bytes()),
        immediate(1, &to.octets()),
        immediate(2, &port.to_be_bytes()),
        nat(1, 2),
    ]
}
