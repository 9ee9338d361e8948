//! A ruleset as chains of iptables: names, and rules as iptables-restore reads them. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use ipnetwork::IpNetwork;

use super::ports;
use crate::error::{Inner, Result};
use crate::network::{Isolation, NetworkSpec};
use crate::ruleset::Ruleset;

/// The two families, which iptables keeps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub(super) fn is(self, is_ipv4: bool) -> bool {
        is_ipv4 == (self == Family::V4)
    }
}

/// A table of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Filter,
    Raw,
    Nat,
}

impl Table {
    /// In this order nothing is led to a container before what guards it is there.
    pub(super) const ALL: [Table; 3] = [Table::Filter, Table::Raw, Table::Nat];

    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Raw => "raw",
            Table::Nat => "nat",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Table::ALL.into_iter().find(|table| table.name() == name)
    }
}

/// The rules of each of our chains.
pub(super) type Chains = BTreeMap<(Table, String), Vec<String>>;

/// A rule of a built-in chain that leads to one of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Jump {
    pub(super) table: Table,
    pub(super) from: &'static str,
    when: [&'static str; 2],
    to: &'static str,
}

const fn jump(table: Table, from: &'static str, when: [&'static str; 2], to: &'static str) -> Jump {
    Jump {
        table,
        from,
        when,
        to,
    }
}

const LOCAL: &str = "-m addrtype --dst-type LOCAL ";
/// No packet of `::1` can leave the host: what listens there itself keeps it.
const LOCAL_OUT_6: &str = "! -d ::1/128 -m addrtype --dst-type LOCAL ";

pub(super) const JUMPS: [Jump; 6] = [
    jump(Table::Filter, "FORWARD", ["", ""], FORWARD),
    jump(Table::Filter, "INPUT", ["", ""], INPUT),
    jump(Table::Raw, "PREROUTING", ["", ""], RAW),
    jump(Table::Nat, "PREROUTING", [LOCAL, LOCAL], PUBLISHED),
    jump(Table::Nat, "OUTPUT", [LOCAL, LOCAL_OUT_6], PUBLISHED),
    jump(Table::Nat, "POSTROUTING", ["", ""], POSTROUTING),
];

impl Jump {
    /// The end of the rule, by which it is found again, however iptables prints the rest.
    pub(super) fn target(&self, names: &Names) -> String {
        format!("-j {}", names.chain(self.to))
    }

    pub(super) fn rule(&self, family: Family, names: &Names) -> String {
        let when = self.when[usize::from(family == Family::V6)];
        format!("{when}{}", self.target(names))
    }
}

const FORWARD: &str = "FWD";
const INPUT: &str = "IN";
const RAW: &str = "RAW";
pub(super) const PUBLISHED: &str = "PUB";
const POSTROUTING: &str = "POST";

/// Our chains' names: the table's, cut where they would be longer than the kernel has room for.
#[derive(Clone, Debug)]
pub(super) struct Names(String);

impl Names {
    /// A chain's name is at most 28 bytes, and the longest end of one `-PUB-tFFF`.
    const MAX: usize = 19;

    pub(super) fn of(table: &str) -> Self {
        const HASH: usize = 9;
        match table.len() <= Self::MAX {
            true => Names(table.to_owned()),
            false => {
                let start: String = table.chars().take(Self::MAX - HASH).collect();
                Names(format!("{start}.{:08x}", fnv1a(table.as_bytes())))
            }
        }
    }

    pub(super) fn chain(&self, end: &str) -> String {
        format!("{}-{end}", self.0)
    }

    /// Whether it is the name of a chain of ours.
    pub(super) fn is_ours(&self, chain: &str) -> bool {
        let rest = chain.strip_prefix(&self.0);
        match rest.and_then(|rest| rest.strip_prefix('-')) {
            Some(FORWARD | INPUT | RAW | PUBLISHED | POSTROUTING) => true,
            Some(end) => ports::is_branch(end),
            None => false,
        }
    }
}

