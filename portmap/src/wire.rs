//! Our values as nf_tables messages: the only file that knows the packet crate's types for tables, sets, chains and rules.

use std::fmt;

use netlink_packet_core::{
    DefaultNla, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL,
    NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions,
    GenMessage, Hook, Immediate, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey,
    NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, SetAttribute,
    SetDescription, SetElementAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage,
    TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use crate::element::Element;
use crate::layout::{self, CHAINS, Chain, Match, Rule, Set, Then, Type};
use crate::name::{TableName, padded};
use crate::ruleset::Ruleset;

pub(crate) type Message = NetlinkMessage<NetfilterMessage>;

/// What a message does, for the error of one that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    AddTable,
    DeleteTable,
    AddSet(Set),
    AddChain(&'static str),
    AddRule(&'static str),
    AddElement(Set),
    DeleteElement(Set),
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
            Step::DeleteTable => f.write_str("delete table"),
            Step::AddSet(set) => write!(f, "add set {}", set.name()),
            Step::AddChain(chain) => write!(f, "add chain {chain}"),
            Step::AddRule(chain) => write!(f, "add rule to chain {chain}"),
            Step::AddElement(set) => write!(f, "add element to {}", set.name()),
            Step::DeleteElement(set) => write!(f, "delete element of {}", set.name()),
        }
    }
}

/// One message of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) step: Step,
    pub(crate) message: Message,
}

/// The messages that make the whole table.
pub(crate) fn create(ruleset: &Ruleset) -> Vec<Change> {
    let table = ruleset.table();
    let mut changes = vec![add_table(table)];
    changes.extend(Set::ALL.iter().map(|set| add_set(table, *set)));
    for chain in &CHAINS {
        changes.push(add_chain(table, chain));
        changes.extend(chain.rules.iter().map(|rule| add_rule(table, chain, rule)));
    }
    changes.extend(add_elements(table, ruleset.elements()));
    changes
}

/// The messages that add elements to the table; `NLM_F_EXCL` makes one that is there an error.
pub(crate) fn add_elements(table: &TableName, elements: &[Element]) -> Vec<Change> {
    let add = |element: &Element| Change {
        step: Step::AddElement(element.set()),
        message: nftables(
            NfTablesMessage::NewSetElement(element_list(table, element)),
            NLM_F_CREATE | NLM_F_EXCL,
        ),
    };
    elements.iter().map(add).collect()
}

pub(crate) fn delete_elements(table: &TableName, elements: &[Element]) -> Vec<Change> {
    let delete = |element: &Element| Change {
        step: Step::DeleteElement(element.set()),
        message: nftables(
            NfTablesMessage::DeleteSetElement(element_list(table, element)),
            0,
        ),
    };
    elements.iter().map(delete).collect()
}

/// Deletes the table with all that is in it.
pub(crate) fn delete_table(table: &TableName) -> Vec<Change> {
    vec![Change {
        step: Step::DeleteTable,
        message: nftables(NfTablesMessage::DeleteTable(table_message(table)), 0),
    }]
}

pub(crate) fn read_generation() -> Message {
    let attributes = Vec::new();
    nftables(NfTablesMessage::GetGen(GenMessage { attributes }), 0)
}

pub(crate) fn read_table(table: &TableName) -> Message {
    nftables(NfTablesMessage::GetTable(table_message(table)), 0)
}

