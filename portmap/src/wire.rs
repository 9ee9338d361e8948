//! Our values as nf_tables messages: the only file that knows the packet crate's types for tables, sets, chains and rules.

mod expression;

use std::fmt;

use netlink_packet_core::{
    DefaultNla, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL,
    NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, GenMessage, Hook, InetHookNumber, NfTablesMessage, RuleAttribute,
    RuleMessage, SetAttribute, SetDescription, SetElementList, SetElementMessage, SetFlags,
    SetMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use crate::element::Element;
use crate::layout::{self, CHAINS, Chain, Rule, Set, Type};
use crate::name::TableName;

pub(crate) type Message = NetlinkMessage<NetfilterMessage>;

/// What a message does, for the error of one that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    AddTable,
    ChangeTable,
    DeleteTable,
    AddSet(Set),
    AddChain(&'static str),
    ClearChain(&'static str),
    AddRule(&'static str),
    AddElements(Set),
    DeleteElements(Set),
}

impl Step {
    /// Whether it makes a part of the empty table.
    pub(crate) fn is_layout(self) -> bool {
        matches!(
            self,
            Step::AddTable | Step::AddSet(_) | Step::AddChain(_) | Step::AddRule(_)
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::AddTable => f.write_str("add table"),
            Step::ChangeTable => f.write_str("change table"),
            Step::DeleteTable => f.write_str("delete table"),
            Step::AddSet(set) => write!(f, "add set {}", set.name()),
            Step::AddChain(chain) => write!(f, "add chain {chain}"),
            Step::ClearChain(chain) => write!(f, "delete rules of chain {chain}"),
            Step::AddRule(chain) => write!(f, "add rule to chain {chain}"),
            Step::AddElements(set) => write!(f, "add elements to {}", set.name()),
            Step::DeleteElements(set) => write!(f, "delete elements of {}", set.name()),
        }
    }
}

/// One message of a transaction, as bytes without its sequence number.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) step: Step,
    pub(crate) bytes: Vec<u8>,
}

impl Change {
    fn new(step: Step, message: Message) -> Self {
        let bytes = bytes(message);
        Change { step, bytes }
    }
}

/// Flags of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) u32);

impl Flags {
    pub(crate) const OWNER: u32 = 2;
    pub(crate) const PERSIST: u32 = 4;
}

/// The comment that tells our table from one of the same name.
pub(crate) const COMMENT: &str = "cofferdam-portmap";

/// `NFT_SET_ELEM_CATCHALL`: the element has no key.
pub(crate) const CATCHALL: u32 = 2;

/// The kind of a rule's tag in its user data; nft knows kinds up to 1, and passes over others.
pub(crate) const RULE_TAG: u8 = 200;

/// The messages that make the whole table.
pub(crate) fn create(table: &TableName, flags: Flags, elements: &[Element]) -> Vec<Change> {
    let mut changes = vec![add_table(table, flags)];
    changes.extend(Set::ALL.iter().map(|set| add_set(table, *set)));
    for chain in &CHAINS {
        changes.push(add_chain(table, chain));
        changes.extend(add_rules(table, chain));
    }
    changes.extend(add_elements(table, elements));
    changes
}

/// The messages that add elements to the table; `NLM_F_EXCL` makes one that is there an error.
pub(crate) fn add_elements(table: &TableName, elements: &[Element]) -> Vec<Change> {
    let add = |set, bytes| Change {
        step: Step::AddElements(set),
        bytes,
    };
    const FLAGS: u16 = NLM_F_CREATE | NLM_F_EXCL;
    element_lists(table, elements, NFT_MSG_NEWSETELEM, FLAGS, add)
}

pub(crate) fn delete_elements(table: &TableName, elements: &[Element]) -> Vec<Change> {
    let delete = |set, bytes| Change {
        step: Step::DeleteElements(set),
        bytes,
    };
    element_lists(table, elements, NFT_MSG_DELSETELEM, 0, delete)
}

/// Asks for the element of this key.
pub(crate) fn read_element(table: &TableName, key: &Element) -> Vec<u8> {
    let ask = |set, bytes| Change {
        step: Step::AddElements(set),
        bytes,
    };
    let messages = element_lists(table, std::slice::from_ref(key), NFT_MSG_GETSETELEM, 0, ask);
    messages.into_iter().flat_map(|one| one.bytes).collect()
}

/// Deletes the table with all that is in it.
pub(crate) fn delete_table(table: &TableName) -> Vec<Change> {
    vec![Change::new(
        Step::DeleteTable,
        nftables(NfTablesMessage::DeleteTable(table_message(table)), 0),
    )]
}

/// Gives a table that is there these flags: makes one that its owner left by `NFT_TABLE_F_PERSIST` ours.
pub(crate) fn change_table(table: &TableName, flags: Flags) -> Change {
    Change::new(
        Step::ChangeTable,
        nftables(NfTablesMessage::NewTable(flagged(table, flags)), 0),
    )
}

/// Makes the rules of a chain what they should be.
pub(crate) fn restore_chain(table: &TableName, chain: &Chain) -> Vec<Change> {
    let attributes = vec![
        RuleAttribute::Table(table.to_string()),
        RuleAttribute::Chain(chain.name.to_owned()),
    ];
    let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
    let mut changes = vec![Change::new(
        Step::ClearChain(chain.name),
        nftables(message, 0),
    )];
    changes.extend(add_rules(table, chain));
    changes
}

pub(crate) fn read_generation() -> Message {
    let attributes = Vec::new();
    nftables(NfTablesMessage::GetGen(GenMessage { attributes }), 0)
}

pub(crate) fn read_table(table: &TableName) -> Message {
    nftables(NfTablesMessage::GetTable(table_message(table)), 0)
}

pub(crate) fn dump_elements(table: &TableName, set: Set) -> Message {
    let attributes = vec![
        SetElementList::Table(table.to_string()),
        SetElementList::Set(set.name().to_owned()),
    ];
    nftables(
        NfTablesMessage::GetSetElement(SetElementMessage { attributes }),
        NLM_F_DUMP,
    )
}

pub(crate) fn dump_sets(table: &TableName) -> Message {
    let attributes = vec![SetAttribute::Table(table.to_string())];
    nftables(
        NfTablesMessage::GetSet(SetMessage { attributes }),
        NLM_F_DUMP,
    )
}

pub(crate) fn dump_chains(table: &TableName) -> Message {
    let attributes = vec![ChainAttribute::Table(table.to_string())];
    nftables(
        NfTablesMessage::GetChain(ChainMessage { attributes }),
        NLM_F_DUMP,
    )
}

pub(crate) fn dump_rules(table: &TableName) -> Message {
    let attributes = vec![RuleAttribute::Table(table.to_string())];
    nftables(
        NfTablesMessage::GetRule(RuleMessage { attributes }),
        NLM_F_DUMP,
    )
}

/// Opens a transaction that the kernel takes only if its generation is still this one.
pub(crate) fn begin(generation: u32) -> Vec<u8> {
    const NFNL_MSG_BATCH_BEGIN: u8 = 16;
    const NFNL_BATCH_GENID: u16 = 1;
    bytes(control(ControlMessage::Other {
        message_type: NFNL_MSG_BATCH_BEGIN,
        attributes: vec![be32(NFNL_BATCH_GENID, generation)],
    }))
}

pub(crate) fn end() -> Vec<u8> {
    bytes(control(ControlMessage::BatchEnd))
}

/// Asks for an answer to this message also where it succeeds.
pub(crate) fn acknowledged(message: &mut [u8]) {
    if let Some(flags) = message.get_mut(6..8) {
        let set = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
        flags.copy_from_slice(&set.to_ne_bytes());
    }
}

/// Gives a message its sequence number.
pub(crate) fn number(message: &mut [u8], sequence: u32) {
    if let Some(field) = message.get_mut(8..12) {
        field.copy_from_slice(&sequence.to_ne_bytes());
    }
}

pub(crate) fn bytes(mut message: Message) -> Vec<u8> {
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn control(message: ControlMessage) -> Message {
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    request(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES),
        message,
        0,
    )
}

fn nftables(message: NfTablesMessage, flags: u16) -> Message {
    request(
        NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0),
        message,
        flags,
    )
}

fn request(
    header: NetfilterHeader,
    inner: impl Into<NetfilterMessageInner>,
    flags: u16,
) -> Message {
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
    message.header.flags = NLM_F_REQUEST | flags;
    message
}

fn table_message(table: &TableName) -> TableMessage {
    let attributes = vec![TableAttribute::Name(table.to_string())];
    TableMessage { attributes }
}

fn flagged(table: &TableName, flags: Flags) -> TableMessage {
    let mut message = table_message(table);
    let flags = TableFlags::from_bits_retain(flags.0);
    message.attributes.push(TableAttribute::Flags(flags));
    message
}

fn add_table(table: &TableName, flags: Flags) -> Change {
    let mut message = flagged(table, flags);
    let comment = TableAttribute::UserData(comment(COMMENT));
    message.attributes.push(comment);
    Change::new(
        Step::AddTable,
        nftables(
            NfTablesMessage::NewTable(message),
            NLM_F_CREATE | NLM_F_EXCL,
        ),
    )
}

/// User data as nft writes a comment of a table and of an element: kind, length, text and zero.
pub(crate) fn comment(text: &str) -> Vec<u8> {
    const COMMENT: u8 = 0;
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut data = vec![COMMENT, length];
    data.extend(text.bytes().take(usize::from(length) - 1));
    data.push(0);
    data
}

fn add_set(table: &TableName, set: Set) -> Change {
    let mut flags = SetFlags::default();
    let mut attributes = vec![
        SetAttribute::Table(table.to_string()),
        SetAttribute::Name(set.name().to_owned()),
        SetAttribute::KeyType(joined_type(set.key())),
        SetAttribute::KeyLen(length(set.key())),
        SetAttribute::Id(set.id()),
    ];
    if let Some(data) = set.data() {
        flags |= SetFlags::Map;
        attributes.push(SetAttribute::DataType(joined_type(data)));
        attributes.push(SetAttribute::DataLen(length(data)));
    }
    if set.has_intervals() {
        flags |= SetFlags::Interval | SetFlags::Concat;
        let fields = set.key().iter().map(|part| field(*part)).collect();
        attributes.push(SetAttribute::Description(vec![SetDescription::Concat(
            fields,
        )]));
    }
    attributes.push(SetAttribute::Flags(flags));
    attributes.extend(host_byte_order(set));
    Change::new(
        Step::AddSet(set),
        nftables(
            NfTablesMessage::NewSet(SetMessage { attributes }),
            NLM_F_CREATE | NLM_F_EXCL,
        ),
    )
}

/// For those who list the table: nft shows an interface name by the byte order in the set's user data.
fn host_byte_order(set: Set) -> Option<SetAttribute> {
    const NFTNL_UDATA_SET_KEYBYTEORDER: u8 = 0;
    const BYTEORDER_HOST_ENDIAN: u32 = 1;
    if set.key() != [Type::Ifname] {
        return None;
    }
    let mut data = vec![NFTNL_UDATA_SET_KEYBYTEORDER, 4];
    data.extend(BYTEORDER_HOST_ENDIAN.to_ne_bytes());
    Some(SetAttribute::UserData(data))
}

/// nft packs the types of a concatenation into one number, six bits each.
fn joined_type(types: &[Type]) -> u32 {
    types
        .iter()
        .fold(0, |joined, part| joined << 6 | part.number())
}

fn length(types: &[Type]) -> u32 {
    types.iter().map(|part| part.len()).sum()
}

/// The length of one field of a concatenation of intervals, as a list element.
fn field(part: Type) -> DefaultNla {
    const NFTA_LIST_ELEM: u16 = 1;
    const NFTA_SET_FIELD_LEN: u16 = 1;
    let mut attribute = Vec::with_capacity(8);
    attribute.extend(8_u16.to_ne_bytes());
    attribute.extend(NFTA_SET_FIELD_LEN.to_ne_bytes());
    attribute.extend(part.len().to_be_bytes());
    DefaultNla::new(NFTA_LIST_ELEM | NLA_F_NESTED, attribute)
}

const NFT_MSG_NEWSETELEM: u8 = 12;
const NFT_MSG_GETSETELEM: u8 = 13;
const NFT_MSG_DELSETELEM: u8 = 14;

/// Elements of one set that follow each other go into one message, as many as a nested attribute has room for. Written by hand:
/// by the packet crate's types ten thousand elements are a quarter of a million allocations.
fn element_lists(
    table: &TableName,
    elements: &[Element],
    kind: u8,
    flags: u16,
    change: impl Fn(Set, Vec<u8>) -> Change,
) -> Vec<Change> {
    const NFNL_SUBSYS_NFTABLES: u8 = 10;
    const NFPROTO_INET: u8 = 1;
    /// Of at most 360 bytes each.
    const MOST: usize = 180;
    const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
    const NFTA_SET_ELEM_LIST_SET: u16 = 2;
    const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    let mut changes = Vec::new();
    for same_set in elements.chunk_by(|one, other| one.set == other.set) {
        for chunk in same_set.chunks(MOST) {
            let set = chunk[0].set;
            let mut message = Vec::with_capacity(96 * chunk.len() + 64);
            message.extend([0; 4]);
            message.extend([kind, NFNL_SUBSYS_NFTABLES]);
            message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
            message.extend([0; 8]);
            message.extend([NFPROTO_INET, 0, 0, 0]);
            string(&mut message, NFTA_SET_ELEM_LIST_TABLE, table.as_str());
            string(&mut message, NFTA_SET_ELEM_LIST_SET, set.name());
            nest(&mut message, NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                for element in chunk {
                    write_element(list, element);
                }
            });
            let length = message.len() as u32;
            message[..4].copy_from_slice(&length.to_ne_bytes());
            changes.push(change(set, message));
        }
    }
    changes
}

