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