pub(crate) fn read_element(table: &TableName, element: &Element) -> Message {
    nftables(
        NfTablesMessage::GetSetElement(element_list(table, element)),
        0,
    )
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

/// Opens a transaction that the kernel takes only if its generation is still this one.
pub(crate) fn begin(generation: u32) -> Message {
    const NFNL_MSG_BATCH_BEGIN: u8 = 16;
    const NFNL_BATCH_GENID: u16 = 1;
    control(ControlMessage::Other {
        message_type: NFNL_MSG_BATCH_BEGIN,
        attributes: vec![be32(NFNL_BATCH_GENID, generation)],
    })
}

pub(crate) fn end() -> Message {
    control(ControlMessage::BatchEnd)
}

/// Asks for an answer to this message also where it succeeds.
pub(crate) fn acknowledged(mut message: Message) -> Message {
    message.header.flags |= NLM_F_ACK;
    message
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

fn add_table(table: &TableName) -> Change {
    Change {
        step: Step::AddTable,
        message: nftables(
            NfTablesMessage::NewTable(table_message(table)),
            NLM_F_CREATE | NLM_F_EXCL,
        ),
    }
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
    Change {
        step: Step::AddSet(set),
        message: nftables(
            NfTablesMessage::NewSet(SetMessage { attributes }),
            NLM_F_CREATE | NLM_F_EXCL,
        ),
    }
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

fn element_list(table: &TableName, element: &Element) -> SetElementMessage {
    const NFTA_DATA_VALUE: u16 = 1;
    let mut parts = vec![SetElementAttribute::Key(DataAttribute::Value(
        element.key(),
    ))];
    if let Some(end) = element.key_end() {
        let end = DefaultNla::new(NFTA_DATA_VALUE, end);
        parts.push(SetElementAttribute::KeyEnd(vec![end]));
    }
    if let Some(data) = element.data() {
        parts.push(SetElementAttribute::Data(DataAttribute::Value(data)));
    }
    let attributes = vec![
        SetElementList::Table(table.to_string()),
        SetElementList::Set(element.set().name().to_owned()),
        SetElementList::Elements(vec![ListAttribute::Element(parts)]),
    ];
    SetElementMessage { attributes }
}

fn add_chain(table: &TableName, chain: &Chain) -> Change {
    const NF_ACCEPT: u32 = 1;
    let mut attributes = vec![
        ChainAttribute::Table(table.to_string()),
        ChainAttribute::Name(chain.name.to_owned()),
    ];
    if let Some(base) = chain.base {
        let hook = match base.hook {
            layout::Hook::Prerouting => InetHookNumber::PreRouting,
            layout::Hook::Forward => InetHookNumber::Forward,
            layout::Hook::Output => InetHookNumber::LocalOut,
            layout::Hook::Postrouting => InetHookNumber::PostRouting,
        };
        attributes.extend([
            ChainAttribute::Type(base.kind.name().to_owned()),
            ChainAttribute::Hook(vec![
                Hook::Number(hook.into()),
                Hook::Priority(base.priority as u32),
            ]),
            ChainAttribute::Policy(NF_ACCEPT),
        ]);
    }
    Change {
        step: Step::AddChain(chain.name),
        message: nftables(
            NfTablesMessage::NewChain(ChainMessage { attributes }),
            NLM_F_CREATE | NLM_F_EXCL,
        ),
    }
}

fn add_rule(table: &TableName, chain: &Chain, rule: &Rule) -> Change {
    let mut expressions = Vec::new();
    for one in rule.when {
        expressions.extend(matching(*one));
    }
    expressions.extend(doing(rule.then));
    let attributes = vec![
        RuleAttribute::Table(table.to_string()),
        RuleAttribute::Chain(chain.name.to_owned()),
        RuleAttribute::Expressions(expressions),
    ];
    Change {
        step: Step::AddRule(chain.name),
        message: nftables(
            NfTablesMessage::NewRule(RuleMessage { attributes }),
            NLM_F_CREATE | NLM_F_APPEND,
        ),
    }
}

type Expression = ListAttribute<ExpressionAttribute>;

/// Offsets in an IPv4 header.
const SADDR: u32 = 12;
const DADDR: u32 = 16;

fn matching(what: Match) -> Vec<Expression> {
    match what {
        Match::IifnameIsNot(name) => vec![
            meta(MetaKey::Iifname, Register::Reg1),
            cmp(Operator::NotEqual, padded(name).to_vec()),
        ],
        Match::IifnameIn(set) => vec![
            meta(MetaKey::Iifname, Register::Reg1),
            lookup(set, Hit::Matches),
        ],
        Match::OifnameIn(set) => vec![
            meta(MetaKey::Oifname, Register::Reg1),
            lookup(set, Hit::Matches),
        ],
        Match::OifnameNotIn(set) => vec![
            meta(MetaKey::Oifname, Register::Reg1),
            lookup(set, Hit::Misses),
        ],
        Match::IifnameOifnameIn(set) => vec![
            meta(MetaKey::Iifname, Register::Reg1),
            meta(MetaKey::Oifname, Register::Reg2),
            lookup(set, Hit::Matches),
        ],
        Match::SaddrIsLoopback => loopback(SADDR),
        Match::DaddrIsLoopback => loopback(DADDR),
        Match::SaddrDaddrIn(set) => {
            let mut expressions = is_ipv4();
            expressions.push(network_header(SADDR, 4, Register::Reg32_00));
            expressions.push(network_header(DADDR, 4, Register::Reg32_01));
            expressions.push(lookup(set, Hit::Matches));
            expressions
        }
        Match::DaddrIsOurs => daddr_is_local(),
        Match::CtIsEstablishedOrRelated => ct_has_bits(CT_STATE, ESTABLISHED | RELATED),
        Match::CtIsDnat => ct_has_bits(CT_STATUS, IPS_DST_NAT),
    }
}

fn doing(then: Then) -> Vec<Expression> {
    const NF_DROP: u32 = 0;
    const NF_ACCEPT: u32 = 1;
    match then {
        Then::Accept => vec![verdict(vec![code(Verdict::Other(NF_ACCEPT))])],
        Then::Drop => vec![verdict(vec![code(Verdict::Other(NF_DROP))])],
        Then::Jump(chain) => vec![verdict(vec![
            code(Verdict::Jump),
            VerdictAttribute::Chain(chain.to_owned()),
        ])],
        Then::Masquerade => vec![other("masq", Vec::new())],
        Then::Dnat(map) => dnat(map),
    }
}

/// Loads the map's key into consecutive registers, and over them what the map has for it.
fn dnat(map: Set) -> Vec<Expression> {
    const NFTA_NAT_TYPE: u16 = 1;
    const NFTA_NAT_FAMILY: u16 = 2;
    const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
    const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
    const NFT_NAT_DNAT: u32 = 1;
    let registers = [Register::Reg32_00, Register::Reg32_01, Register::Reg32_02];
    let mut expressions = is_ipv4();
    for (part, register) in map.key().iter().zip(registers) {
        expressions.push(match part {
            Type::Ipv4Addr => network_header(DADDR, 4, register),
            Type::InetProto => meta(MetaKey::L4Proto, register),
            Type::InetService => destination_port(register),
            Type::Ifname => meta(MetaKey::Iifname, register),
        });
    }
    expressions.push(
        Expressions::Lookup(vec![
            Lookup::Set(map.name().to_owned()),
            Lookup::SourceRegister(Register::Reg32_00),
            Lookup::DestinationRegister(Register::Reg32_00),
        ])
        .into(),
    );
    expressions.push(other(
        "nat",
        vec![
            be32(NFTA_NAT_TYPE, NFT_NAT_DNAT),
            be32(NFTA_NAT_FAMILY, NFPROTO_IPV4.into()),
            be32(NFTA_NAT_REG_ADDR_MIN, Register::Reg32_00.into()),
            be32(NFTA_NAT_REG_PROTO_MIN, Register::Reg32_01.into()),
        ],
    ));
    expressions
}

const NFPROTO_IPV4: u8 = 2;

/// In a table of family inet, a rule on IPv4 headers must ask first.
fn is_ipv4() -> Vec<Expression> {
    vec![
        meta(MetaKey::Nfproto, Register::Reg1),
        cmp(Operator::Equal, vec![NFPROTO_IPV4]),
    ]
}

/// Whether the address at this offset starts with 127.
fn loopback(offset: u32) -> Vec<Expression> {
    let mut expressions = is_ipv4();
    expressions.push(network_header(offset, 1, Register::Reg1));
    expressions.push(cmp(Operator::Equal, vec![127]));
    expressions
}

fn daddr_is_local() -> Vec<Expression> {
    const NFTA_FIB_DREG: u16 = 1;
    const NFTA_FIB_RESULT: u16 = 2;
    const NFTA_FIB_FLAGS: u16 = 3;
    const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
    const NFTA_FIB_F_DADDR: u32 = 2;
    let fib = other(
        "fib",
        vec![
            be32(NFTA_FIB_DREG, Register::Reg1.into()),
            be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE),
            be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR),
        ],
    );
    let local = u32::from(libc::RTN_LOCAL).to_ne_bytes().to_vec();
    vec![fib, cmp(Operator::Equal, local)]
}

const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;
const IPS_DST_NAT: u32 = 1 << 5;

/// Whether any of these bits is set in a field of the packet's conntrack entry.
fn ct_has_bits(key: u32, bits: u32) -> Vec<Expression> {
    const NFTA_CT_DREG: u16 = 1;
    const NFTA_CT_KEY: u16 = 2;
    let value = |value: u32| DataAttribute::Value(value.to_ne_bytes().to_vec());
    let load = other(
        "ct",
        vec![
            be32(NFTA_CT_DREG, Register::Reg1.into()),
            be32(NFTA_CT_KEY, key),
        ],
    );
    let mask = Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(4),
        Bitwise::Mask(value(bits)),
        Bitwise::Xor(value(0)),
    ]);
    vec![load, mask.into(), cmp(Operator::NotEqual, vec![0; 4])]
}