/// FNV-1a, of 32 bits.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// All chains of one family; none if the ruleset has nothing of it.
pub(super) fn render(ruleset: &Ruleset, family: Family, names: &Names) -> Result<Chains> {
    let networks: Vec<_> = ruleset.networks().collect();
    let ports: Vec<_> = ruleset
        .ports()
        .filter(|port| family.is(port.target().is_ipv4()))
        .collect();
    let mut chains = Chains::new();
    if networks.is_empty() && ports.is_empty() {
        return Ok(chains);
    }
    for network in &networks {
        refuse_names(network)?;
    }
    let mut put = |table, end: &str, rules| chains.insert((table, names.chain(end)), rules);
    put(Table::Filter, FORWARD, forward(&networks));
    put(Table::Filter, INPUT, input(&networks, family));
    put(Table::Raw, RAW, raw(family));
    put(Table::Nat, POSTROUTING, postrouting(&networks, family));
    for (end, rules) in ports::tree(&ports, names) {
        put(Table::Nat, &end, rules);
    }
    Ok(chains)
}

/// iptables takes a name that ends in `+` for all that begin so, and its files have quotes and words of their own.
fn refuse_names(network: &NetworkSpec) -> Result<()> {
    for name in network.trusted().chain([network.bridge()]) {
        if name.ends_with('+') || name.starts_with(['-', '!']) || name.contains(['\'', '\\', '#']) {
            return Err(Inner::Input {
                what: "interface name",
                value: name.to_owned(),
                reason: "would mean something else to iptables",
            }
            .into());
        }
    }
    Ok(())
}

const ESTABLISHED: &str = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
const IS_DNAT: &str = "-m conntrack --ctstate DNAT";

/// A neighbour's frame for 127.0.0.1 would reach a port published there, and where route_localnet is set a container could send
/// from there. IPv6 has its check before the hooks, but br_netfilter calls them earlier.
fn raw(family: Family) -> Vec<String> {
    let loopback = match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1/128",
    };
    let guard = |side| format!("! -i lo -{side} {loopback} -j DROP");
    ["d", "s"].map(guard).into()
}

/// What reaches a container must answer it, come from its own bridge, from where is trusted, or by a published port.
fn forward(networks: &[&NetworkSpec]) -> Vec<String> {
    let mut rules = vec![ESTABLISHED.to_owned()];
    for network in networks {
        let bridge = network.bridge();
        if network.has_icc() {
            rules.push(format!("-i {bridge} -o {bridge} -j ACCEPT"));
        }
        let trusted = network.trusted();
        rules.extend(trusted.map(|from| format!("-i {from} -o {bridge} -j ACCEPT")));
    }
    for network in networks.iter().filter(|network| network.is_internal()) {
        rules.push(format!("-o {} -j DROP", network.bridge()));
        rules.push(format!("-i {} -j DROP", network.bridge()));
    }
    for network in networks {
        rules.push(format!("-o {} {IS_DNAT} -j ACCEPT", network.bridge()));
        rules.push(format!("-o {} -j DROP", network.bridge()));
    }
    let out = networks.iter().filter(|network| !network.is_internal());
    rules.extend(out.map(|network| format!("-i {} -j ACCEPT", network.bridge())));
    rules
}

/// What a strictly isolated network may ask the host.
fn input(networks: &[&NetworkSpec], family: Family) -> Vec<String> {
    /// Solicitations and advertisements of neighbours.
    const ND: [u8; 2] = [135, 136];
    let mut rules = Vec::new();
    for network in networks {
        if network.isolated() != Isolation::Strict {
            continue;
        }
        let bridge = network.bridge();
        rules.push(format!("-i {bridge} {ESTABLISHED}"));
        for protocol in ["udp", "tcp"] {
            rules.push(format!(
                "-i {bridge} -p {protocol} --dport 53 -m addrtype --dst-type LOCAL --limit-iface-in -j ACCEPT"
            ));
        }
        if family == Family::V6 {
            let accept = |kind| format!("-i {bridge} -p icmpv6 --icmpv6-type {kind} -j ACCEPT");
            rules.extend(ND.map(accept));
        }
        rules.push(format!("-i {bridge} -j DROP"));
    }
    rules
}

