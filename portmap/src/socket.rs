//! The netlink socket: one request or one transaction at a time, answered before the call returns.

use std::io;

use netlink_packet_core::{
    DefaultNla, ErrorMessage, NLM_F_ACK_TLVS, NLM_F_CAPPED, NetlinkMessage, NetlinkPayload, Nla,
    NlasIterator,
};
use netlink_packet_netfilter::nftables::{
    DataAttribute, GenAttribute, ListAttribute, NfTablesMessage, SetElementAttribute,
    SetElementList, SetElementMessage,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as Netlink, SocketAddr};
use rustix::net::sockopt;

use crate::element::Element;
use crate::error::{Errno, ErrorKind, Failure, Note};
use crate::layout::Set;
use crate::name::TableName;
use crate::wire::{self, Change, Message, Step};

/// Bound to the network namespace it was opened in, whoever uses it later.
pub(crate) struct Socket {
    netlink: Netlink,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Key and data of an element as the kernel has them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: Vec<u8>,
    /// The last key, of an interval.
    pub(crate) key_end: Option<Vec<u8>>,
    pub(crate) data: Option<Vec<u8>>,
}

impl Found {
    /// Whether it is this very element: the same key leading to the same place.
    pub(crate) fn is(&self, element: &Element) -> bool {
        self.key == element.key() && self.data == element.data()
    }
}

impl Socket {
    pub(crate) fn open() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::call("netlink socket for netfilter", &error);
        let mut netlink = Netlink::new(NETLINK_NETFILTER).map_err(failed)?;
        netlink.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        netlink.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        netlink.set_cap_ack(true).map_err(failed)?;
        netlink.set_ext_ack(true).map_err(failed)?;
        Ok(Socket {
            netlink,
            sequence: 0,
            buffer: vec![0; RECEIVE_BUFFER],
        })
    }

    /// The number the kernel counts up with every transaction in this namespace, of whatever table.
    pub(crate) fn generation(&mut self) -> Result<u32, Failure> {
        const STEP: &str = "read the ruleset's generation";
        let answers = self.request(wire::read_generation(), STEP)?;
        let generation = answers.iter().find_map(|answer| match answer {
            NfTablesMessage::NewGen(message) => {
                message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        GenAttribute::Id(id) => Some(*id),
                        _ => None,
                    })
            }
            _ => None,
        });
        generation.ok_or_else(|| unexpected(STEP, "no generation"))
    }

    pub(crate) fn has_table(&mut self, table: &TableName) -> Result<bool, Failure> {
        match self.request(wire::read_table(table), "read the table") {
            Ok(_) => Ok(true),
            Err(failure) if failure.errno() == Some(libc::ENOENT) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The element of this key, wherever it leads to.
    pub(crate) fn element(
        &mut self,
        table: &TableName,
        wanted: &Element,
    ) -> Result<Option<Found>, Failure> {
        match self.request(wire::read_element(table, wanted), "read an element") {
            Ok(answers) => Ok(found(&answers).next()),
            Err(failure) if failure.errno() == Some(libc::ENOENT) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All elements of a set. A change meanwhile may tear the list: act on it with the generation from before it only.
    pub(crate) fn elements(&mut self, table: &TableName, set: Set) -> Result<Vec<Found>, Failure> {
        let answers = self.request(wire::dump_elements(table, set), "read the elements")?;
        Ok(found(&answers).collect())
    }

    /// Applies all of the changes or none, and none if anything changed since this generation: that is `ERESTART`.
    pub(crate) fn commit(&mut self, generation: u32, changes: Vec<Change>) -> Result<(), Failure> {
        let steps: Vec<Step> = changes.iter().map(|change| change.step).collect();
        let mut messages = vec![wire::begin(generation)];
        messages.extend(changes.into_iter().map(|change| change.message));
        if let Some(last) = messages.pop() {
            messages.push(wire::acknowledged(last));
        }
        messages.push(wire::end());
        let first = self.send(&mut messages, "send the transaction")?;
        let last = first + messages.len() as u32 - 2;
        let mut done = false;
        for answer in self.receive("apply the transaction")? {
            let NetlinkPayload::Error(error) = answer.payload else {
                continue;
            };
            let sequence = refused_sequence(&error);
            let step = sequence
                .and_then(|sequence| sequence.checked_sub(first + 1))
                .and_then(|index| steps.get(index as usize));
            if error.code.is_some() {
                return Err(refusal(answer.header.flags, &error, step.copied()));
            }
            done |= sequence == Some(last);
        }
        match done {
            true => Ok(()),
            false => Err(unexpected("apply the transaction", "no acknowledgement")),
        }
    }

    fn request(&mut self, message: Message, step: &str) -> Result<Vec<NfTablesMessage>, Failure> {
        let sequence = self.send(&mut [message], step)?;
        let mut answers = Vec::new();
        for answer in self.receive(step)? {
            if answer.header.sequence_number != sequence {
                continue;
            }
            match answer.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(Failure::Os {
                        step: step.to_owned(),
                        errno: errno(&error),
                        note: words(answer.header.flags, &error),
                        kind: errno(&error).kind(),
                    });
                }
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::NfTables(message),
                    ..
                }) => answers.push(message),
                _ => {}
            }
        }
        Ok(answers)
    }

    /// Sends messages as one datagram, and returns the first's sequence number.
    fn send(&mut self, messages: &mut [Message], step: &str) -> Result<u32, Failure> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.header.sequence_number = self.sequence;
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len(), 0);
            message.serialize(&mut bytes[start..]);
        }
        let failed = |error: io::Error| Failure::call(step, &error);
        self.make_room(bytes.len()).map_err(failed)?;
        self.netlink.send(&bytes, 0).map_err(failed)?;
        Ok(first)
    }

    /// Raises the send buffer where a datagram would not fit. The kernel doubles what it is told, for its bookkeeping.
    fn make_room(&self, datagram: usize) -> io::Result<()> {
        const OVERHEAD: usize = 4096;
        let wanted = datagram + OVERHEAD;
        if sockopt::socket_send_buffer_size(&self.netlink)? / 2 >= wanted {
            return Ok(());
        }
        match sockopt::set_socket_send_buffer_size_force(&self.netlink, wanted) {
            Ok(()) => Ok(()),
            Err(_needs_the_initial_namespace) => {
                Ok(sockopt::set_socket_send_buffer_size(&self.netlink, wanted)?)
            }
        }
    }

    /// All that is there to receive. The kernel answers within send() and continues a dump within recv(), so that nothing is
    /// ever waited for, and nothing of one request is left for the next.
    fn receive(&mut self, step: &str) -> Result<Vec<Message>, Failure> {
        let mut messages = Vec::new();
        loop {
            match self
                .netlink
                .recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT)
            {
                Ok(length) => parse(&self.buffer[..length], step, &mut messages)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(messages),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::call(step, &error)),
            }
        }
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").finish_non_exhaustive()
    }
}

