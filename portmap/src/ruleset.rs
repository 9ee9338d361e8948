//! The whole table as a plain value.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};

use crate::element::{Element, Read};
use crate::error::{Error, Inner, Result};
use crate::layout::{CHAINS, Chain, Set, Type};
use crate::mapping::{PortKey, PortMapping};
use crate::name::{IfName, Owner, TableName};
use crate::network::{NetworkSpec, overlap};
use crate::wire;

/// What is to be, or is, managed and published: networks and ports as a plain value that knows nothing of back ends.
///
/// nf_tables takes it as a table whose sets, maps, chains and rules are always the same, with elements for networks and ports;
/// `Display` prints that table in nft's syntax. Two rulesets that mean the same are equal, in whatever order they were made.
///
/// ```
/// use cofferdam_portmap::{NetworkSpec, PortMapping, Ruleset};
///
/// let mut ruleset = Ruleset::new("cofferdam")?;
/// ruleset.network(NetworkSpec::new("br0")?.subnet("10.1.0.0/24".parse()?))?;
/// ruleset.publish(PortMapping::of_spec(&"127.0.0.1:8080:80".parse()?, "10.1.0.2".parse()?)?)?;
/// let text = ruleset.to_string();
/// assert!(text.contains("elements = { 127.0.0.1 . tcp . 8080 : 10.1.0.2 . 80 }"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    table: TableName,
    networks: BTreeMap<IfName, NetworkSpec>,
    ports: BTreeMap<PortKey, PortMapping>,
}

impl Ruleset {
    /// Without networks and ports, for the table of that name and family inet.
    ///
    /// # Errors
    /// `InvalidInput` for a name nft could not spell.
    pub fn new(table_name: &str) -> Result<Self> {
        Ok(Self::of(TableName::new(table_name)?))
    }

    pub(crate) fn of(table: TableName) -> Self {
        Ruleset {
            table,
            networks: BTreeMap::new(),
            ports: BTreeMap::new(),
        }
    }

    /// Adds a network.
    ///
    /// # Errors
    /// `AlreadyExists` if the bridge or an overlapping subnet is there.
    pub fn network(&mut self, network: NetworkSpec) -> Result<&mut Self> {
        if let Some(by) = self.network_conflict(&network) {
            let doing = format!("add the network of bridge {}", network.bridge());
            return Err(Inner::Taken { doing, by }.into());
        }
        self.insert_network(network);
        Ok(self)
    }

    /// Adds a published port.
    ///
    /// # Errors
    /// `AlreadyExists` if the port is published on the same address, on every address, or, to be published on every address, on
    /// any.
    pub fn publish(&mut self, port: PortMapping) -> Result<&mut Self> {
        if let Some(other) = self.port_conflict(&port) {
            let doing = format!("publish {port}");
            return Err(taken(doing, other));
        }
        self.insert_port(port);
        Ok(self)
    }

    /// Takes out the network of that bridge, and says what it was.
    pub fn remove_network(&mut self, bridge: &str) -> Option<NetworkSpec> {
        self.networks.remove(&IfName::new(bridge).ok()?)
    }

    /// Takes out what is published where `port` is: on its host address, with its port and protocol, wherever it leads.
    pub fn unpublish(&mut self, port: &PortMapping) -> Option<PortMapping> {
        self.ports.remove(&port.key())
    }

    /// The table's name.
    #[must_use]
    pub fn table_name(&self) -> &str {
        self.table.as_str()
    }

    /// The networks, in the order of their bridges' names.
    pub fn networks(&self) -> impl Iterator<Item = &NetworkSpec> {
        self.networks.values()
    }

    /// The published ports, IPv4 first, in the order of protocol, host port and host address.
    pub fn ports(&self) -> impl Iterator<Item = &PortMapping> {
        self.ports.values()
    }

    /// The published ports of one owner.
    pub fn ports_of(&self, owner: &Owner) -> impl Iterator<Item = &PortMapping> {
        self.ports().filter(move |port| port.owner() == Some(owner))
    }