fn postrouting(networks: &[&NetworkSpec], family: Family) -> Vec<String> {
    let mut rules = Vec::new();
    let subnets = |network: &NetworkSpec| -> Vec<IpNetwork> {
        let all = network.subnets();
        all.filter(|subnet| family.is(subnet.is_ipv4())).collect()
    };
    for network in networks {
        if family == Family::V4 {
            let bridge = network.bridge();
            rules.push(format!(
                "-s 127.0.0.0/8 -o {bridge} {IS_DNAT} -j MASQUERADE"
            ));
        }
        // By subnet: where br_netfilter shows bridged packets, they come from no interface here.
        for subnet in subnets(network) {
            rules.push(format!("-s {subnet} -d {subnet} {IS_DNAT} -j MASQUERADE"));
        }
    }
    let stays = |network: &&NetworkSpec| format!("-o {} -j RETURN", network.bridge());
    rules.extend(networks.iter().map(stays));
    for network in networks.iter().filter(|network| network.has_masquerade()) {
        let leave = subnets(network).into_iter();
        rules.extend(leave.map(|subnet| format!("-s {subnet} -j MASQUERADE")));
    }
    rules
}

/// What iptables is to be told to get from the chains that are there to those that are to be: one block a table, each taken
/// whole or not at all. Empty if nothing is to be done.
pub(super) fn difference(family: Family, names: &Names, before: &Known, after: &Chains) -> String {
    let mut tables = Table::ALL;
    let left = guards(after.iter().map(|(key, rules)| (key, Some(rules))));
    if after.is_empty() || before.guards() > left {
        // What is taken away leads nowhere before its guards go.
        tables.reverse();
    }
    let mut text = String::new();
    for table in tables {
        let block = Block {
            family,
            names,
            table,
            before,
            after,
        }
        .to_string();
        if !block.is_empty() {
            let _a_string_takes_all = write!(text, "*{}\n{block}COMMIT\n", table.name());
        }
    }
    text
}

/// How many rules guard networks; a chain whose rules are not known counts as none.
fn guards<'a>(
    chains: impl Iterator<Item = (&'a (Table, String), Option<&'a Vec<String>>)>,
) -> usize {
    chains
        .filter(|(key, _)| key.0 == Table::Filter)
        .map(|(_, rules)| rules.map_or(0, Vec::len))
        .sum()
}

/// What iptables has of ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Rules as they were written by us, or none where they are only known to be there.
    pub(super) chains: BTreeMap<(Table, String), Option<Vec<String>>>,
    /// Rules of built-in chains that lead to ours, as iptables prints them.
    pub(super) jumps: Vec<(Table, String)>,
}

impl Known {
    /// What is there once `after` was applied.
    pub(super) fn of(family: Family, names: &Names, after: Chains) -> Self {
        let jumps = JUMPS
            .iter()
            .filter(|_| !after.is_empty())
            .map(|jump| {
                (
                    jump.table,
                    format!("-A {} {}", jump.from, jump.rule(family, names)),
                )
            })
            .collect();
        let chains = after.into_iter();
        Known {
            chains: chains.map(|(chain, rules)| (chain, Some(rules))).collect(),
            jumps,
        }
    }

    fn guards(&self) -> usize {
        guards(self.chains.iter().map(|(key, rules)| (key, rules.as_ref())))
    }

    /// Reads what iptables-save printed.
    pub(super) fn read(saved: &str, names: &Names) -> Self {
        let mut known = Known::default();
        let mut table = None;
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::of_name(name);
            }
            let Some(table) = table else { continue };
            if let Some(chain) = line
                .strip_prefix(':')
                .and_then(|rest| rest.split(' ').next())
            {
                if names.is_ours(chain) {
                    known.chains.insert((table, chain.to_owned()), None);
                }
            }
            let from_built_in = JUMPS.iter().any(|jump| {
                let from = line
                    .strip_prefix("-A ")
                    .and_then(|rest| rest.strip_prefix(jump.from));
                from.is_some_and(|rest| rest.starts_with(' '))
                    && line.ends_with(&format!(" {}", jump.target(names)))
            });
            if from_built_in {
                known.jumps.push((table, line.to_owned()));
            }
        }
        known
    }

    fn has_jump(&self, jump: &Jump, names: &Names) -> bool {
        let (start, end) = (format!("-A {} ", jump.from), jump.target(names));
        self.jumps.iter().any(|(table, line)| {
            *table == jump.table && line.starts_with(&start) && line.ends_with(&end)
        })
    }
}

/// The lines for one table.
struct Block<'a> {
    family: Family,
    names: &'a Names,
    table: Table,
    before: &'a Known,
    after: &'a Chains,
}

