//! The constant part of the table: its sets, maps, chains and rules, as data.
//!
//! Nothing here depends on a network or a port: those are elements.

use std::fmt;

/// A set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// Managed bridges.
    Bridges,
    /// Pairs of incoming and outgoing bridge between which traffic is let through: each with itself.
    Intra,
    /// Pairs of source and destination subnet whose published traffic turns back: each with itself.
    SubnetPairs,
    /// Ports published on one address.
    Ports4,
    /// Ports published on every address.
    Ports4Any,
}

impl Set {
    pub(crate) const ALL: [Set; 5] = [
        Set::Bridges,
        Set::Intra,
        Set::SubnetPairs,
        Set::Ports4,
        Set::Ports4Any,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Set::Bridges => "bridges",
            Set::Intra => "intra",
            Set::SubnetPairs => "subnet_pairs4",
            Set::Ports4 => "ports4",
            Set::Ports4Any => "ports4_any",
        }
    }

    /// Tells sets of one transaction apart.
    pub(crate) fn id(self) -> u32 {
        self as u32 + 1
    }

    pub(crate) fn key(self) -> &'static [Type] {
        match self {
            Set::Bridges => &[Type::Ifname],
            Set::Intra => &[Type::Ifname, Type::Ifname],
            Set::SubnetPairs => &[Type::Ipv4Addr, Type::Ipv4Addr],
            Set::Ports4 => &[Type::Ipv4Addr, Type::InetProto, Type::InetService],
            Set::Ports4Any => &[Type::InetProto, Type::InetService],
        }
    }

    /// What a map leads to; a set has none.
    pub(crate) fn data(self) -> Option<&'static [Type]> {
        match self {
            Set::Bridges | Set::Intra | Set::SubnetPairs => None,
            Set::Ports4 | Set::Ports4Any => Some(&[Type::Ipv4Addr, Type::InetService]),
        }
    }

    pub(crate) fn has_intervals(self) -> bool {
        self == Set::SubnetPairs
    }
}

/// A type of nft, of which keys and data are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Ipv4Addr,
    InetProto,
    InetService,
    Ifname,
}

impl Type {
    /// nft's number for it, for those who list the table; the kernel does not look at it.
    pub(crate) fn number(self) -> u32 {
        match self {
            Type::Ipv4Addr => 7,
            Type::InetProto => 12,
            Type::InetService => 13,
            Type::Ifname => 41,
        }
    }

    /// Bytes it takes in registers, which are of four.
    pub(crate) fn len(self) -> u32 {
        match self {
            Type::Ipv4Addr | Type::InetProto | Type::InetService => 4,
            Type::Ifname => 16,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Ipv4Addr => "ipv4_addr",
            Type::InetProto => "inet_proto",
            Type::InetService => "inet_service",
            Type::Ifname => "ifname",
        })
    }
}

/// A chain with its rules.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    /// Where it is hooked in; one without is jumped to.
    pub(crate) base: Option<Base>,
    pub(crate) rules: &'static [Rule],
}

/// The place of a base chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    pub(crate) kind: ChainType,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum ChainType {
    Filter,
    Nat,
}

impl ChainType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ChainType::Filter => "filter",
            ChainType::Nat => "nat",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hook::Prerouting => "prerouting",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        })
    }
}

/// Where all of `when` holds, `then` is done.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) when: &'static [Match],
    pub(crate) then: Then,
}

/// What a packet is looked at for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Match {
    IifnameIsNot(&'static str),
    IifnameIn(Set),
    OifnameIn(Set),
    OifnameNotIn(Set),
    IifnameOifnameIn(Set),
    SaddrIsLoopback,
    DaddrIsLoopback,
    SaddrDaddrIn(Set),
    /// `fib daddr type local`.
    DaddrIsOurs,
    CtIsEstablishedOrRelated,
    CtIsDnat,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::IifnameIsNot(name) => write!(f, "iifname != {name:?}"),
            Match::IifnameIn(set) => write!(f, "iifname @{}", set.name()),
            Match::OifnameIn(set) => write!(f, "oifname @{}", set.name()),
            Match::OifnameNotIn(set) => write!(f, "oifname != @{}", set.name()),
            Match::IifnameOifnameIn(set) => write!(f, "iifname . oifname @{}", set.name()),
            Match::SaddrIsLoopback => f.write_str("ip saddr 127.0.0.0/8"),
            Match::DaddrIsLoopback => f.write_str("ip daddr 127.0.0.0/8"),
            Match::SaddrDaddrIn(set) => write!(f, "ip saddr . ip daddr @{}", set.name()),
            Match::DaddrIsOurs => f.write_str("fib daddr type local"),
            Match::CtIsEstablishedOrRelated => f.write_str("ct state established,related"),
            Match::CtIsDnat => f.write_str("ct status dnat"),
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    Accept,
    Drop,
    Jump(&'static str),
    Masquerade,
    /// DNAT to what this map says; a packet it does not know goes on to the next rule.
    Dnat(Set),
}

impl fmt::Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Then::Accept => f.write_str("accept"),
            Then::Drop => f.write_str("drop"),
            Then::Jump(chain) => write!(f, "jump {chain}"),
            Then::Masquerade => f.write_str("masquerade"),
            Then::Dnat(map) => {
                f.write_str("dnat ip to ")?;
                for part in map.key() {
                    f.write_str(match part {
                        Type::Ipv4Addr => "ip daddr . ",
                        Type::InetProto => "meta l4proto . ",
                        Type::InetService => "th dport ",
                        Type::Ifname => "iifname . ",
                    })?;
                }
                write!(f, "map @{}", map.name())
            }
        }
    }
}

