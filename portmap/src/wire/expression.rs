//! What a rule looks at and does, as expressions of nf_tables: loads into registers, comparisons, lookups, verdicts.

use std::net::Ipv6Addr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

use super::be32;
use crate::layout::{Family, ICMPV6, Match, Rule, Set, Then, Type};
use crate::name::padded;

/// All of a rule.
pub(super) fn of_rule(rule: &Rule) -> Vec<Expression> {
    let mut expressions = Vec::new();
    for one in rule.when {
        expressions.extend(matching(*one));
    }
    expressions.extend(doing(rule.then));
    expressions
}

pub(super) type Expression = ListAttribute<ExpressionAttribute>;

/// Offset and length in the family's header.
fn saddr(family: Family) -> (u32, u32) {
    match family {
        Family::Ipv4 => (12, 4),
        Family::Ipv6 => (8, 16),
    }
}

fn daddr(family: Family) -> (u32, u32) {
    match family {
        Family::Ipv4 => (16, 4),
        Family::Ipv6 => (24, 16),
    }
}

fn matching(what: Match) -> Vec<Expression> {
    match what {
        Match::IifnameIsNot(name) => vec![
            meta(MetaKey::Iifname, Register::Reg1),
            cmp(Operator::NotEqual, padded(name).to_vec()),
        ],
        Match::IifnameIn(set) => vec![
            meta(MetaKey::Iifname, Register::Reg1),
            lookup(set, Hit::Matches),
        ],
        Match::OifnameIn(set) => vec![
            meta(MetaKey::Oifname, Register::Reg1),
            lookup(set, Hit::Matches),
        ],
        Match::OifnameNotIn(set) => vec![
            meta(MetaKey::Oifname, Register::Reg1),
            lookup(set, Hit::Misses),
        ],
        Match::IifnameOifnameIn(set) => vec![
            meta(MetaKey::Iifname, Register::Reg1),
            meta(MetaKey::Oifname, Register::Reg2),
            lookup(set, Hit::Matches),
        ],
        Match::SaddrIsLoopback(family) => loopback(family, saddr(family)),
        Match::DaddrIsLoopback(family) => loopback(family, daddr(family)),
        Match::SaddrDaddrIn(set) => {
            let family = set.family();
            let second = match family {
                Family::Ipv4 => Register::Reg32_01,
                Family::Ipv6 => Register::Reg32_04,
            };
            let mut expressions = is_family(family);
            expressions.push(network_header(saddr(family), Register::Reg32_00));
            expressions.push(network_header(daddr(family), second));
            expressions.push(lookup(set, Hit::Matches));
            expressions
        }
        Match::DaddrIsOurs => daddr_is_local(NFTA_FIB_F_DADDR),
        Match::DaddrIsOfIif => daddr_is_local(NFTA_FIB_F_DADDR | NFTA_FIB_F_IIF),
        Match::Dport(protocol, port) => {
            let mut expressions = is_protocol(protocol);
            expressions.push(destination_port(Register::Reg1));
            expressions.push(cmp(Operator::Equal, port.to_be_bytes().to_vec()));
            expressions
        }
        Match::NeighbourDiscovery => neighbour_discovery(),
        Match::CtIsEstablishedOrRelated => ct_has_bits(CT_STATE, ESTABLISHED | RELATED),
        Match::CtIsDnat => ct_has_bits(CT_STATUS, IPS_DST_NAT),
    }
}

fn doing(then: Then) -> Vec<Expression> {
    const NF_DROP: u32 = 0;
    const NF_ACCEPT: u32 = 1;
    match then {
        Then::Accept => vec![verdict(vec![code(Verdict::Other(NF_ACCEPT))])],
        Then::Drop => vec![verdict(vec![code(Verdict::Other(NF_DROP))])],
        Then::Jump(chain) => vec![verdict(vec![
            code(Verdict::Jump),
            VerdictAttribute::Chain(chain.to_owned()),
        ])],
        Then::Masquerade => vec![other("masq", Vec::new())],
        Then::Dnat(map) => dnat(map),
    }
}

/// Loads the map's key into consecutive registers, and over them what the map has for it.
fn dnat(map: Set) -> Vec<Expression> {
    const NFTA_NAT_TYPE: u16 = 1;
    const NFTA_NAT_FAMILY: u16 = 2;
    const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
    const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
    const NFT_NAT_DNAT: u32 = 1;
    let family = map.family();
    let mut expressions = is_family(family);
    let mut register = u32::from(Register::Reg32_00);
    for part in map.key() {
        let into = Register::from(register);
        expressions.push(match part {
            Type::Ipv4Addr | Type::Ipv6Addr => network_header(daddr(family), into),
            Type::InetProto => meta(MetaKey::L4Proto, into),
            Type::InetService => destination_port(into),
            Type::Ifname => meta(MetaKey::Iifname, into),
        });
        register += part.len() / 4;
    }
    let (nfproto, port) = match family {
        Family::Ipv4 => (NFPROTO_IPV4, Register::Reg32_01),
        Family::Ipv6 => (NFPROTO_IPV6, Register::Reg32_04),
    };
    expressions.push(
        Expressions::Lookup(vec![
            Lookup::Set(map.name().to_owned()),
            Lookup::SourceRegister(Register::Reg32_00),
            Lookup::DestinationRegister(Register::Reg32_00),
        ])
        .into(),
    );
    expressions.push(other(
        "nat",
        vec![
            be32(NFTA_NAT_TYPE, NFT_NAT_DNAT),
            be32(NFTA_NAT_FAMILY, nfproto.into()),
            be32(NFTA_NAT_REG_ADDR_MIN, Register::Reg32_00.into()),
            be32(NFTA_NAT_REG_PROTO_MIN, port.into()),
        ],
    ));
    expressions
}

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// In a table of family inet, a rule on IP headers must ask first.
fn is_family(family: Family) -> Vec<Expression> {
    let nfproto = match family {
        Family::Ipv4 => NFPROTO_IPV4,
        Family::Ipv6 => NFPROTO_IPV6,
    };
    vec![
        meta(MetaKey::Nfproto, Register::Reg1),
        cmp(Operator::Equal, vec![nfproto]),
    ]
}