impl fmt::Display for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Block {
            family,
            names,
            table,
            before,
            after,
        } = *self;
        let changed: Vec<_> = after
            .iter()
            .filter(|(key, rules)| {
                key.0 == table && before.chains.get(*key).and_then(Option::as_ref) != Some(rules)
            })
            .collect();
        let gone = || {
            let keys = before.chains.keys();
            keys.filter(|key| key.0 == table && !after.contains_key(*key))
        };
        // A chain that is named is made or emptied: both at once with what follows.
        for chain in changed.iter().map(|(key, _)| *key).chain(gone()) {
            writeln!(f, ":{} - [0:0]", chain.1)?;
        }
        if after.is_empty() {
            for (_, line) in before.jumps.iter().filter(|(of, _)| *of == table) {
                writeln!(f, "-D {}", line.trim_start_matches("-A "))?;
            }
        }
        for (key, rules) in changed {
            for rule in rules {
                writeln!(f, "-A {} {rule}", key.1)?;
            }
        }
        for chain in gone() {
            writeln!(f, "-X {}", chain.1)?;
        }
        for jump in JUMPS.iter().filter(|jump| jump.table == table) {
            if !after.is_empty() && !before.has_jump(jump, names) {
                writeln!(f, "-I {} 1 {}", jump.from, jump.rule(family, names))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::PortMapping;
    use crate::spec::Protocol;

    fn ruleset() -> Ruleset {
        let mut ruleset = Ruleset::new("app").unwrap();
        let app = NetworkSpec::new("br0").unwrap();
        let app = app
            .subnet("10.1.0.0/24".parse().unwrap())
            .trust("vpn0")
            .unwrap();
        let db = NetworkSpec::new("br1").unwrap();
        let db = db.subnet("10.2.0.0/24".parse().unwrap());
        let port = PortMapping::new(Protocol::Tcp, 8080, "10.1.0.2:80".parse().unwrap());
        ruleset
            .network(app)
            .unwrap()
            .network(db.isolation(Isolation::Strict))
            .unwrap()
            .publish(port.unwrap())
            .unwrap();
        ruleset
    }

    #[test]
    fn the_chains_print_as_iptables_restore_reads_them() {
        let names = Names::of("app");
        let chains = render(&ruleset(), Family::V4, &names).unwrap();
        let text = difference(Family::V4, &names, &Known::default(), &chains);
        assert_eq!(text, include_str!("../../tests/data/ruleset.iptables"));
        assert!(!text.to_lowercase().contains("mark"), "others use marks");
        let known = Known::of(Family::V4, &names, chains.clone());
        assert_eq!(difference(Family::V4, &names, &known, &chains), "");
    }

    #[test]
    fn what_is_taken_away_leads_nowhere_before_its_guards_go() {
        let names = Names::of("app");
        let chains = render(&ruleset(), Family::V4, &names).unwrap();
        let known = Known::of(Family::V4, &names, chains);
        let text = difference(Family::V4, &names, &known, &Chains::new());
        let at = |table| text.find(table).unwrap();
        assert!(
            at("*nat") < at("*raw") && at("*raw") < at("*filter"),
            "{text}"
        );
        assert!(
            text.contains("-D FORWARD -j app-FWD\n-D INPUT -j app-IN\n-X app-FWD\n"),
            "{text}"
        );
        let none = render(&Ruleset::new("app").unwrap(), Family::V6, &names);
        assert!(none.unwrap().is_empty());
    }

    #[test]
    fn names_of_chains_are_short_and_of_one_table_only() {
        let long = "a".repeat(255);
        let other = format!("{}b", "a".repeat(254));
        for table in ["app", "a-PUB", &long] {
            let names = Names::of(table);
            for end in [
                FORWARD,
                INPUT,
                RAW,
                PUBLISHED,
                POSTROUTING,
                "PUB-tFFF",
                "PUB-s0",
            ] {
                let chain = names.chain(end);
                assert!(chain.len() <= 28 && names.is_ours(&chain), "{chain}");
                assert!(!Names::of("a").is_ours(&chain), "{chain}");
                assert!(!Names::of(&other).is_ours(&chain), "{chain}");
            }
            for end in ["OTHER", "PUB-", "PUB-tFFFF", "PUB-tg", "PUB-x1", ""] {
                assert!(!names.is_ours(&names.chain(end)), "{end}");
            }
        }
    }
}
