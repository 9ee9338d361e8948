//! The constant part of the table: its sets, maps, chains and rules, as data.
//!
//! Nothing here depends on a network or a port: those are elements.

use std::fmt;

/// A set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    /// Managed bridges.
    Bridges,
    /// Pairs of interfaces from the one of which everything is let through to the other: a bridge with itself (ICC), or a trusted
    /// interface with a bridge.
    Open,
    /// Bridges in or out of which nothing else is forwarded.
    Internal,
    /// Bridges from which the host is not reached either.
    Strict,
    /// Bridges whose containers reach out in the name of the host.
    Masquerade,
    /// Pairs of source and destination subnet whose published traffic turns back: each with itself.
    SubnetPairs4,
    SubnetPairs6,
    /// Ports published on one address.
    Ports4,
    /// Ports published on every address.
    Ports4Any,
    Ports6,
    Ports6Any,
}

impl Set {
    pub(crate) const ALL: [Set; 11] = [
        Set::Bridges,
        Set::Open,
        Set::Internal,
        Set::Strict,
        Set::Masquerade,
        Set::SubnetPairs4,
        Set::SubnetPairs6,
        Set::Ports4,
        Set::Ports4Any,
        Set::Ports6,
        Set::Ports6Any,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Set::Bridges => "bridges",
            Set::Open => "open",
            Set::Internal => "internal",
            Set::Strict => "strict",
            Set::Masquerade => "masquerade_from",
            Set::SubnetPairs4 => "subnet_pairs4",
            Set::SubnetPairs6 => "subnet_pairs6",
            Set::Ports4 => "ports4",
            Set::Ports4Any => "ports4_any",
            Set::Ports6 => "ports6",
            Set::Ports6Any => "ports6_any",
        }
    }

    /// Tells sets of one transaction apart.
    pub(crate) fn id(self) -> u32 {
        self as u32 + 1
    }

    pub(crate) fn key(self) -> &'static [Type] {
        match self {
            Set::Bridges | Set::Internal | Set::Strict | Set::Masquerade => &[Type::Ifname],
            Set::Open => &[Type::Ifname, Type::Ifname],
            Set::SubnetPairs4 => &[Type::Ipv4Addr, Type::Ipv4Addr],
            Set::SubnetPairs6 => &[Type::Ipv6Addr, Type::Ipv6Addr],
            Set::Ports4 => &[Type::Ipv4Addr, Type::InetProto, Type::InetService],
            Set::Ports6 => &[Type::Ipv6Addr, Type::InetProto, Type::InetService],
            Set::Ports4Any | Set::Ports6Any => &[Type::InetProto, Type::InetService],
        }
    }

    /// What a map leads to; a set has none.
    pub(crate) fn data(self) -> Option<&'static [Type]> {
        match self {
            Set::Ports4 | Set::Ports4Any => Some(&[Type::Ipv4Addr, Type::InetService]),
            Set::Ports6 | Set::Ports6Any => Some(&[Type::Ipv6Addr, Type::InetService]),
            _ => None,
        }
    }

    pub(crate) fn has_intervals(self) -> bool {
        matches!(self, Set::SubnetPairs4 | Set::SubnetPairs6)
    }

    /// Of those with addresses, which.
    pub(crate) fn family(self) -> Family {
        match self {
            Set::SubnetPairs6 | Set::Ports6 | Set::Ports6Any => Family::Ipv6,
            _ => Family::Ipv4,
        }
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    fn address(self) -> Type {
        match self {
            Family::Ipv4 => Type::Ipv4Addr,
            Family::Ipv6 => Type::Ipv6Addr,
        }
    }

    /// nft's word for it itself.
    fn nfproto(self) -> &'static str {
        match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        }
    }

    /// nft's word for its header.
    fn word(self) -> &'static str {
        match self {
            Family::Ipv4 => "ip",
            Family::Ipv6 => "ip6",
        }
    }
}

/// A type of nft, of which keys and data are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
    Ifname,
}

