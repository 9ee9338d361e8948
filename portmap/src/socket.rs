//! The netlink socket: one request or one transaction at a time, answered before the call returns.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as Netlink, SocketAddr};
use rustix::net::sockopt;

use crate::answer::{Answers, attributes, value};
use crate::element::Element;
use crate::error::{ErrorKind, Failure};
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

    /// Where it leads, if it is a published port.
    pub(crate) fn target(&self) -> Option<SocketAddrV4> {
        let (ip, rest) = self.data.as_ref()?.split_first_chunk::<4>()?;
        let port = u16::from_be_bytes(*rest.first_chunk()?);
        Some(SocketAddrV4::new(Ipv4Addr::from(*ip), port))
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
        const NFTA_GEN_ID: u16 = 1;
        let answers = self.request(wire::read_generation(), STEP)?;
        let generation = answers
            .iter()
            .find_map(|answer| value(answer.attributes(), NFTA_GEN_ID)?.first_chunk())
            .map(|bytes| u32::from_be_bytes(*bytes));
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
            Ok(answers) => Ok(found(&answers).into_iter().next()),
            Err(failure) if failure.errno() == Some(libc::ENOENT) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All elements of a set. A change meanwhile may tear the list: act on it with the generation from before it only.
    pub(crate) fn elements(&mut self, table: &TableName, set: Set) -> Result<Vec<Found>, Failure> {
        let answers = self.request(wire::dump_elements(table, set), "read the elements")?;
        Ok(found(&answers))
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
        for answer in self.receive("apply the transaction")?.iter() {
            let Some(verdict) = answer.verdict() else {
                continue;
            };
            let index = verdict.sequence.checked_sub(first + 1);
            let step = index.and_then(|index| steps.get(index as usize));
            match verdict.failure("apply the transaction") {
                Some(failure) => return Err(refusal(failure, step.copied())),
                None => done |= verdict.sequence == last,
            }
        }
        match done {
            true => Ok(()),
            false => Err(unexpected("apply the transaction", "no acknowledgement")),
        }
    }

    fn request(&mut self, message: Message, step: &str) -> Result<Answers, Failure> {
        let sequence = self.send(&mut [message], step)?;
        let mut answers = self.receive(step)?;
        answers.retain(sequence);
        let refused = answers
            .iter()
            .find_map(|answer| answer.verdict()?.failure(step));
        match refused {
            Some(failure) => Err(failure),
            None => Ok(answers),
        }
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
    fn receive(&mut self, step: &str) -> Result<Answers, Failure> {
        let mut answers = Answers::default();
        loop {
            match self
                .netlink
                .recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT)
            {
                Ok(length) => answers
                    .read(&self.buffer[..length])
                    .ok_or_else(|| unexpected(step, "a torn message"))?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(answers),
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

/// The elements in lists of elements.
fn found(answers: &Answers) -> Vec<Found> {
    const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    let mut elements = Vec::new();
    for answer in answers.iter() {
        let Some(list) = value(answer.attributes(), NFTA_SET_ELEM_LIST_ELEMENTS) else {
            continue;
        };
        elements.extend(attributes(list).filter_map(|(_, parts)| found_element(parts)));
    }
    elements
}

fn found_element(parts: &[u8]) -> Option<Found> {
    const NFTA_SET_ELEM_KEY: u16 = 1;
    const NFTA_SET_ELEM_DATA: u16 = 2;
    const NFTA_SET_ELEM_KEY_END: u16 = 10;
    const NFTA_DATA_VALUE: u16 = 1;
    let bytes = |part| value(value(parts, part)?, NFTA_DATA_VALUE).map(<[u8]>::to_vec);
    Some(Found {
        key: bytes(NFTA_SET_ELEM_KEY)?,
        key_end: bytes(NFTA_SET_ELEM_KEY_END),
        data: bytes(NFTA_SET_ELEM_DATA),
    })
}

/// A change the kernel refused. What it cannot find while the table is made is a part of itself: a module. And what it does not
/// understand then is not the caller's, but newer than it.
fn refusal(failure: Failure, step: Option<Step>) -> Failure {
    let missing = matches!(failure.errno(), Some(libc::ENOENT | libc::EINVAL));
    match step {
        Some(step) if missing && step.is_layout() => {
            failure.at(step).of_kind(ErrorKind::Unsupported)
        }
        Some(step) => failure.at(step),
        None => failure,
    }
}

fn unexpected(step: &str, what: &str) -> Failure {
    Failure::Answer {
        step: step.to_owned(),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_know_of_the_table_is_unsupported() {
        let kind = |errno, step| {
            let failure = Failure::call("apply", &io::Error::from_raw_os_error(errno));
            refusal(failure, Some(step)).during("publish").kind()
        };
        for errno in [libc::ENOENT, libc::EINVAL] {
            assert_eq!(
                kind(errno, Step::AddChain("published")),
                ErrorKind::Unsupported
            );
        }
        let element = Step::AddElement(Set::Ports4);
        assert_eq!(kind(libc::ENOENT, element), ErrorKind::NotFound);
        assert_eq!(kind(libc::EINVAL, element), ErrorKind::InvalidInput);
    }
}