    /// Whether there is neither a network nor a port.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.ports.is_empty()
    }

    /// How many networks and ports there are.
    pub(crate) fn len(&self) -> usize {
        self.networks.len() + self.ports.len()
    }

    pub(crate) fn elements(&self) -> Vec<Element> {
        let networks = self.networks().flat_map(Element::of_network);
        networks.chain(self.ports().map(Element::of_port)).collect()
    }

    /// What the elements stand for, and those that stand for nothing.
    pub(crate) fn read(table: TableName, elements: Vec<Element>) -> (Self, Vec<Element>) {
        let Read {
            networks,
            ports,
            strays,
        } = Read::of(elements);
        let mut ruleset = Ruleset::of(table);
        ruleset.networks = networks;
        let ports = ports.into_iter().map(|port| (port.key(), port));
        ruleset.ports = ports.collect();
        (ruleset, strays)
    }

    /// The port that excludes this one.
    pub(crate) fn port_conflict(&self, port: &PortMapping) -> Option<&PortMapping> {
        let key = port.key();
        let same_port = self.ports.range(key.on(None)..);
        let mut same_port = same_port
            .take_while(|(other, _)| other.same_port(key))
            .map(|(_, other)| other);
        same_port.find(|other| {
            let (one, other) = (port.host_ip(), other.host_ip());
            one.is_none() || other.is_none() || one == other
        })
    }

    /// What of the table excludes this network.
    pub(crate) fn network_conflict(&self, network: &NetworkSpec) -> Option<String> {
        if self.networks.contains_key(&network.bridge) {
            return Some(format!("bridge {}", network.bridge()));
        }
        let others = self.networks().flat_map(|other| {
            let bridge = other.bridge();
            other.subnets().map(move |subnet| (subnet, bridge))
        });
        let mut others: Vec<_> = others.collect();
        for subnet in network.subnets() {
            if let Some((other, bridge)) = others.iter().find(|(other, _)| overlap(*other, subnet))
            {
                return Some(format!("subnet {other} of {bridge}"));
            }
            others.push((subnet, network.bridge()));
        }
        None
    }

    pub(crate) fn insert_network(&mut self, network: NetworkSpec) {
        self.networks.insert(network.bridge.clone(), network);
    }

    pub(crate) fn insert_port(&mut self, port: PortMapping) {
        self.ports.insert(port.key(), port);
    }

    /// What is published in the same place.
    pub(crate) fn port_at(&self, port: &PortMapping) -> Option<&PortMapping> {
        self.ports.get(&port.key())
    }

    pub(crate) fn network_of(&self, bridge: &IfName) -> Option<&NetworkSpec> {
        self.networks.get(bridge)
    }
}

/// That a port is published already, and by whom.
pub(crate) fn taken(doing: String, other: &PortMapping) -> Error {
    let by = match other.owner() {
        None => other.place().to_string(),
        Some(owner) => format!("{} of {owner}", other.place()),
    };
    Inner::Taken { doing, by }.into()
}

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.table)?;
        writeln!(f, "\tcomment \"{}\"\n", wire::COMMENT)?;
        let elements = self.elements();
        for set in Set::ALL {
            let elements = elements.iter().filter(|one| one.set == set);
            write_set(f, set, elements)?;
        }
        for (index, chain) in CHAINS.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            write_chain(f, chain)?;
        }
        f.write_str("}\n")
    }
}

fn write_set<'a>(
    f: &mut Formatter<'_>,
    set: Set,
    elements: impl Iterator<Item = &'a Element>,
) -> fmt::Result {
    let kind = if set.data().is_some() { "map" } else { "set" };
    writeln!(f, "\t{kind} {} {{", set.name())?;
    write!(f, "\t\ttype {}", joined(set.key(), " . "))?;
    if let Some(data) = set.data() {
        write!(f, " : {}", joined::<Type>(data, " . "))?;
    }
    f.write_char('\n')?;
    if set.has_intervals() {
        f.write_str("\t\tflags interval\n")?;
    }
    let elements: Vec<_> = elements.collect();
    if !elements.is_empty() {
        writeln!(f, "\t\telements = {{ {} }}", joined(&elements, ", "))?;
    }
    f.write_str("\t}\n\n")
}

fn write_chain(f: &mut Formatter<'_>, chain: &Chain) -> fmt::Result {
    writeln!(f, "\tchain {} {{", chain.name)?;
    if let Some(base) = chain.base {
        let (kind, hook, priority) = (base.kind.name(), base.hook, base.priority);
        writeln!(
            f,
            "\t\ttype {kind} hook {hook} priority {priority}; policy accept;"
        )?;
    }
    for rule in chain.rules {
        f.write_str("\t\t")?;
        for one in rule.when {
            write!(f, "{one} ")?;
        }
        writeln!(f, "{}", rule.then)?;
    }
    f.write_str("\t}\n")
}