impl Type {
    /// nft's number for it, for those who list the table; the kernel does not look at it.
    pub(crate) fn number(self) -> u32 {
        match self {
            Type::Ipv4Addr => 7,
            Type::Ipv6Addr => 8,
            Type::InetProto => 12,
            Type::InetService => 13,
            Type::Ifname => 41,
        }
    }

    /// Bytes it takes in registers, which are of four.
    pub(crate) fn len(self) -> u32 {
        match self {
            Type::Ipv4Addr | Type::InetProto | Type::InetService => 4,
            Type::Ipv6Addr | Type::Ifname => 16,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Ipv4Addr => "ipv4_addr",
            Type::Ipv6Addr => "ipv6_addr",
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
    Input,
    Forward,
    Output,
    Postrouting,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
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
    SaddrIsLoopback(Family),
    DaddrIsLoopback(Family),
    SaddrDaddrIn(Set),
    /// `fib daddr type local`.
    DaddrIsOurs,
    /// `fib daddr . iif type local`.
    DaddrIsOfIif,
    CtIsEstablishedOrRelated,
    CtIsDnat,
    /// Protocol and destination port.
    Dport(u8, u16),
    /// Solicitations and advertisements of neighbours.
    NeighbourDiscovery,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::IifnameIsNot(name) => write!(f, "iifname != {name:?}"),
            Match::IifnameIn(set) => write!(f, "iifname @{}", set.name()),
            Match::OifnameIn(set) => write!(f, "oifname @{}", set.name()),
            Match::OifnameNotIn(set) => write!(f, "oifname != @{}", set.name()),
            Match::IifnameOifnameIn(set) => write!(f, "iifname . oifname @{}", set.name()),
            Match::SaddrIsLoopback(Family::Ipv4) => f.write_str("ip saddr 127.0.0.0/8"),
            Match::DaddrIsLoopback(Family::Ipv4) => f.write_str("ip daddr 127.0.0.0/8"),
            Match::SaddrIsLoopback(Family::Ipv6) => f.write_str("ip6 saddr ::1"),
            Match::DaddrIsLoopback(Family::Ipv6) => f.write_str("ip6 daddr ::1"),
            Match::SaddrDaddrIn(set) => {
                let (ip, set) = (set.family().word(), set.name());
                write!(f, "{ip} saddr . {ip} daddr @{set}")
            }
            Match::DaddrIsOurs => f.write_str("fib daddr type local"),
            Match::DaddrIsOfIif => f.write_str("fib daddr . iif type local"),
            Match::CtIsEstablishedOrRelated => f.write_str("ct state established,related"),
            Match::CtIsDnat => f.write_str("ct status dnat"),
            Match::Dport(TCP, port) => write!(f, "tcp dport {port}"),
            Match::Dport(UDP, port) => write!(f, "udp dport {port}"),
            Match::Dport(protocol, port) => write!(f, "meta l4proto {protocol} th dport {port}"),
            Match::NeighbourDiscovery => f.write_str("icmpv6 type 135-136"),
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
                // Where nothing else of the rule tells the family.
                if !map.key().contains(&map.family().address()) {
                    let word = map.family().nfproto();
                    write!(f, "meta nfproto {word} ")?;
                }
                write!(f, "dnat {} to ", map.family().word())?;
                for part in map.key() {
                    f.write_str(match part {
                        Type::Ipv4Addr => "ip daddr . ",
                        Type::Ipv6Addr => "ip6 daddr . ",
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

/// Numbers of protocols.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

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

/// A packet of this loopback address or for it that came in from outside is dropped.
const fn not_from_outside(loopback: &'static [Match; 2]) -> Rule {
    rule(loopback, Then::Drop)
}

const OUTSIDE: Match = Match::IifnameIsNot("lo");

/// In an order in which each chain is there before it is jumped to.
pub(crate) static CHAINS: [Chain; 8] = [
    // A frame of a neighbour for 127.0.0.1 would reach a port published there: DNAT comes before the check for martians. And
    // where route_localnet is set that check is off, so that a container could send from 127.0.0.0/8 too. IPv6 has its check
    // before the hooks, but br_netfilter calls them earlier.
    Chain {
        name: "guard_loopback",
        base: base(ChainType::Filter, Hook::Prerouting, RAW),
        rules: &[
            not_from_outside(&[OUTSIDE, Match::DaddrIsLoopback(Family::Ipv4)]),
            not_from_outside(&[OUTSIDE, Match::SaddrIsLoopback(Family::Ipv4)]),
            not_from_outside(&[OUTSIDE, Match::DaddrIsLoopback(Family::Ipv6)]),
            not_from_outside(&[OUTSIDE, Match::SaddrIsLoopback(Family::Ipv6)]),
        ],
    },
    Chain {
        name: "published",
        base: None,
        rules: &[
            rule(&[], Then::Dnat(Set::Ports4)),
            rule(&[], Then::Dnat(Set::Ports4Any)),
            rule(&[], Then::Dnat(Set::Ports6)),
            rule(&[], Then::Dnat(Set::Ports6Any)),
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
        rules: &[
            // No packet of ::1 leaves the host: what listens there itself keeps it.
            rule(&[Match::DaddrIsLoopback(Family::Ipv6)], Then::Accept),
            rule(&[Match::DaddrIsOurs], Then::Jump("published")),
        ],
    },
    // What reaches a container must answer it, come from its own bridge, or have come by a published port.
    Chain {
        name: "filter_forward",
        base: base(ChainType::Filter, Hook::Forward, FILTER),
        rules: &[
            rule(&[Match::CtIsEstablishedOrRelated], Then::Accept),
            rule(&[Match::IifnameOifnameIn(Set::Open)], Then::Accept),
            rule(&[Match::IifnameIn(Set::Internal)], Then::Drop),
            rule(&[Match::OifnameIn(Set::Internal)], Then::Drop),
            rule(&[Match::CtIsDnat], Then::Accept),
            rule(&[Match::OifnameIn(Set::Bridges)], Then::Drop),
            rule(&[Match::IifnameIn(Set::Bridges)], Then::Accept),
        ],
    },
    // The gateway's own address only: another resolver of the host would be a way out.
    Chain {
        name: "from_strict",
        base: None,
        rules: &[
            rule(&[Match::CtIsEstablishedOrRelated], Then::Accept),
            rule(&[Match::DaddrIsOfIif, Match::Dport(UDP, 53)], Then::Accept),
            rule(&[Match::DaddrIsOfIif, Match::Dport(TCP, 53)], Then::Accept),
            rule(&[Match::NeighbourDiscovery], Then::Accept),
            rule(&[], Then::Drop),
        ],
    },
    Chain {
        name: "filter_input",
        base: base(ChainType::Filter, Hook::Input, FILTER),
        rules: &[rule(
            &[Match::IifnameIn(Set::Strict)],
            Then::Jump("from_strict"),
        )],
    },
    Chain {
        name: "nat_postrouting",
        base: base(ChainType::Nat, Hook::Postrouting, SRCNAT),
        rules: &[
            rule(
                &[
                    Match::CtIsDnat,
                    Match::SaddrIsLoopback(Family::Ipv4),
                    Match::OifnameIn(Set::Bridges),
                ],
                Then::Masquerade,
            ),
            // By subnet: where br_netfilter shows us bridged packets, they have no iifname here.
            rule(
                &[Match::CtIsDnat, Match::SaddrDaddrIn(Set::SubnetPairs4)],
                Then::Masquerade,
            ),
            rule(
                &[Match::CtIsDnat, Match::SaddrDaddrIn(Set::SubnetPairs6)],
                Then::Masquerade,
            ),
            rule(
                &[
                    Match::IifnameIn(Set::Masquerade),
                    Match::OifnameNotIn(Set::Bridges),
                ],
                Then::Masquerade,
            ),
        ],
    },
];