/// And one on transport headers.
fn is_protocol(protocol: u8) -> Vec<Expression> {
    vec![
        meta(MetaKey::L4Proto, Register::Reg1),
        cmp(Operator::Equal, vec![protocol]),
    ]
}

/// Whether the address there is one of loopback.
fn loopback(family: Family, address: (u32, u32)) -> Vec<Expression> {
    let mut expressions = is_family(family);
    let (length, value) = match family {
        Family::Ipv4 => (1, vec![127]),
        Family::Ipv6 => (address.1, Ipv6Addr::LOCALHOST.octets().to_vec()),
    };
    expressions.push(network_header((address.0, length), Register::Reg1));
    expressions.push(cmp(Operator::Equal, value));
    expressions
}

fn neighbour_discovery() -> Vec<Expression> {
    const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    let mut expressions = is_protocol(ICMPV6);
    expressions.push(payload(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, Register::Reg1));
    expressions.push(cmp(Operator::GreatherThanEqual, vec![SOLICITATION]));
    expressions.push(cmp(Operator::LessThanEqual, vec![ADVERTISEMENT]));
    expressions
}

const NFTA_FIB_F_DADDR: u32 = 1 << 1;
const NFTA_FIB_F_IIF: u32 = 1 << 3;

fn daddr_is_local(flags: u32) -> Vec<Expression> {
    const NFTA_FIB_DREG: u16 = 1;
    const NFTA_FIB_RESULT: u16 = 2;
    const NFTA_FIB_FLAGS: u16 = 3;
    const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
    let fib = other(
        "fib",
        vec![
            be32(NFTA_FIB_DREG, Register::Reg1.into()),
            be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE),
            be32(NFTA_FIB_FLAGS, flags),
        ],
    );
    let local = u32::from(libc::RTN_LOCAL).to_ne_bytes().to_vec();
    vec![fib, cmp(Operator::Equal, local)]
}

const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;
const IPS_DST_NAT: u32 = 1 << 5;

/// Whether any of these bits is set in a field of the packet's conntrack entry.
fn ct_has_bits(key: u32, bits: u32) -> Vec<Expression> {
    const NFTA_CT_DREG: u16 = 1;
    const NFTA_CT_KEY: u16 = 2;
    let value = |value: u32| DataAttribute::Value(value.to_ne_bytes().to_vec());
    let load = other(
        "ct",
        vec![
            be32(NFTA_CT_DREG, Register::Reg1.into()),
            be32(NFTA_CT_KEY, key),
        ],
    );
    let mask = Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(4),
        Bitwise::Mask(value(bits)),
        Bitwise::Xor(value(0)),
    ]);
    vec![load, mask.into(), cmp(Operator::NotEqual, vec![0; 4])]
}

fn meta(key: MetaKey, register: Register) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(register)]).into()
}

fn cmp(operator: Operator, value: Vec<u8>) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
    .into()
}

fn network_header((offset, length): (u32, u32), register: Register) -> Expression {
    const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
    payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, register)
}

/// TCP, UDP and SCTP have it at the same place.
fn destination_port(register: Register) -> Expression {
    const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
    payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, register)
}

fn payload(base: u32, offset: u32, length: u32, register: Register) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
    .into()
}

/// Whether a rule goes on where the set has the key, or where it has not.
#[derive(Clone, Copy)]
enum Hit {
    Matches,
    Misses,
}

fn lookup(set: Set, hit: Hit) -> Expression {
    const NFT_LOOKUP_F_INV: u32 = 1;
    let mut attributes = vec![
        Lookup::Set(set.name().to_owned()),
        Lookup::SourceRegister(Register::Reg1),
    ];
    if let Hit::Misses = hit {
        attributes.push(Lookup::Flags(NFT_LOOKUP_F_INV));
    }
    Expressions::Lookup(attributes).into()
}

fn verdict(attributes: Vec<VerdictAttribute>) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
    .into()
}

fn code(verdict: Verdict) -> VerdictAttribute {
    VerdictAttribute::Code(verdict)
}

/// An expression the packet crate has no type for.
fn other(name: &str, attributes: Vec<DefaultNla>) -> Expression {
    let expression_type = name.to_owned();
    Expressions::Other {
        expression_type,
        attributes,
    }
    .into()
}