fn write_element(list: &mut Vec<u8>, element: &Element) {
    const NFTA_LIST_ELEM: u16 = 1;
    const NFTA_SET_ELEM_KEY: u16 = 1;
    const NFTA_SET_ELEM_DATA: u16 = 2;
    const NFTA_SET_ELEM_FLAGS: u16 = 3;
    const NFTA_SET_ELEM_USERDATA: u16 = 6;
    const NFTA_SET_ELEM_KEY_END: u16 = 10;
    const NFTA_DATA_VALUE: u16 = 1;
    nest(list, NFTA_LIST_ELEM, |parts| {
        let mut part = |kind, value: Option<&Vec<u8>>| {
            if let Some(value) = value {
                nest(parts, kind, |data| attribute(data, NFTA_DATA_VALUE, value));
            }
        };
        part(
            NFTA_SET_ELEM_KEY,
            Some(&element.key).filter(|key| !key.is_empty()),
        );
        part(NFTA_SET_ELEM_KEY_END, element.key_end.as_ref());
        part(NFTA_SET_ELEM_DATA, element.data.as_ref());
        if element.key.is_empty() {
            attribute(parts, NFTA_SET_ELEM_FLAGS, &CATCHALL.to_be_bytes());
        }
        if let Some(text) = &element.comment {
            attribute(parts, NFTA_SET_ELEM_USERDATA, &comment(text));
        }
    });
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    const NLA_HEADER: usize = 4;
    bytes.extend(((NLA_HEADER + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn string(bytes: &mut Vec<u8>, kind: u16, text: &str) {
    attribute(bytes, kind, &[text.as_bytes(), &[0]].concat());
}

fn nest(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend((kind | NLA_F_NESTED).to_ne_bytes());
    fill(bytes);
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

fn add_chain(table: &TableName, chain: &Chain) -> Change {
    const NF_ACCEPT: u32 = 1;
    let mut attributes = vec![
        ChainAttribute::Table(table.to_string()),
        ChainAttribute::Name(chain.name.to_owned()),
    ];
    if let Some(base) = chain.base {
        let hook = hook_number(base.hook);
        attributes.extend([
            ChainAttribute::Type(base.kind.name().to_owned()),
            ChainAttribute::Hook(vec![
                Hook::Number(hook.into()),
                Hook::Priority(base.priority as u32),
            ]),
            ChainAttribute::Policy(NF_ACCEPT),
        ]);
    }
    Change::new(
        Step::AddChain(chain.name),
        nftables(
            NfTablesMessage::NewChain(ChainMessage { attributes }),
            NLM_F_CREATE | NLM_F_EXCL,
        ),
    )
}

fn hook_number(hook: layout::Hook) -> InetHookNumber {
    match hook {
        layout::Hook::Prerouting => InetHookNumber::PreRouting,
        layout::Hook::Input => InetHookNumber::LocalIn,
        layout::Hook::Forward => InetHookNumber::Forward,
        layout::Hook::Output => InetHookNumber::LocalOut,
        layout::Hook::Postrouting => InetHookNumber::PostRouting,
    }
}

/// Type, number of the hook, priority: what the kernel tells of a base chain.
pub(crate) fn base_of(chain: &Chain) -> Option<(&'static str, u32, i32)> {
    let base = chain.base?;
    let hook = u32::from(hook_number(base.hook));
    Some((base.kind.name(), hook, base.priority))
}

/// Flags, and the lengths of key and data: what the kernel tells of a set.
pub(crate) fn shape_of(set: Set) -> (u32, u32, u32) {
    let mut flags = SetFlags::default();
    if set.data().is_some() {
        flags |= SetFlags::Map;
    }
    if set.has_intervals() {
        flags |= SetFlags::Interval | SetFlags::Concat;
    }
    let data = set.data().map_or(0, length);
    (flags.bits(), length(set.key()), data)
}

fn add_rules(table: &TableName, chain: &Chain) -> impl Iterator<Item = Change> {
    chain.rules.iter().map(|rule| add_rule(table, chain, rule))
}

fn add_rule(table: &TableName, chain: &Chain, rule: &Rule) -> Change {
    const NFTA_RULE_USERDATA: u16 = 7;
    let mut bytes = bytes(new_rule(rule_attributes(table, chain, rule)));
    let mut tag = vec![RULE_TAG, 4];
    tag.extend(hash(&bytes).to_be_bytes());
    attribute(&mut bytes, NFTA_RULE_USERDATA, &tag);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    let step = Step::AddRule(chain.name);
    Change { step, bytes }
}

fn rule_attributes(table: &TableName, chain: &Chain, rule: &Rule) -> Vec<RuleAttribute> {
    vec![
        RuleAttribute::Table(table.to_string()),
        RuleAttribute::Chain(chain.name.to_owned()),
        RuleAttribute::Expressions(expression::of_rule(rule)),
    ]
}

fn new_rule(attributes: Vec<RuleAttribute>) -> Message {
    nftables(
        NfTablesMessage::NewRule(RuleMessage { attributes }),
        NLM_F_CREATE | NLM_F_APPEND,
    )
}

/// What a rule of ours is known by in the kernel: a hash of its message, in its user data. The kernel has no way to change a rule
/// and leave that: one that has it is as it was made.
pub(crate) fn tag_of(table: &TableName, chain: &Chain, rule: &Rule) -> u32 {
    hash(&bytes(new_rule(rule_attributes(table, chain, rule))))
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

fn be32(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkMessage;

    use super::*;
    use crate::mapping::PortMapping;
    use crate::network::{Isolation, NetworkSpec};
    use crate::ruleset::Ruleset;

    fn port(text: &str, to: &str) -> PortMapping {
        PortMapping::of_spec(&text.parse().unwrap(), to.parse().unwrap()).unwrap()
    }

    fn whole() -> Vec<Change> {
        let mut ruleset = Ruleset::new("t").unwrap();
        ruleset
            .network(
                NetworkSpec::new("br0")
                    .unwrap()
                    .subnet("10.1.0.0/24".parse().unwrap())
                    .subnet("fd00::/64".parse().unwrap())
                    .isolation(Isolation::Strict),
            )
            .unwrap()
            .publish(port("127.0.0.1:8080:80", "10.1.0.2"))
            .unwrap()
            .publish(port("53:53/udp", "10.1.0.2"))
            .unwrap()
            .publish(port("[fd00::1]:53:53/udp", "fd00::2"))
            .unwrap();
        create(
            &TableName::new("t").unwrap(),
            Flags(Flags::OWNER),
            &ruleset.elements(),
        )
    }

    #[test]
    fn every_message_reads_back_as_it_was_written() {
        for Change { step, bytes } in whole() {
            let length = u32::from_ne_bytes(*bytes.first_chunk().unwrap());
            assert_eq!(length as usize, bytes.len(), "{step}");
            let read: Message = NetlinkMessage::deserialize(&bytes).unwrap();
            assert_eq!(super::bytes(read), bytes, "{step}");
        }
    }

    #[test]
    fn the_table_is_made_of_one_message_for_each_part() {
        let steps: Vec<_> = whole().iter().map(|one| one.step).collect();
        let count = |wanted: fn(&Step) -> bool| steps.iter().filter(|step| wanted(step)).count();
        assert_eq!(steps.first(), Some(&Step::AddTable));
        assert_eq!(count(|step| matches!(step, Step::AddSet(_))), 11);
        assert_eq!(count(|step| matches!(step, Step::AddChain(_))), 8);
        assert_eq!(count(|step| matches!(step, Step::AddRule(_))), 28);
        assert_eq!(count(|step| matches!(step, Step::AddElements(_))), 10);
        assert_eq!(steps.len(), 58);
    }

    #[test]
    fn rules_have_tags_of_their_own() {
        let table = TableName::new("t").unwrap();
        let mut tags = std::collections::BTreeSet::new();
        for chain in &CHAINS {
            for rule in chain.rules {
                assert!(tags.insert(tag_of(&table, chain, rule)), "{rule:?}");
            }
        }
    }

    #[test]
    fn a_batch_names_the_generation_it_was_decided_on() {
        let header = [
            28, 0, 0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr
            0, 0, 0, 10, // nfgenmsg: subsystem 10 in network order
            8, 0, 1, 0, 1, 2, 3, 4, // NFNL_BATCH_GENID
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(begin(0x0102_0304), header);
        }
    }

    #[test]
    fn many_elements_of_a_set_share_messages_that_are_not_too_long() {
        let table = TableName::new("t").unwrap();
        let owner = crate::name::Owner::new(&"x".repeat(127)).unwrap();
        let one = port("[fd00::1]:53:53/udp", "fd00::2").owned_by(owner);
        let changes = add_elements(&table, &vec![Element::of_port(&one); 1000]);
        assert_eq!(changes.len(), 6);
        for change in changes {
            let list = &change.bytes[20 + 8 + 12..];
            let length = usize::from(u16::from_ne_bytes([list[0], list[1]]));
            assert_eq!(length, list.len(), "the length of a list has 16 bits");
        }
    }

    #[test]
    fn an_element_lies_in_its_message_as_the_kernel_wants_it() {
        let table = TableName::new("t").unwrap();
        let owner = crate::name::Owner::new("ab").unwrap();
        let one = Element::of_port(&port("8080:80", "10.1.0.2").owned_by(owner));
        let bytes = add_elements(&table, &[one]).remove(0).bytes;
        let expected = [
            &[96, 0, 0, 0, 12, 10, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0][..], // NEWSETELEM, CREATE | EXCL
            &[1, 0, 0, 0, 6, 0, 1, 0, b't', 0, 0, 0],                 // inet, table
            &[15, 0, 2, 0],                                           // set, and its name
            b"ports4_any\0\0",
            &[52, 0, 3, 128, 48, 0, 1, 128], // list of one
            &[16, 0, 1, 128, 12, 0, 1, 0, 6, 0, 0, 0, 0x1f, 0x90, 0, 0],
            &[16, 0, 2, 128, 12, 0, 1, 0, 10, 1, 0, 2, 0, 80, 0, 0],
            &[9, 0, 6, 0, 0, 3, b'a', b'b', 0, 0, 0, 0], // a comment
        ]
        .concat();
        if cfg!(target_endian = "little") {
            assert_eq!(bytes, expected);
        }
    }
}
