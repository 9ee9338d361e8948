//! The whole table as a plain value.

use std::fmt::{self, Display, Formatter, Write};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::element::{Element, Port};
use crate::error::Result;
use crate::layout::{CHAINS, Chain, Set, Type};
use crate::name::TableName;
use crate::spec::PortSpec;

/// Our table as a plain value: sets, maps, chains and rules that are always the same, and elements for networks and ports.
///
/// It renders to the netlink messages [`Portmap`](crate::Portmap) sends, and by `Display` to text in nft's syntax.
///
/// ```
/// use cofferdam_portmap::Ruleset;
///
/// let mut ruleset = Ruleset::new("cofferdam")?;
/// ruleset.network("br0", "10.1.0.0/24".parse()?)?;
/// ruleset.publish(&"127.0.0.1:8080:80".parse()?, "10.1.0.2".parse()?)?;
/// let text = ruleset.to_string();
/// assert!(text.contains("elements = { 127.0.0.1 . tcp . 8080 : 10.1.0.2 . 80 }"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    table: TableName,
    elements: Vec<Element>,
}

impl Ruleset {
    /// A table of family inet without networks and ports.
    ///
    /// # Errors
    /// `InvalidInput` for a name nft could not spell.
    pub fn new(table_name: &str) -> Result<Self> {
        Ok(Self::of(TableName::new(table_name)?, Vec::new()))
    }

    pub(crate) fn of(table: TableName, elements: Vec<Element>) -> Self {
        Ruleset { table, elements }
    }

    /// Adds a managed bridge and its subnet.
    ///
    /// # Errors
    /// `InvalidInput` for a name that no link can have; `Unsupported` for an IPv6 subnet.
    pub fn network(&mut self, bridge: &str, subnet: IpNetwork) -> Result<&mut Self> {
        self.elements.extend(Element::network(bridge, subnet)?);
        Ok(self)
    }

    /// Adds a published port.
    ///
    /// # Errors
    /// `Unsupported` for an IPv6 host address or target.
    pub fn publish(&mut self, spec: &PortSpec, target: IpAddr) -> Result<&mut Self> {
        self.elements.push(Element::Port(Port::new(spec, target)?));
        Ok(self)
    }

    pub(crate) fn table(&self) -> &TableName {
        &self.table
    }

    pub(crate) fn elements(&self) -> &[Element] {
        &self.elements
    }
}

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.table)?;
        for set in Set::ALL {
            let elements = self.elements.iter().filter(|one| one.set() == set);
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

    #[test]
    fn the_table_prints_in_nfts_syntax() {
        let mut ruleset = Ruleset::new("cofferdam").unwrap();
        let target = "10.1.0.2".parse().unwrap();
        ruleset
            .network("br0", "10.1.0.1/24".parse().unwrap())
            .unwrap()
            .network("br1", "10.2.0.0/16".parse().unwrap())
            .unwrap()
            .publish(&"127.0.0.1:8080:80".parse().unwrap(), target)
            .unwrap()
            .publish(&"53:5353/udp".parse().unwrap(), target)
            .unwrap();
        assert_eq!(
            ruleset.to_string(),
            include_str!("../tests/data/ruleset.nft")
        );
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
        for port in 1..=1000 {
            let spec = PortSpec::new(port, 80).unwrap();
            ruleset.publish(&spec, "10.1.0.2".parse().unwrap()).unwrap();
        }
        assert_eq!(rules(&ruleset), empty);
        let total: usize = CHAINS.iter().map(|chain| chain.rules.len()).sum();
        assert_eq!(total, 14);
    }
}
