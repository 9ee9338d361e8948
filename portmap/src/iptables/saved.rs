//! What iptables-save prints of published ports, read back. Pure.

use std::net::{IpAddr, SocketAddr};

use super::chains::{Names, PUBLISHED};
use super::ports::is_branch;
use crate::mapping::PortMapping;
use crate::name::Owner;
use crate::spec::Protocol;

/// The ports of our chains, in the order of the rules.
pub(super) fn ports(saved: &str, names: &Names) -> Vec<PortMapping> {
    let prefix = names.chain("");
    let rules = saved.lines().filter_map(|line| {
        let (chain, rule) = line.strip_prefix("-A ")?.split_once(' ')?;
        let end = chain.strip_prefix(&prefix)?;
        (end == PUBLISHED || is_branch(end)).then_some(rule)
    });
    rules.filter_map(port).collect()
}

/// One rule with a target of DNAT.
fn port(rule: &str) -> Option<PortMapping> {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let after = |option: &str| {
        let mut pairs = words.windows(2);
        pairs.find(|pair| pair[0] == option).map(|pair| pair[1])
    };
    let protocol = match after("-p")? {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let target: SocketAddr = after("--to-destination")?.parse().ok()?;
    let mut port = PortMapping::new(protocol, after("--dport")?.parse().ok()?, target).ok()?;
    if let Some(on) = after("-d") {
        let ip: IpAddr = on.split('/').next()?.parse().ok()?;
        port = port.on(ip).ok()?;
    }
    let comment = after("--comment").map(unquoted);
    let owner = comment.as_deref().and_then(|text| text.strip_prefix("of:"));
    match owner.and_then(|owner| Owner::new(owner).ok()) {
        Some(owner) => Some(port.owned_by(owner)),
        None => Some(port),
    }
}

/// A word as it was before iptables-save put it into quotes, and a backslash before those in it. No name has either.
fn unquoted(word: &str) -> String {
    word.trim_matches('"').replace('\\', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iptables_prints_is_what_was_published() {
        let saved = "*nat\n\
            -A PREROUTING -m addrtype --dst-type LOCAL -j app-PUB\n\
            -A app-PUB -d 127.0.0.1/32 -p tcp -m tcp --dport 8080 -m comment --comment of:web -j DNAT --to-destination 10.1.0.2:80\n\
            -A app-PUB -p tcp -m tcp --dport 4096:8191 -j app-PUB-t1\n\
            -A app-PUB-t1 -p udp -m udp --dport 53 -j DNAT --to-destination [fd00::2]:53\n\
            -A app-PUB -p tcp -m tcp --dport 82 -m comment --comment \"of:it\\'s\" -j DNAT --to-destination 10.1.0.2:80\n\
            -A DOCKER -p tcp -m tcp --dport 81 -j DNAT --to-destination 10.1.0.2:80\n";
        let found = ports(saved, &Names::of("app"));
        let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "127.0.0.1:8080/tcp to 10.1.0.2:80 of web",
                "[::]:53/udp to [fd00::2]:53",
                "0.0.0.0:82/tcp to 10.1.0.2:80 of it's"
            ]
        );
    }
}