/// `NF_IP_PRI_RAW`, before conntrack.
const RAW: i32 = -300;
/// `NF_IP_PRI_NAT_DST`.
const DSTNAT: i32 = -100;
/// `NF_IP_PRI_FILTER`.
const FILTER: i32 = 0;
/// `NF_IP_PRI_NAT_SRC`.
const SRCNAT: i32 = 100;

const fn base(kind: ChainType, hook: Hook, priority: i32) -> Option<Base> {
    Some(Base {
        kind,
        hook,
        priority,
    })
}

const fn rule(when: &'static [Match], then: Then) -> Rule {
    Rule { when, then }
}

/// In an order in which each chain is there before it is jumped to.
pub(crate) static CHAINS: [Chain; 6] = [
    // A frame of a neighbour for 127.0.0.1 would reach a port published there: DNAT comes before the check for martians. And
    // where route_localnet is set that check is off, so that a container could send from 127.0.0.0/8 too.
    Chain {
        name: "guard_loopback",
        base: base(ChainType::Filter, Hook::Prerouting, RAW),
        rules: &[
            rule(
                &[Match::IifnameIsNot("lo"), Match::DaddrIsLoopback],
                Then::Drop,
            ),
            rule(
                &[Match::IifnameIsNot("lo"), Match::SaddrIsLoopback],
                Then::Drop,
            ),
        ],
    },
    Chain {
        name: "published",
        base: None,
        rules: &[
            rule(&[], Then::Dnat(Set::Ports4)),
            rule(&[], Then::Dnat(Set::Ports4Any)),
        ],
    },
    Chain {
        name: "nat_prerouting",
        base: base(ChainType::Nat, Hook::Prerouting, DSTNAT),
        rules: &[rule(&[Match::DaddrIsOurs], Then::Jump("published"))],
    },
    Chain {
        name: "nat_output",
        base: base(ChainType::Nat, Hook::Output, DSTNAT),
        rules: &[rule(&[Match::DaddrIsOurs], Then::Jump("published"))],
    },
    // What reaches a container must answer it, come from its own bridge, or have come by a published port.
    Chain {
        name: "filter_forward",
        base: base(ChainType::Filter, Hook::Forward, FILTER),
        rules: &[
            rule(&[Match::CtIsEstablishedOrRelated], Then::Accept),
            rule(&[Match::IifnameOifnameIn(Set::Intra)], Then::Accept),
            rule(&[Match::CtIsDnat], Then::Accept),
            rule(&[Match::OifnameIn(Set::Bridges)], Then::Drop),
            rule(&[Match::IifnameIn(Set::Bridges)], Then::Accept),
        ],
    },
    Chain {
        name: "nat_postrouting",
        base: base(ChainType::Nat, Hook::Postrouting, SRCNAT),
        rules: &[
            rule(
                &[
                    Match::CtIsDnat,
                    Match::SaddrIsLoopback,
                    Match::OifnameIn(Set::Bridges),
                ],
                Then::Masquerade,
            ),
            // By subnet: where br_netfilter shows us bridged packets, they have no iifname here.
            rule(
                &[Match::CtIsDnat, Match::SaddrDaddrIn(Set::SubnetPairs)],
                Then::Masquerade,
            ),
            rule(
                &[
                    Match::IifnameIn(Set::Bridges),
                    Match::OifnameNotIn(Set::Bridges),
                ],
                Then::Masquerade,
            ),
        ],
    },
];
