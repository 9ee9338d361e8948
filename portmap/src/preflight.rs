//! Hooks of others that drop what containers need, and a way into them.
//!
//! What our table accepts, another table's chain at the same hook may still drop: an accept ends one base chain only.

mod conversation;
mod legacy;
mod rule;
mod sys;
mod way_in;

use std::collections::BTreeSet;
use std::fmt;

use conversation::Conversation;
use rule::Rule;
pub use way_in::WayIn;

use crate::answer::value;
use crate::error::{Failure, Result};

/// A base chain of somebody else that drops what no rule of it accepts: a firewall's.
///
/// It prints as one line for a log:
/// `table ip filter, chain FORWARD at hook forward, priority 0: policy drop (ufw)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignHook {
    family: HookFamily,
    table: String,
    chain: String,
    hook: Hook,
    priority: i32,
    drops: Drops,
    source: HookSource,
    firewall: Option<Firewall>,
}

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookFamily {
    /// IPv4: `ip`.
    Ip,
    /// IPv6: `ip6`.
    Ip6,
    /// Both: `inet`.
    Inet,
}

/// Where a chain is hooked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hook {
    /// Before routing: all that comes in.
    Prerouting,
    /// What is for the host itself: its services, such as DNS for containers, and userspace proxies.
    Input,
    /// What is routed through the host: all that containers send and get.
    Forward,
}

/// What it drops by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Drops {
    /// The chain's policy.
    ByPolicy,
    /// The chain's last rule, which drops or rejects everything.
    ByLastRule,
}

/// What the chain belongs to in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookSource {
    /// nf_tables, also where iptables made it.
    NfTables,
    /// ip_tables or ip6_tables, of `iptables-legacy`.
    IpTables,
}

/// Who is known to make such a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Firewall {
    /// ufw: chains `ufw-*` in iptables' tables.
    Ufw,
    /// firewalld: a table of its own name.
    Firewalld,
    /// Docker: policy drop in iptables' `FORWARD`, with a chain `DOCKER-USER`; or the table `docker-bridges`.
    Docker,
}

impl ForeignHook {
    /// The chains that drop, in the calling thread's network namespace, but for those of table inet `own_table`: at the hooks
    /// prerouting, input and forward, by nf_tables' dumps, and those of legacy ip_tables by `IPT_SO_GET_ENTRIES`. Changes nothing, and
    /// loads no module.
    ///
    /// A chain that drops by a rule in the middle, or by a chain that it jumps to, is not found.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`; `Unsupported` without nf_tables; `Malformed` for answers that are torn.
    pub fn find(own_table: &str) -> Result<Vec<Self>> {
        let doing = "look for chains that drop";
        let found = || {
            let mut found = Vec::new();
            let mut conversation = Conversation::open()?;
            for family in HookFamily::ALL {
                found.extend(dropping(&mut conversation, family, own_table)?);
            }
            found.extend(legacy::dropping()?);
            Ok(found)
        };
        found().map_err(|failure: Failure| failure.during(doing))
    }

    /// The table's family.
    #[must_use]
    pub fn family(&self) -> HookFamily {
        self.family
    }

    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The chain's name.
    #[must_use]
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// Where it is hooked in.
    #[must_use]
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Its place among the chains of the hook: lower ones come first.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// What it drops by.
    #[must_use]
    pub fn drops(&self) -> Drops {
        self.drops
    }

    /// What it belongs to in the kernel.
    #[must_use]
    pub fn source(&self) -> HookSource {
        self.source
    }

    /// Who made it, by the names of tables and chains.
    #[must_use]
    pub fn firewall(&self) -> Option<Firewall> {
        self.firewall
    }
}

impl fmt::Display for ForeignHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "table {} {}, chain {} at hook {}, priority {}: {}",
            self.family, self.table, self.chain, self.hook, self.priority, self.drops
        )?;
        match (self.firewall, self.source) {
            (Some(firewall), _) => write!(f, " ({firewall})"),
            (None, HookSource::IpTables) => f.write_str(" (iptables-legacy)"),
            (None, HookSource::NfTables) => Ok(()),
        }
    }
}

impl HookFamily {
    const ALL: [HookFamily; 3] = [HookFamily::Ip, HookFamily::Ip6, HookFamily::Inet];

    /// The kernel's number, `NFPROTO_*`.
    fn number(self) -> u8 {
        match self {
            HookFamily::Inet => 1,
            HookFamily::Ip => 2,
            HookFamily::Ip6 => 10,
        }
    }
}

impl fmt::Display for HookFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HookFamily::Ip => "ip",
            HookFamily::Ip6 => "ip6",
            HookFamily::Inet => "inet",
        })
    }
}

impl Hook {
    /// Of the numbers `NF_INET_*`, those that matter here.
    fn of(number: u32) -> Option<Self> {
        match number {
            0 => Some(Hook::Prerouting),
            1 => Some(Hook::Input),
            2 => Some(Hook::Forward),
            _ => None,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
        })
    }
}

