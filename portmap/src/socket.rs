//! The netlink socket: one request or one transaction at a time, answered before the call returns.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as Netlink, SocketAddr};
use rustix::net::sockopt;

use crate::answer::{Answer, Answers, attributes, value};
use crate::element::Element;
use crate::error::{ErrorKind, Failure};
use crate::layout::Set;
use crate::name::TableName;
use crate::wire::{self, Change, Message, Step};

/// Bound to the network namespace it was opened in, whoever uses it later.
pub(crate) struct Socket {
    netlink: Netlink,
    /// What the kernel knows it by.
    pub(crate) port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A table as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundTable {
    pub(crate) flags: u32,
    /// The socket that owns it.
    pub(crate) owner: Option<u32>,
    /// Whether it says that it is ours.
    pub(crate) is_tagged: bool,
}

impl Socket {
    pub(crate) fn open() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::call("netlink socket for netfilter", &error);
        let mut netlink = Netlink::new(NETLINK_NETFILTER).map_err(failed)?;
        let port = netlink.bind_auto().map_err(failed)?.port_number();
        netlink.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        netlink.set_cap_ack(true).map_err(failed)?;
        netlink.set_ext_ack(true).map_err(failed)?;
        Ok(Socket {
            netlink,
            port,
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

    pub(crate) fn table(&mut self, table: &TableName) -> Result<Option<FoundTable>, Failure> {
        match self.request(wire::read_table(table), "read the table") {
            Ok(answers) => Ok(answers.iter().find_map(found_table)),
            Err(failure) if failure.errno() == Some(libc::ENOENT) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All elements of a set. A change meanwhile may tear the list: act on it with the generation from before it only.
    pub(crate) fn elements(
        &mut self,
        table: &TableName,
        set: Set,
    ) -> Result<Vec<Element>, Failure> {
        let answers = self.request(wire::dump_elements(table, set), "read the elements")?;
        Ok(found_elements(&answers, set))
    }

    /// The element of this key, if the set has it. Of a set that is not there it is none too.
    pub(crate) fn element(
        &mut self,
        table: &TableName,
        key: &Element,
    ) -> Result<Option<Element>, Failure> {
        match self.request_bytes(wire::read_element(table, key), "read an element") {
            Ok(answers) => Ok(found_elements(&answers, key.set).pop()),
            Err(failure) if failure.errno() == Some(libc::ENOENT) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Asks, and reads something of each answer's attributes.
    pub(crate) fn ask<T>(
        &mut self,
        message: Message,
        step: &str,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        let answers = self.request(message, step)?;
        let attributes = answers.iter().map(|answer| answer.attributes());
        Ok(attributes.filter_map(read).collect())
    }

    /// Applies all of the changes or none, and none if anything changed since this generation: that is `ERESTART`.
    pub(crate) fn commit(&mut self, generation: u32, changes: &[Change]) -> Result<(), Failure> {
        let (bytes, first) = self.batch(generation, changes);
        self.send_bytes(&bytes, "send the transaction")?;
        let last = first.wrapping_add(changes.len() as u32);
        let mut done = false;
        for answer in self.receive("apply the transaction")?.iter() {
            let Some(verdict) = answer.verdict() else {
                continue;
            };
            let index = verdict.sequence.wrapping_sub(first.wrapping_add(1));
            let step = changes.get(index as usize).map(|change| change.step);
            match verdict.failure("apply the transaction") {
                Some(failure) => return Err(refusal(failure, step)),
                None => done |= verdict.sequence == last,
            }
        }
        match done {
            true => Ok(()),
            false => Err(unexpected("apply the transaction", "no acknowledgement")),
        }
    }

    /// A transaction as one datagram, and the sequence number of its first message.
    fn batch(&mut self, generation: u32, changes: &[Change]) -> (Vec<u8>, u32) {
        let first = self.sequence.wrapping_add(1);
        let room = changes
            .iter()
            .map(|change| change.bytes.len())
            .sum::<usize>();
        let mut bytes = Vec::with_capacity(room + 64);
        let mut add = |message: &[u8]| {
            self.sequence = self.sequence.wrapping_add(1);
            let start = bytes.len();
            bytes.extend(message);
            wire::number(&mut bytes[start..], self.sequence);
            start
        };
        add(&wire::begin(generation));
        let mut last = 0;
        for change in changes {
            last = add(&change.bytes);
        }
        add(&wire::end());
        wire::acknowledged(&mut bytes[last..]);
        (bytes, first)
    }

    fn request(&mut self, message: Message, step: &str) -> Result<Answers, Failure> {
        self.request_bytes(wire::bytes(message), step)
    }

    fn request_bytes(&mut self, mut bytes: Vec<u8>, step: &str) -> Result<Answers, Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        wire::number(&mut bytes, sequence);
        self.send_bytes(&bytes, step)?;
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

    fn send_bytes(&self, bytes: &[u8], step: &str) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::call(step, &error);
        self.make_room(bytes.len()).map_err(failed)?;
        self.netlink.send(bytes, 0).map_err(failed)?;
        Ok(())
    }

    /// Raises the send buffer where a datagram would not fit. The kernel doubles what it is told, for its bookkeeping.
    fn make_room(&self, datagram: usize) -> io::Result<()> {
        const OVERHEAD: usize = 4096;
        const ALWAYS: usize = 64 << 10; // net.core.wmem_default is more on every machine
        let wanted = datagram + OVERHEAD;
        if wanted <= ALWAYS || sockopt::socket_send_buffer_size(&self.netlink)? / 2 >= wanted {
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

fn found_table(answer: &Answer) -> Option<FoundTable> {
    const NFTA_TABLE_NAME: u16 = 1;
    const NFTA_TABLE_FLAGS: u16 = 2;
    const NFTA_TABLE_USERDATA: u16 = 6;
    const NFTA_TABLE_OWNER: u16 = 7;
    let attributes = answer.attributes();
    value(attributes, NFTA_TABLE_NAME)?;
    let tag = value(attributes, NFTA_TABLE_USERDATA).and_then(comment);
    Some(FoundTable {
        flags: number(attributes, NFTA_TABLE_FLAGS).unwrap_or(0),
        owner: number(attributes, NFTA_TABLE_OWNER),
        is_tagged: tag.as_deref() == Some(wire::COMMENT),
    })
}

/// A number in network order.
pub(crate) fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    let bytes = value(attributes, kind)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

/// The elements in lists of elements.
fn found_elements(answers: &Answers, set: Set) -> Vec<Element> {
    const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    let mut elements = Vec::new();
    for answer in answers.iter() {
        let Some(list) = value(answer.attributes(), NFTA_SET_ELEM_LIST_ELEMENTS) else {
            continue;
        };
        elements.extend(attributes(list).filter_map(|(_, parts)| found_element(parts, set)));
    }
    elements
}

fn found_element(parts: &[u8], set: Set) -> Option<Element> {
    const NFTA_SET_ELEM_KEY: u16 = 1;
    const NFTA_SET_ELEM_DATA: u16 = 2;
    const NFTA_SET_ELEM_FLAGS: u16 = 3;
    const NFTA_SET_ELEM_USERDATA: u16 = 6;
    const NFTA_SET_ELEM_KEY_END: u16 = 10;
    const NFTA_DATA_VALUE: u16 = 1;
    let bytes = |part| value(value(parts, part)?, NFTA_DATA_VALUE).map(<[u8]>::to_vec);
    let is_catchall = number(parts, NFTA_SET_ELEM_FLAGS).is_some_and(|f| f & wire::CATCHALL != 0);
    Some(Element {
        set,
        key: bytes(NFTA_SET_ELEM_KEY).or(is_catchall.then(Vec::new))?,
        key_end: bytes(NFTA_SET_ELEM_KEY_END),
        data: bytes(NFTA_SET_ELEM_DATA),
        comment: value(parts, NFTA_SET_ELEM_USERDATA).and_then(comment),
    })
}

/// nft's comment in user data.
fn comment(data: &[u8]) -> Option<String> {
    const COMMENT: u8 = 0;
    let text = user_data(data, COMMENT)?;
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    String::from_utf8(text.to_vec()).ok()
}

/// The value of the first attribute of this kind in nft's user data: a byte of kind, one of length, the value.
pub(crate) fn user_data(mut data: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let ([kind, length], rest) = data.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == wanted {
            return Some(value);
        }
        data = rest;
    }
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

    /// Numbers that look like chance, and are the same in each run.
    fn chance() -> impl FnMut() -> u64 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    #[test]
    fn answers_of_any_content_are_read_without_panic() {
        let table = TableName::new("t").unwrap();
        let mut next = chance();
        for set in Set::ALL {
            let length =
                |types: &[crate::layout::Type]| types.iter().map(|one| one.len()).sum::<u32>();
            let element = Element {
                set,
                key: vec![1; length(set.key()) as usize],
                key_end: set
                    .has_intervals()
                    .then(|| vec![2; length(set.key()) as usize]),
                data: set.data().map(|types| vec![3; length(types) as usize]),
                comment: Some("web".to_owned()),
            };
            let whole = wire::add_elements(&table, &[element]).remove(0).bytes;
            for _ in 0..1000 {
                let mut bytes = whole.clone();
                for _ in 0..1 + next() % 4 {
                    let at = 16 + next() as usize % (bytes.len() - 16);
                    bytes[at] = next() as u8;
                }
                let mut answers = Answers::default();
                answers.read(&bytes).unwrap();
                let found = found_elements(&answers, set);
                let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
                let (ruleset, strays) = crate::ruleset::Ruleset::read(table.clone(), found);
                let read = ruleset.elements().len() + strays.len();
                assert_eq!(read, shown.len(), "{shown:?}: nothing is passed over");
                answers.iter().for_each(|answer| {
                    let _either = found_table(answer);
                });
            }
        }
    }

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
        let element = Step::AddElements(Set::Ports4);
        assert_eq!(kind(libc::ENOENT, element), ErrorKind::NotFound);
        assert_eq!(kind(libc::EINVAL, element), ErrorKind::InvalidInput);
    }
}
