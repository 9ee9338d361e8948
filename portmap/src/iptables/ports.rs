//! Published ports as a tree of chains: a packet passes about four times sixteen rules where ten thousand ports are published,
//! and a change of one port rewrites one small chain.

use std::collections::BTreeMap;

use super::chains::{Names, PUBLISHED};
use crate::mapping::PortMapping;
use crate::spec::Protocol;

/// More rules than this are not kept in one chain, but for those of the same sixteen ports.
const FEW: usize = 16;
/// Hexadecimal digits of a port that chains are told apart by; the last one is not.
const DEPTH: u32 = 3;

/// The ends of the chains' names, and their rules.
pub(super) fn tree(ports: &[&PortMapping], names: &Names) -> BTreeMap<String, Vec<String>> {
    let mut chains = BTreeMap::new();
    let mut root = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let ports = ports.iter().filter(|port| port.protocol() == protocol);
        let branch = Branch {
            protocol,
            first: 0,
            depth: 0,
        };
        let mut ports: Vec<_> = ports.copied().collect();
        // One address before all of them.
        ports.sort_by_key(|port| (port.host_port(), port.host_ip().is_none(), port.host_ip()));
        root.extend(branch.rules(&ports, names, &mut chains));
    }
    chains.insert(PUBLISHED.to_owned(), root);
    chains
}

/// Whether a chain's name may end so.
pub(super) fn is_branch(end: &str) -> bool {
    let rest = end
        .strip_prefix(PUBLISHED)
        .and_then(|end| end.strip_prefix('-'));
    let Some(digits) = rest.and_then(|rest| rest.strip_prefix(['t', 'u', 's'])) else {
        return false;
    };
    (1..=DEPTH as usize).contains(&digits.len())
        && digits
            .bytes()
            .all(|byte| b"0123456789ABCDEF".contains(&byte))
}

/// The ports that begin with the same hexadecimal digits.
#[derive(Clone, Copy)]
struct Branch {
    protocol: Protocol,
    first: u16,
    depth: u32,
}

impl Branch {
    /// The rules of this branch's chain; those of its children go to `chains`.
    fn rules(
        self,
        ports: &[&PortMapping],
        names: &Names,
        chains: &mut BTreeMap<String, Vec<String>>,
    ) -> Vec<String> {
        if ports.len() <= FEW || self.depth == DEPTH {
            return ports.iter().map(|port| dnat(port)).collect();
        }
        let mut rules = Vec::new();
        let same = |one: &&PortMapping, other: &&PortMapping| {
            self.child(one.host_port()).first == self.child(other.host_port()).first
        };
        for ports in ports.chunk_by(same) {
            let child = self.child(ports[0].host_port());
            let end = child.end();
            let (first, last) = (child.first, child.last());
            rules.push(format!(
                "-p {} --dport {first}:{last} -j {}",
                self.protocol,
                names.chain(&end)
            ));
            let inside = child.rules(ports, names, chains);
            chains.insert(end, inside);
        }
        rules
    }

    fn child(self, port: u16) -> Self {
        let depth = self.depth + 1;
        let mask = u16::MAX << (16 - 4 * depth);
        Branch {
            first: port & mask,
            depth,
            ..self
        }
    }

    fn last(self) -> u16 {
        self.first | (u16::MAX >> (4 * self.depth))
    }

    fn end(self) -> String {
        let protocol = match self.protocol {
            Protocol::Tcp => 't',
            Protocol::Udp => 'u',
            Protocol::Sctp => 's',
        };
        let digits = self.first >> (16 - 4 * self.depth);
        let width = self.depth as usize;
        format!("{PUBLISHED}-{protocol}{digits:0width$X}")
    }
}

fn dnat(port: &PortMapping) -> String {
    let on = port
        .host_ip()
        .map_or(String::new(), |ip| format!("-d {ip} "));
    // A prefix: what it is must not depend on how the owner's name begins.
    let comment = port.owner().map_or(String::new(), |owner| {
        format!("-m comment --comment of:{owner} ")
    });
    format!(
        "{on}-p {} --dport {} {comment}-j DNAT --to-destination {}",
        port.protocol(),
        port.host_port(),
        port.target()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_port: u16) -> PortMapping {
        let target = "10.1.0.2:80".parse().unwrap();
        PortMapping::new(Protocol::Tcp, host_port, target).unwrap()
    }

    /// How many rules a packet for `port` passes, and whether it is led on.
    fn walk(chains: &BTreeMap<String, Vec<String>>, end: &str, port: u16) -> (usize, bool) {
        for (index, rule) in chains[end].iter().enumerate() {
            let words: Vec<&str> = rule.split(' ').collect();
            let ports = words[3];
            let (first, last) = ports.split_once(':').unwrap_or((ports, ports));
            if !(first.parse().unwrap()..=last.parse::<u16>().unwrap()).contains(&port) {
                continue;
            }
            let target = words[5];
            if target == "DNAT" {
                return (index + 1, true);
            }
            let (passed, led) = walk(chains, target.strip_prefix("t-").unwrap(), port);
            return (index + 1 + passed, led);
        }
        (chains[end].len(), false)
    }

    #[test]
    fn a_packet_passes_few_rules_whatever_the_number_of_ports() {
        for (count, step, at_most) in [
            (1, 1, 1),
            (16, 4000, 16),
            (17, 1, 40),
            (10_000, 1, 64),
            (65_535, 1, 64),
        ] {
            let ports: Vec<_> = (0..count)
                .map(|index: u16| port(1 + index * step))
                .collect();
            let chains = tree(&ports.iter().collect::<Vec<_>>(), &Names::of("t"));
            let most = ports
                .iter()
                .step_by(if count > 1000 { 37 } else { 1 })
                .map(|port| walk(&chains, PUBLISHED, port.host_port()))
                .inspect(|(_, led)| assert!(led))
                .map(|(passed, _)| passed);
            assert!(most.max().unwrap() <= at_most, "{count}");
            assert!(chains.keys().all(|end| end == PUBLISHED || is_branch(end)));
            let rules: Vec<_> = chains.values().flatten().collect();
            let dnat = rules.iter().filter(|rule| rule.contains("DNAT")).count();
            assert_eq!(dnat, usize::from(count));
        }
    }

    #[test]
    fn one_port_more_changes_one_small_chain() {
        let ports: Vec<_> = (1..=10_000).map(port).collect();
        let names = Names::of("t");
        let all = tree(&ports.iter().collect::<Vec<_>>(), &names);
        let fewer: Vec<_> = ports
            .iter()
            .filter(|port| port.host_port() != 5000)
            .collect();
        let fewer = tree(&fewer, &names);
        let changed: Vec<_> = all
            .iter()
            .filter(|(end, rules)| fewer.get(*end) != Some(rules))
            .collect();
        assert_eq!(changed.len(), 1);
        assert!(changed[0].1.len() <= FEW);
    }

    #[test]
    fn one_address_comes_before_all_addresses_in_whatever_order_they_are_given() {
        let any = port(80);
        let local = port(80).on("127.0.0.1".parse().unwrap()).unwrap();
        let chains = tree(&[&any, &local], &Names::of("t"));
        assert_eq!(
            chains[PUBLISHED],
            [
                "-d 127.0.0.1 -p tcp --dport 80 -j DNAT --to-destination 10.1.0.2:80",
                "-p tcp --dport 80 -j DNAT --to-destination 10.1.0.2:80"
            ]
        );
    }
}
