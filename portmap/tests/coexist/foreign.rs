//! A firewall's table, made by messages in bytes, and what it looks like to the byte.

use cofferdam_testkit::NetNs;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const DUMP: u16 = 0x300;
const ACK: u16 = 0x4;

/// What it drops everything by.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Last {
    PolicyDrop,
    RuleDrops,
    /// The same after some that only count.
    ManyRules,
}

/// A table of family ip with one base chain. Dropping it deletes it.
pub(crate) struct Foreign<'a> {
    netns: &'a NetNs,
    table: String,
}

impl<'a> Foreign<'a> {
    pub(crate) fn new(netns: &'a NetNs, table: &str, chain: &str, last: Last) -> Self {
        const FORWARD: u32 = 2;
        Self::at(netns, table, chain, FORWARD, last)
    }

    pub(crate) fn at(netns: &'a NetNs, table: &str, chain: &str, hook: u32, last: Last) -> Self {
        let policy = u32::from(last != Last::PolicyDrop);
        let hook = nested(4, &[number(1, hook), number(2, 10)]);
        let mut messages = vec![
            message(NEWTABLE, CREATE, &[text(1, table)]),
            message(
                NEWCHAIN,
                CREATE,
                &[
                    text(1, table),
                    text(3, chain),
                    hook,
                    number(5, policy),
                    text(7, "filter"),
                ],
            ),
        ];
        let rule = |expressions: &[Vec<u8>]| {
            let attributes = [text(1, table), text(2, chain), nested(4, expressions)];
            message(NEWRULE, CREATE | APPEND, &attributes)
        };
        let count = nested(1, &[text(1, "counter")]);
        let counting = if last == Last::ManyRules { 10 } else { 1 };
        messages.extend((0..counting).map(|_| rule(std::slice::from_ref(&count))));
        if last != Last::PolicyDrop {
            let verdict = nested(2, &[nested(2, &[number(1, 0)])]);
            let data = nested(2, &[number(1, 0), verdict]);
            messages.push(rule(&[nested(1, &[text(1, "immediate"), data])]));
        }
        let foreign = Foreign {
            netns,
            table: table.to_owned(),
        };
        foreign.transact(messages);
        foreign
    }

    /// Its rules as the kernel lists them, but for what their counters counted.
    pub(crate) fn dump(&self) -> Vec<Vec<u8>> {
        let socket = self.socket();
        let ask = message(GETRULE, DUMP, &[text(1, &self.table)]);
        socket.send(&ask, 0).unwrap();
        let mut rules = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length) = socket.recv(&mut &mut buffer[..], 0x40 /* MSG_DONTWAIT */) {
            let mut rest = &buffer[..length];
            while let Some(length) = rest.first_chunk() {
                let (one, after) =
                    rest.split_at(u32::from_ne_bytes(*length).next_multiple_of(4) as usize);
                let kind = u16::from_ne_bytes([one[4], one[5]]);
                if kind == 10 << 8 | NEWRULE {
                    rules.push(without_counts(&one[20..]));
                }
                rest = after;
            }
        }
        rules
    }

    pub(crate) fn rules(&self) -> usize {
        self.dump().len()
    }

    fn transact(&self, messages: Vec<Vec<u8>>) {
        let batch = |kind: u16| raw(kind, 0, [0, 0, 0, 10], &[]);
        let mut bytes = batch(16);
        let count = messages.len();
        for mut message in messages {
            message[6] |= ACK as u8;
            bytes.extend(message);
        }
        bytes.extend(batch(17));
        let socket = self.socket();
        socket.send(&bytes, 0).unwrap();
        let mut answer = [0; 4096];
        for _ in 0..count {
            socket.recv(&mut &mut answer[..], 0).unwrap();
            let code = i32::from_ne_bytes(*answer[16..].first_chunk().unwrap());
            assert_eq!(code, 0, "{}", std::io::Error::from_raw_os_error(-code));
        }
    }

    fn socket(&self) -> Socket {
        let mut socket = self.netns.run(|| Socket::new(NETLINK_NETFILTER)).unwrap();
        socket.bind(&SocketAddr::new(0, 0)).unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        socket
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        self.transact(vec![message(DELTABLE, 0, &[text(1, &self.table)])]);
    }
}

/// A counter's 24 bytes behind its name are two attributes of 64 bits.
fn without_counts(rule: &[u8]) -> Vec<u8> {
    let mut rule = rule.to_vec();
    let name = b"counter\0";
    let places: Vec<_> = (0..rule.len().saturating_sub(name.len()))
        .filter(|at| rule[*at..].starts_with(name))
        .collect();
    for at in places {
        let counts = at + name.len();
        let end = (counts + 28).min(rule.len());
        rule[counts + 4..end].fill(0);
    }
    rule
}

fn message(kind: u16, flags: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    const NFPROTO_IPV4: u8 = 2;
    raw(
        10 << 8 | kind,
        flags,
        [NFPROTO_IPV4, 0, 0, 0],
        &attributes.concat(),
    )
}

fn raw(kind: u16, flags: u16, header: [u8; 4], attributes: &[u8]) -> Vec<u8> {
    let mut bytes = (20 + attributes.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((1 | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(header);
    bytes.extend(attributes);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &parts.concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