fn joined<T: Display>(items: &[T], between: &str) -> String {
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push_str(between);
        }
        text.push_str(&item.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::network::Isolation;

    fn port(text: &str, to: &str) -> PortMapping {
        PortMapping::of_spec(&text.parse().unwrap(), to.parse().unwrap()).unwrap()
    }

    fn network(bridge: &str, subnet: &str) -> NetworkSpec {
        NetworkSpec::new(bridge)
            .unwrap()
            .subnet(subnet.parse().unwrap())
    }

    #[test]
    fn the_table_prints_in_nfts_syntax() {
        let mut ruleset = Ruleset::new("cofferdam").unwrap();
        ruleset
            .network(network("br0", "10.1.0.1/24").subnet("fd00:1::/64".parse().unwrap()))
            .unwrap()
            .network(
                network("br1", "10.2.0.0/16")
                    .isolation(Isolation::Strict)
                    .trust("vpn0")
                    .unwrap(),
            )
            .unwrap()
            .publish(port("127.0.0.1:8080:80", "10.1.0.2").owned_by(Owner::new("web").unwrap()))
            .unwrap()
            .publish(port("53:5353/udp", "10.1.0.2"))
            .unwrap()
            .publish(port("53:5353/udp", "fd00:1::2"))
            .unwrap();
        assert_eq!(
            ruleset.to_string(),
            include_str!("../tests/data/ruleset.nft")
        );
        assert!(!ruleset.to_string().contains("mark"), "others use marks");
    }

    #[test]
    fn ports_exclude_each_other_as_sockets_do() {
        let mut ruleset = Ruleset::new("t").unwrap();
        ruleset.publish(port("80:80", "10.1.0.2")).unwrap();
        ruleset
            .publish(port("127.0.0.1:81:80", "10.1.0.2"))
            .unwrap();
        for (text, to) in [
            ("80:81", "10.1.0.3"),
            ("127.0.0.1:80:80", "10.1.0.3"),
            ("81:80", "10.1.0.3"),
            ("127.0.0.1:81:80", "10.1.0.3"),
        ] {
            let error = ruleset.publish(port(text, to)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{text}: {error}");
        }
        for (text, to) in [
            ("80:80/udp", "10.1.0.3"),
            ("80:80", "fd00::3"),
            ("[fd00::1]:81:80", "fd00::3"),
            ("127.0.0.2:81:80", "10.1.0.3"),
            ("82:80", "10.1.0.3"),
            ("79:80", "10.1.0.3"),
        ] {
            ruleset.publish(port(text, to)).unwrap();
        }
    }

    #[test]
    fn networks_do_not_overlap() {
        let mut ruleset = Ruleset::new("t").unwrap();
        ruleset.network(network("br0", "10.1.0.0/24")).unwrap();
        for wrong in [
            network("br0", "10.9.0.0/24"),
            network("br1", "10.1.0.128/25"),
            network("br1", "10.0.0.0/8"),
            network("br1", "fd00::/64").subnet("fd00::/48".parse().unwrap()),
        ] {
            let error = ruleset.network(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        }
        ruleset.network(network("br1", "fd00::/64")).unwrap();
    }

    #[test]
    fn the_order_of_making_does_not_matter() {
        let (mut one, mut other) = (Ruleset::new("t").unwrap(), Ruleset::new("t").unwrap());
        for number in 1..10 {
            one.publish(port(&format!("{number}:1"), "10.1.0.2"))
                .unwrap();
            let number = 10 - number;
            other
                .publish(port(&format!("{number}:1"), "10.1.0.2"))
                .unwrap();
        }
        assert_eq!(one, other);
        let (read, strays) = Ruleset::read(one.table.clone(), one.elements());
        assert_eq!((read, strays), (one, vec![]));
    }

    #[test]
    fn the_number_of_rules_does_not_depend_on_ports_and_networks() {
        let rules = |ruleset: &Ruleset| {
            ruleset
                .to_string()
                .lines()
                .skip_while(|line| !line.starts_with("\tchain"))
                .count()
        };
        let mut ruleset = Ruleset::new("cofferdam").unwrap();
        let empty = rules(&ruleset);
        for number in 1..=1000 {
            ruleset
                .publish(port(&format!("{number}:80"), "10.1.0.2"))
                .unwrap();
        }
        assert_eq!(rules(&ruleset), empty);
        let total: usize = CHAINS.iter().map(|chain| chain.rules.len()).sum();
        assert_eq!(total, 28);
    }
}