/// More than the kernel puts into one datagram of a dump.
const RECEIVE_BUFFER: usize = 64 << 10;

fn parse(mut bytes: &[u8], step: &str, messages: &mut Vec<Message>) -> Result<(), Failure> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::deserialize(bytes)
            .map_err(|error| unexpected(step, &error.to_string()))?;
        let length = (message.header.length as usize).next_multiple_of(4);
        bytes = bytes.get(length.max(4)..).unwrap_or_default();
        messages.push(message);
    }
    Ok(())
}

fn found(answers: &[NfTablesMessage]) -> impl Iterator<Item = Found> {
    answers
        .iter()
        .filter_map(|answer| match answer {
            NfTablesMessage::NewSetElement(SetElementMessage { attributes }) => Some(attributes),
            _ => None,
        })
        .flatten()
        .filter_map(|attribute| match attribute {
            SetElementList::Elements(list) => Some(list),
            _ => None,
        })
        .flatten()
        .filter_map(|one| match one {
            ListAttribute::Element(parts) => found_element(parts),
            _ => None,
        })
}

fn found_element(parts: &[SetElementAttribute]) -> Option<Found> {
    let value = |data: &DataAttribute| match data {
        DataAttribute::Value(value) => Some(value.clone()),
        _ => None,
    };
    let key = parts.iter().find_map(|part| match part {
        SetElementAttribute::Key(key) => value(key),
        _ => None,
    })?;
    let data = parts.iter().find_map(|part| match part {
        SetElementAttribute::Data(data) => value(data),
        _ => None,
    });
    let key_end = parts.iter().find_map(|part| match part {
        SetElementAttribute::KeyEnd(end) => end.first().map(value_of),
        _ => None,
    });
    Some(Found { key, key_end, data })
}

fn value_of(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

fn unexpected(step: &str, what: &str) -> Failure {
    Failure::Answer {
        step: step.to_owned(),
        what: what.to_owned(),
    }
}

/// A change the kernel refused. What it cannot find while the table is made is a part of itself: a module.
fn refusal(flags: u16, error: &ErrorMessage, step: Option<Step>) -> Failure {
    let errno = errno(error);
    let kind = match (step, errno.0) {
        (Some(step), libc::ENOENT) if step.is_layout() => ErrorKind::Unsupported,
        _ => errno.kind(),
    };
    Failure::Os {
        step: step.map_or("apply the transaction".to_owned(), |step| step.to_string()),
        errno,
        note: words(flags, error),
        kind,
    }
}

fn errno(error: &ErrorMessage) -> Errno {
    Errno(error.raw_code().saturating_neg())
}

/// The sequence number of the message that is answered, from its header that follows the code.
fn refused_sequence(error: &ErrorMessage) -> Option<u32> {
    let bytes = error.header.get(8..12)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes))
}

/// The text of the extended ack, behind the header of the message that is answered, and all of it if it is not capped.
fn words(flags: u16, error: &ErrorMessage) -> Note {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    const HEADER: usize = 16;
    if errno(error).0 == libc::EPERM {
        return Note::Ours(
            "CAP_NET_ADMIN in the user namespace that owns the network namespace is missing",
        );
    }
    if flags & NLM_F_ACK_TLVS == 0 {
        return Note::None;
    }
    let length = match error.header.first_chunk() {
        Some(bytes) if flags & NLM_F_CAPPED == 0 => u32::from_ne_bytes(*bytes) as usize,
        _ => HEADER,
    };
    let Some(attributes) = error.header.get(length.next_multiple_of(4)..) else {
        return Note::None;
    };
    NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map_or(Note::None, |text| {
            let text = String::from_utf8_lossy(text.value());
            Note::Kernel(text.trim_end_matches('\0').to_owned())
        })
}