fn meta(key: MetaKey, register: Register) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(register)]).into()
}

fn cmp(operator: Operator, value: Vec<u8>) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
    .into()
}

fn network_header(offset: u32, length: u32, register: Register) -> Expression {
    const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
    payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, register)
}

/// TCP, UDP and SCTP have it at the same place.
fn destination_port(register: Register) -> Expression {
    const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
    payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, register)
}

fn payload(base: u32, offset: u32, length: u32, register: Register) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
    .into()
}

/// Whether a rule goes on where the set has the key, or where it has not.
#[derive(Clone, Copy)]
enum Hit {
    Matches,
    Misses,
}

fn lookup(set: Set, hit: Hit) -> Expression {
    const NFT_LOOKUP_F_INV: u32 = 1;
    let mut attributes = vec![
        Lookup::Set(set.name().to_owned()),
        Lookup::SourceRegister(Register::Reg1),
    ];
    if let Hit::Misses = hit {
        attributes.push(Lookup::Flags(NFT_LOOKUP_F_INV));
    }
    Expressions::Lookup(attributes).into()
}

fn verdict(attributes: Vec<VerdictAttribute>) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
    .into()
}

fn code(verdict: Verdict) -> VerdictAttribute {
    VerdictAttribute::Code(verdict)
}

