//! Rules of nf_tables in bytes: the few that are written, and what is asked of those that are read. Pure.

use crate::answer::{attributes, value};
use crate::name::{IfName, TableName, padded};

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NESTED: u16 = 0x8000;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

/// A rule that the kernel lists.
pub(super) struct Rule<'a>(&'a [u8]);

impl<'a> Rule<'a> {
    pub(super) fn read(attributes: &'a [u8]) -> Option<Self> {
        value(attributes, NFTA_RULE_HANDLE).map(|_| Rule(attributes))
    }

    pub(super) fn handle(&self) -> Option<u64> {
        let bytes = value(self.0, NFTA_RULE_HANDLE)?.first_chunk()?;
        Some(u64::from_be_bytes(*bytes))
    }

    pub(super) fn has_comment(&self, comment: &str) -> bool {
        value(self.0, NFTA_RULE_USERDATA) == Some(&userdata(comment))
    }

    /// Whether it looks at nothing, and drops or rejects.
    pub(super) fn drops_everything(&self) -> bool {
        const NFTA_TARGET_NAME: u16 = 1;
        let list = value(self.0, NFTA_RULE_EXPRESSIONS).unwrap_or_default();
        let mut expressions = attributes(list).map(|(_, expression)| {
            let name = value(expression, NFTA_EXPR_NAME).map(trimmed);
            let data = value(expression, NFTA_EXPR_DATA);
            (name.unwrap_or_default(), data.unwrap_or_default())
        });
        let first = expressions.find(|(name, _)| ![&b"counter"[..], b"log"].contains(name));
        match first {
            Some((b"immediate", data)) => verdict(data) == Some(NF_DROP),
            Some((b"reject", _)) => true,
            Some((b"target", data)) => {
                let target = value(data, NFTA_TARGET_NAME).map(trimmed);
                matches!(target, Some(b"DROP" | b"REJECT"))
            }
            _ => false,
        }
    }
}

fn trimmed(name: &[u8]) -> &[u8] {
    name.strip_suffix(&[0]).unwrap_or(name)
}

fn verdict(immediate: &[u8]) -> Option<u32> {
    let data = value(immediate, NFTA_IMMEDIATE_DATA)?;
    let code = value(value(data, NFTA_DATA_VERDICT)?, NFTA_VERDICT_CODE)?;
    Some(u32::from_be_bytes(*code.first_chunk()?))
}

/// Which side of a packet's way is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    In,
    Out,
}

/// What marks a rule as ours: the table that needs it, and what it lets through.
pub(super) fn comment(own_table: &TableName, bridge: &IfName, side: Side) -> String {
    let side = match side {
        Side::In => "from",
        Side::Out => "to",
    };
    // nft's text has room for 128 bytes.
    let table: String = own_table.to_string().chars().take(80).collect();
    format!("{table} lets through {side} {}", bridge.as_str())
}

/// `iifname <bridge> accept` or `oifname <bridge> accept`, with a comment.
pub(super) fn accept(bridge: &IfName, side: Side, comment: &str) -> Vec<u8> {
    const NFT_META_IIFNAME: u32 = 6;
    const NFT_META_OIFNAME: u32 = 7;
    const NFT_CMP_EQ: u32 = 0;
    const NFT_REG_VERDICT: u32 = 0;
    const NFT_REG_1: u32 = 1;
    let key = match side {
        Side::In => NFT_META_IIFNAME,
        Side::Out => NFT_META_OIFNAME,
    };
    let name = nested(3, &attribute(NFTA_DATA_VALUE, &padded(bridge.as_str())));
    let code = nested(NFTA_DATA_VERDICT, &number(NFTA_VERDICT_CODE, NF_ACCEPT));
    let expressions = [
        expression("meta", &[number(1, NFT_REG_1), number(2, key)]),
        expression("cmp", &[number(1, NFT_REG_1), number(2, NFT_CMP_EQ), name]),
        expression("counter", &[]),
        expression(
            "immediate",
            &[
                number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT),
                nested(NFTA_IMMEDIATE_DATA, &code),
            ],
        ),
    ];
    [
        nested(NFTA_RULE_EXPRESSIONS, &expressions.concat()),
        attribute(NFTA_RULE_USERDATA, &userdata(comment)),
    ]
    .concat()
}

/// A comment as nft keeps it.
fn userdata(comment: &str) -> Vec<u8> {
    const NFTNL_UDATA_RULE_COMMENT: u8 = 0;
    let mut data = vec![NFTNL_UDATA_RULE_COMMENT, comment.len() as u8 + 1];
    data.extend(comment.as_bytes());
    data.push(0);
    data
}

fn expression(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    let name = attribute(NFTA_EXPR_NAME, &[name.as_bytes(), &[0]].concat());
    let data = nested(NFTA_EXPR_DATA, &parts.concat());
    nested(NFTA_LIST_ELEM, &[name, data].concat())
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, value)
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(expressions: &[Vec<u8>]) -> Vec<u8> {
        [
            attribute(NFTA_RULE_HANDLE, &7_u64.to_be_bytes()),
            nested(NFTA_RULE_EXPRESSIONS, &expressions.concat()),
        ]
        .concat()
    }

    fn ending(code: u32) -> Vec<u8> {
        let code = nested(NFTA_DATA_VERDICT, &number(NFTA_VERDICT_CODE, code));
        expression("immediate", &[number(1, 0), nested(2, &code)])
    }

    #[test]
    fn only_a_rule_that_looks_at_nothing_drops_everything() {
        let counter = expression("counter", &[]);
        let meta = expression("meta", &[number(1, 1), number(2, 6)]);
        let target = |name: &[u8]| expression("target", &[attribute(1, name)]);
        for (expressions, drops) in [
            (vec![ending(NF_DROP)], true),
            (vec![counter.clone(), ending(NF_DROP)], true),
            (vec![counter.clone(), expression("reject", &[])], true),
            (vec![target(b"REJECT\0")], true),
            (vec![target(b"LOG\0")], false),
            (vec![ending(NF_ACCEPT)], false),
            (vec![meta, ending(NF_DROP)], false),
            (vec![counter], false),
            (vec![], false),
        ] {
            let bytes = rule(&expressions);
            let rule = Rule::read(&bytes).unwrap();
            assert_eq!(rule.drops_everything(), drops, "{expressions:?}");
        }
    }

    #[test]
    fn our_rule_is_known_by_its_comment() {
        let table = TableName::new("app").unwrap();
        let bridge = IfName::new("br0").unwrap();
        let ours = comment(&table, &bridge, Side::Out);
        let mut bytes = attribute(NFTA_RULE_HANDLE, &7_u64.to_be_bytes());
        bytes.extend(accept(&bridge, Side::Out, &ours));
        let rule = Rule::read(&bytes).unwrap();
        assert_eq!(rule.handle(), Some(7));
        assert!(rule.has_comment("app lets through to br0"));
        assert!(!rule.has_comment(&comment(&table, &bridge, Side::In)));
        assert!(!rule.drops_everything());
    }
}
