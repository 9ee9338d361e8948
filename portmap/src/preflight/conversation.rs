//! What is asked and told of tables that are not ours, in bytes: their families, chains and rules are any.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::HookFamily;
use super::rule::attribute;
use crate::answer::{Answers, value};
use crate::error::{Errno, ErrorKind, Failure, Note};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CREATE: u16 = 0x400;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_GETGEN: u16 = 16;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const NFTA_CHAIN_OR_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;

/// More than the kernel puts into one datagram of a dump.
const RECEIVE_BUFFER: usize = 64 << 10;

pub(super) struct Conversation {
    socket: Socket,
    sequence: u32,
}

/// A chain of somebody else's.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) family: HookFamily,
    pub(super) table: String,
    pub(super) chain: String,
}

impl Place {
    fn attributes(&self) -> Vec<u8> {
        [
            text(NFTA_CHAIN_OR_RULE_TABLE, &self.table),
            text(NFTA_RULE_CHAIN, &self.chain),
        ]
        .concat()
    }
}

impl Conversation {
    pub(super) fn open() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::call("netlink socket for netfilter", &error);
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        socket.set_cap_ack(true).map_err(failed)?;
        socket.set_ext_ack(true).map_err(failed)?;
        Ok(Conversation {
            socket,
            sequence: 0,
        })
    }

    /// All chains of a family.
    pub(super) fn chains(&mut self, family: HookFamily) -> Result<Answers, Failure> {
        self.dump(family, NFT_MSG_GETCHAIN, &[], "list chains")
    }

    /// The rules of one chain, in order.
    pub(super) fn rules(
        &mut self,
        family: HookFamily,
        table: &str,
        chain: &str,
    ) -> Result<Answers, Failure> {
        let attributes = [
            text(NFTA_CHAIN_OR_RULE_TABLE, table),
            text(NFTA_RULE_CHAIN, chain),
        ];
        let attributes = attributes.concat();
        self.dump(family, NFT_MSG_GETRULE, &attributes, "list rules")
    }

    pub(super) fn generation(&mut self) -> Result<u32, Failure> {
        const NFTA_GEN_ID: u16 = 1;
        const STEP: &str = "read the ruleset's generation";
        let message = self.nftables(HookFamily::Inet, NFT_MSG_GETGEN, 0, &[]);
        let answers = self.ask(&message, STEP)?;
        let id = answers
            .iter()
            .find_map(|answer| value(answer.attributes(), NFTA_GEN_ID)?.first_chunk());
        id.map(|id| u32::from_be_bytes(*id)).ok_or(Failure::Answer {
            step: STEP.to_owned(),
            what: "no generation".to_owned(),
        })
    }

    /// Puts rules before all others of a chain, if nothing changed since `generation`. The rules are their attributes
    /// without the chain's.
    pub(super) fn insert(
        &mut self,
        generation: u32,
        place: &Place,
        rules: &[Vec<u8>],
    ) -> Result<Answers, Failure> {
        let flags = NLM_F_CREATE | NLM_F_ACK;
        let rules = rules.iter().map(|rule| {
            (
                NFT_MSG_NEWRULE,
                flags,
                [place.attributes(), rule.clone()].concat(),
            )
        });
        self.transact(generation, place.family, rules.collect(), "insert a rule")
    }

    pub(super) fn delete(
        &mut self,
        generation: u32,
        place: &Place,
        handles: &[u64],
    ) -> Result<(), Failure> {
        let rules = handles.iter().map(|handle| {
            let handle = attribute(NFTA_RULE_HANDLE, &handle.to_be_bytes());
            let attributes = [place.attributes(), handle].concat();
            (NFT_MSG_DELRULE, NLM_F_ACK, attributes)
        });
        self.transact(generation, place.family, rules.collect(), "delete a rule")
            .map(|_acknowledgements| ())
    }

    fn transact(
        &mut self,
        generation: u32,
        family: HookFamily,
        changes: Vec<(u16, u16, Vec<u8>)>,
        step: &str,
    ) -> Result<Answers, Failure> {
        const NFNL_BATCH_GENID: u16 = 1;
        let genid = attribute(NFNL_BATCH_GENID, &generation.to_be_bytes());
        let mut batch = self.batch(BATCH_BEGIN, &genid);
        for (kind, flags, attributes) in changes {
            batch.extend(self.nftables(family, kind, flags, &attributes));
        }
        batch.extend(self.batch(BATCH_END, &[]));
        self.ask(&batch, step)
    }

    /// Again where others changed the list meanwhile.
    fn dump(
        &mut self,
        family: HookFamily,
        kind: u16,
        attributes: &[u8],
        step: &str,
    ) -> Result<Answers, Failure> {
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            let message = self.nftables(family, kind, NLM_F_DUMP, attributes);
            let answers = self.ask(&message, step)?;
            if !answers
                .iter()
                .any(|answer| answer.has_flag(NLM_F_DUMP_INTR))
            {
                return Ok(answers);
            }
        }
        Err(
            Failure::call(step, &io::Error::from_raw_os_error(libc::EINTR))
                .of_kind(ErrorKind::Busy),
        )
    }

    /// Sends, and receives all there is: the kernel answers within send(2).
    fn ask(&mut self, datagram: &[u8], step: &str) -> Result<Answers, Failure> {
        let failed = |error: io::Error| Failure::call(step, &error);
        self.socket.send(datagram, 0).map_err(failed)?;
        let mut answers = Answers::default();
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            match self.socket.recv(&mut &mut buffer[..], libc::MSG_DONTWAIT) {
                Ok(length) => answers
                    .read(&buffer[..length])
                    .ok_or_else(|| Failure::Answer {
                        step: step.to_owned(),
                        what: "a torn message".to_owned(),
                    })?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let refused = answers
            .iter()
            .find_map(|answer| answer.verdict()?.failure(step));
        refused.map_or(Ok(answers), Err)
    }

    fn nftables(
        &mut self,
        family: HookFamily,
        kind: u16,
        flags: u16,
        attributes: &[u8],
    ) -> Vec<u8> {
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        self.message(kind, flags, [family.number(), 0, 0, 0], attributes)
    }

    fn batch(&mut self, kind: u16, attributes: &[u8]) -> Vec<u8> {
        let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
        self.message(kind, 0, [0, 0, high, low], attributes)
    }

    fn message(&mut self, kind: u16, flags: u16, header: [u8; 4], attributes: &[u8]) -> Vec<u8> {
        const HEADERS: usize = 20;
        self.sequence = self.sequence.wrapping_add(1);
        let length = (HEADERS + attributes.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(header);
        bytes.extend(attributes);
        bytes
    }
}

pub(super) fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// A table that somebody owns cannot be changed by others.
pub(super) fn owned(failure: Failure) -> Failure {
    match failure.errno() {
        Some(libc::EPERM) => Failure::Os {
            step: "insert a rule".to_owned(),
            errno: Errno(libc::EPERM),
            note: Note::Ours(
                "CAP_NET_ADMIN is missing, or the table has an owner, such as firewalld: tell that to trust the bridge",
            ),
            kind: ErrorKind::PermissionDenied,
        },
        _ => failure,
    }
}