/// An expression the packet crate has no type for.
fn other(name: &str, attributes: Vec<DefaultNla>) -> Expression {
    let expression_type = name.to_owned();
    Expressions::Other {
        expression_type,
        attributes,
    }
    .into()
}

fn be32(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netlink_packet_core::NetlinkMessage;

    use super::*;
    use crate::element::Port;

    fn bytes(mut message: Message) -> Vec<u8> {
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn ruleset() -> Ruleset {
        let mut ruleset = Ruleset::new("t").unwrap();
        let target = Ipv4Addr::new(10, 1, 0, 2).into();
        ruleset
            .network("br0", "10.1.0.0/24".parse().unwrap())
            .unwrap()
            .publish(&"127.0.0.1:8080:80".parse().unwrap(), target)
            .unwrap()
            .publish(&"53:53/udp".parse().unwrap(), target)
            .unwrap();
        ruleset
    }

    #[test]
    fn every_message_reads_back_as_it_was_written() {
        for Change { step, message } in create(&ruleset()) {
            let bytes = bytes(message.clone());
            let length = u32::from_ne_bytes(*bytes.first_chunk().unwrap());
            assert_eq!(length as usize, bytes.len(), "{step}");
            let read: Message = NetlinkMessage::deserialize(&bytes).unwrap();
            assert_eq!(read.header.flags, message.header.flags, "{step}");
            assert_eq!(read.payload, message.payload, "{step}");
        }
    }

    #[test]
    fn the_table_is_made_of_one_message_for_each_part() {
        let ruleset = ruleset();
        let steps: Vec<_> = create(&ruleset).iter().map(|one| one.step).collect();
        let count = |wanted: fn(&Step) -> bool| steps.iter().filter(|step| wanted(step)).count();
        assert_eq!(steps.first(), Some(&Step::AddTable));
        assert_eq!(count(|step| matches!(step, Step::AddSet(_))), 5);
        assert_eq!(count(|step| matches!(step, Step::AddChain(_))), 6);
        assert_eq!(count(|step| matches!(step, Step::AddRule(_))), 14);
        assert_eq!(count(|step| matches!(step, Step::AddElement(_))), 5);
        assert_eq!(steps.len(), 31);
    }

    #[test]
    fn a_batch_names_the_generation_it_was_decided_on() {
        let header = [
            28, 0, 0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr
            0, 0, 0, 10, // nfgenmsg: subsystem 10 in network order
            8, 0, 1, 0, 1, 2, 3, 4, // NFNL_BATCH_GENID
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(bytes(begin(0x0102_0304)), header);
        }
    }

    #[test]
    fn an_element_lies_in_its_message_as_the_kernel_wants_it() {
        let table = TableName::new("t").unwrap();
        let spec = "8080:80".parse().unwrap();
        let port = Port::new(&spec, Ipv4Addr::new(10, 1, 0, 2).into()).unwrap();
        let message = add_elements(&table, &[Element::Port(port)])
            .remove(0)
            .message;
        let expected = [
            &[84, 0, 0, 0, 12, 10, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0][..], // NEWSETELEM, CREATE | EXCL
            &[1, 0, 0, 0, 6, 0, 1, 0, b't', 0, 0, 0],                 // inet, table
            &[15, 0, 2, 0],                                           // set, and its name
            b"ports4_any\0\0",
            &[40, 0, 3, 128, 36, 0, 1, 128], // list of one
            &[16, 0, 1, 128, 12, 0, 1, 0, 6, 0, 0, 0, 0x1f, 0x90, 0, 0],
            &[16, 0, 2, 128, 12, 0, 1, 0, 10, 1, 0, 2, 0, 80, 0, 0],
        ]
        .concat();
        if cfg!(target_endian = "little") {
            assert_eq!(bytes(message)[..], expected);
        }
    }
}
