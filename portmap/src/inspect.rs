//! Whether the constant part of the table is in the kernel as it was made.

use std::collections::BTreeMap;

use crate::answer::value;
use crate::error::Failure;
use crate::layout::{CHAINS, Chain, Set};
use crate::name::TableName;
use crate::socket::{Socket, number, user_data};
use crate::wire;

/// What others did to sets, chains and rules.
#[derive(Debug)]
pub(crate) enum Damage {
    /// Nothing, or to the rules of these chains.
    Rules(Vec<&'static Chain>),
    /// More: a set or chain is missing, not ours, or of another shape.
    Table,
}

impl Damage {
    /// Looks at a table that is there.
    pub(crate) fn of(socket: &mut Socket, table: &TableName) -> Result<Self, Failure> {
        let sets = sets(socket, table)?;
        let same_set = |set: &Set| sets.get(set.name()) == Some(&Some(wire::shape_of(*set)));
        let chains = chains(socket, table)?;
        let same_chain = |chain: &Chain| {
            let found = chains.get(chain.name);
            found.is_some_and(|found| found.is(chain))
        };
        let complete = sets.len() == Set::ALL.len()
            && chains.len() == CHAINS.len()
            && Set::ALL.iter().all(same_set)
            && CHAINS.iter().all(same_chain);
        if !complete {
            return Ok(Damage::Table);
        }
        let rules = rules(socket, table)?;
        let changed = CHAINS.iter().filter(|chain| {
            let found = rules.get(chain.name).map_or(&[][..], Vec::as_slice);
            let wanted = chain.rules.iter();
            !wanted
                .map(|rule| Some(wire::tag_of(table, chain, rule)))
                .eq(found.iter().copied())
        });
        Ok(Damage::Rules(changed.collect()))
    }
}

/// Flags, and the lengths of key and data, of each set.
type Shape = (u32, u32, u32);

fn sets(
    socket: &mut Socket,
    table: &TableName,
) -> Result<BTreeMap<String, Option<Shape>>, Failure> {
    const NFTA_SET_TABLE: u16 = 1;
    const NFTA_SET_NAME: u16 = 2;
    const NFTA_SET_FLAGS: u16 = 3;
    const NFTA_SET_KEY_LEN: u16 = 5;
    const NFTA_SET_DATA_LEN: u16 = 7;
    let read = |set: &[u8]| {
        of_table(set, NFTA_SET_TABLE, table)?;
        let flags = number(set, NFTA_SET_FLAGS).unwrap_or(0);
        let data = number(set, NFTA_SET_DATA_LEN).unwrap_or(0);
        let shape = number(set, NFTA_SET_KEY_LEN).map(|key| (flags, key, data));
        Some((text(set, NFTA_SET_NAME)?, shape))
    };
    let found = socket.ask(wire::dump_sets(table), "read the sets", read)?;
    Ok(found.into_iter().collect())
}

#[derive(Debug)]
struct FoundChain {
    base: Option<(String, u32, i32)>,
    policy: Option<u32>,
}

impl FoundChain {
    fn is(&self, chain: &Chain) -> bool {
        const NF_ACCEPT: u32 = 1;
        let base = self.base.as_ref();
        let base = base.map(|(kind, hook, priority)| (kind.as_str(), *hook, *priority));
        base == wire::base_of(chain) && self.policy.unwrap_or(NF_ACCEPT) == NF_ACCEPT
    }
}

fn chains(socket: &mut Socket, table: &TableName) -> Result<BTreeMap<String, FoundChain>, Failure> {
    const NFTA_CHAIN_TABLE: u16 = 1;
    const NFTA_CHAIN_NAME: u16 = 3;
    const NFTA_CHAIN_HOOK: u16 = 4;
    const NFTA_CHAIN_POLICY: u16 = 5;
    const NFTA_CHAIN_TYPE: u16 = 7;
    const NFTA_HOOK_HOOKNUM: u16 = 1;
    const NFTA_HOOK_PRIORITY: u16 = 2;
    let read = |chain: &[u8]| {
        of_table(chain, NFTA_CHAIN_TABLE, table)?;
        let hook = value(chain, NFTA_CHAIN_HOOK);
        let base = hook.and_then(|hook| {
            let priority = number(hook, NFTA_HOOK_PRIORITY)?;
            let kind = text(chain, NFTA_CHAIN_TYPE)?;
            Some((kind, number(hook, NFTA_HOOK_HOOKNUM)?, priority as i32))
        });
        let policy = number(chain, NFTA_CHAIN_POLICY);
        Some((text(chain, NFTA_CHAIN_NAME)?, FoundChain { base, policy }))
    };
    let found = socket.ask(wire::dump_chains(table), "read the chains", read)?;
    Ok(found.into_iter().collect())
}

/// The tags of each chain's rules; one of somebody else has none.
fn rules(
    socket: &mut Socket,
    table: &TableName,
) -> Result<BTreeMap<String, Vec<Option<u32>>>, Failure> {
    const NFTA_RULE_TABLE: u16 = 1;
    const NFTA_RULE_CHAIN: u16 = 2;
    const NFTA_RULE_USERDATA: u16 = 7;
    let read = |rule: &[u8]| {
        of_table(rule, NFTA_RULE_TABLE, table)?;
        let data = value(rule, NFTA_RULE_USERDATA).unwrap_or_default();
        let tag = user_data(data, wire::RULE_TAG).and_then(|tag| tag.try_into().ok());
        Some((text(rule, NFTA_RULE_CHAIN)?, tag.map(u32::from_be_bytes)))
    };
    let mut rules: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (chain, tag) in socket.ask(wire::dump_rules(table), "read the rules", read)? {
        rules.entry(chain).or_default().push(tag);
    }
    Ok(rules)
}

/// Some kernels dump what is in other tables too.
fn of_table(attributes: &[u8], kind: u16, table: &TableName) -> Option<()> {
    (text(attributes, kind)? == table.as_str()).then_some(())
}

fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let bytes = value(attributes, kind)?;
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    Some(String::from_utf8_lossy(bytes).into_owned())
}