impl fmt::Display for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Drops::ByPolicy => "policy drop",
            Drops::ByLastRule => "last rule drops",
        })
    }
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Firewall::Ufw => "ufw",
            Firewall::Firewalld => "firewalld",
            Firewall::Docker => "docker",
        })
    }
}

impl Firewall {
    fn of(table: &str, chains: &BTreeSet<&str>) -> Option<Self> {
        match table {
            "firewalld" => Some(Firewall::Firewalld),
            "docker-bridges" => Some(Firewall::Docker),
            _ if chains.iter().any(|chain| chain.starts_with("ufw")) => Some(Firewall::Ufw),
            _ if chains.contains("DOCKER-USER") => Some(Firewall::Docker),
            _ => None,
        }
    }
}

/// A chain as the kernel lists it.
struct Chain {
    table: String,
    name: String,
    /// Hook, priority and policy of a base chain.
    base: Option<(Hook, i32, u32)>,
}

impl Chain {
    fn read(attributes: &[u8]) -> Option<Self> {
        const NFTA_CHAIN_TABLE: u16 = 1;
        const NFTA_CHAIN_NAME: u16 = 3;
        const NFTA_CHAIN_HOOK: u16 = 4;
        const NFTA_CHAIN_POLICY: u16 = 5;
        const NFTA_HOOK_HOOKNUM: u16 = 1;
        const NFTA_HOOK_PRIORITY: u16 = 2;
        let base = || {
            let hook = value(attributes, NFTA_CHAIN_HOOK)?;
            Some((
                Hook::of(number(hook, NFTA_HOOK_HOOKNUM)?)?,
                number(hook, NFTA_HOOK_PRIORITY)? as i32,
                number(attributes, NFTA_CHAIN_POLICY)?,
            ))
        };
        Some(Chain {
            table: text(attributes, NFTA_CHAIN_TABLE)?,
            name: text(attributes, NFTA_CHAIN_NAME)?,
            base: base(),
        })
    }
}

fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let bytes = value(attributes, kind)?;
    let text = String::from_utf8_lossy(bytes);
    Some(text.trim_end_matches('\0').to_owned())
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    let bytes = value(attributes, kind)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

/// Those of one family in nf_tables.
fn dropping(
    conversation: &mut Conversation,
    family: HookFamily,
    own_table: &str,
) -> std::result::Result<Vec<ForeignHook>, Failure> {
    const NF_DROP: u32 = 0;
    let answers = conversation.chains(family)?;
    let chains: Vec<_> = answers
        .iter()
        .filter_map(|answer| Chain::read(answer.attributes()))
        .filter(|chain| !(family == HookFamily::Inet && chain.table == own_table))
        .collect();
    let mut found = Vec::new();
    for chain in &chains {
        let Some((hook, priority, policy)) = chain.base else {
            continue;
        };
        let drops = if policy == NF_DROP {
            Drops::ByPolicy
        } else if last_rule_drops(conversation, family, chain)? {
            Drops::ByLastRule
        } else {
            continue;
        };
        let names = chains.iter().filter(|other| other.table == chain.table);
        let names = names.map(|other| other.name.as_str()).collect();
        found.push(ForeignHook {
            family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            hook,
            priority,
            drops,
            source: HookSource::NfTables,
            firewall: Firewall::of(&chain.table, &names),
        });
    }
    Ok(found)
}

fn last_rule_drops(
    conversation: &mut Conversation,
    family: HookFamily,
    chain: &Chain,
) -> std::result::Result<bool, Failure> {
    let answers = conversation.rules(family, &chain.table, &chain.name)?;
    let last = answers
        .iter()
        .filter_map(|answer| Rule::read(answer.attributes()));
    Ok(last.last().is_some_and(|rule| rule.drops_everything()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_one_line_that_names_whose_it_is() {
        let chains = BTreeSet::from(["FORWARD", "ufw-before-forward", "DOCKER-USER"]);
        let hook = ForeignHook {
            family: HookFamily::Ip,
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            hook: Hook::Forward,
            priority: 0,
            drops: Drops::ByPolicy,
            source: HookSource::NfTables,
            firewall: Firewall::of("filter", &chains),
        };
        assert_eq!(
            hook.to_string(),
            "table ip filter, chain FORWARD at hook forward, priority 0: policy drop (ufw)"
        );
        let docker = BTreeSet::from(["FORWARD", "DOCKER-USER"]);
        assert_eq!(Firewall::of("filter", &docker), Some(Firewall::Docker));
        let none = BTreeSet::new();
        assert_eq!(Firewall::of("filter", &none), None);
        assert_eq!(Firewall::of("firewalld", &none), Some(Firewall::Firewalld));
    }
}
