//! What the kernel answers, read in place.
//!
//! Not by the packet crate's types: for each element of a dump they print the whole datagram, in case it were an error's text.

use netlink_packet_core::{NLA_TYPE_MASK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_ERROR};

use crate::error::{Errno, Failure, Note};

/// Length of nlmsghdr, and of nfgenmsg behind it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// Messages that were received.
#[derive(Debug, Default)]
pub(crate) struct Answers(Vec<Answer>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Answer {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: Vec<u8>,
}

/// An `NLMSG_ERROR`: what became of the message with this sequence number.
#[derive(Debug)]
pub(crate) struct Verdict<'a> {
    pub(crate) sequence: u32,
    code: i32,
    flags: u16,
    /// The header of that message, the rest of it unless capped, and attributes.
    rest: &'a [u8],
}

impl Answers {
    /// Reads the messages of a datagram. None if it is torn.
    pub(crate) fn read(&mut self, mut datagram: &[u8]) -> Option<()> {
        while !datagram.is_empty() {
            let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
            let (message, rest) = datagram.split_at_checked(length)?;
            let (header, payload) = message.split_at_checked(HEADER)?;
            self.0.push(Answer {
                kind: short(header, 4)?,
                flags: short(header, 6)?,
                sequence: long(header, 8)?,
                payload: payload.to_vec(),
            });
            let padding = length.next_multiple_of(4) - length;
            datagram = rest.get(padding..).unwrap_or_default();
        }
        Some(())
    }

    /// Drops answers to other messages.
    pub(crate) fn retain(&mut self, sequence: u32) {
        self.0.retain(|answer| answer.sequence == sequence);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Answer> {
        self.0.iter()
    }
}

impl Answer {
    pub(crate) fn has_flag(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The attributes, if it is a message of netfilter.
    pub(crate) fn attributes(&self) -> &[u8] {
        const NLMSG_MIN_TYPE: u16 = 16;
        match self.kind >= NLMSG_MIN_TYPE {
            true => self.payload.get(FAMILY_HEADER..).unwrap_or_default(),
            false => &[],
        }
    }

    pub(crate) fn verdict(&self) -> Option<Verdict<'_>> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        let (code, rest) = self.payload.split_first_chunk()?;
        Some(Verdict {
            sequence: long(rest, 8)?,
            code: i32::from_ne_bytes(*code),
            flags: self.flags,
            rest,
        })
    }
}

impl Verdict<'_> {
    /// None if it is an acknowledgement.
    pub(crate) fn failure(&self, step: &str) -> Option<Failure> {
        let errno = Errno(self.code.saturating_neg());
        (self.code != 0).then(|| Failure::Os {
            step: step.to_owned(),
            errno,
            note: self.note(errno),
            kind: errno.kind(),
        })
    }

    /// The text of the extended ack.
    fn note(&self, errno: Errno) -> Note {
        const NLMSGERR_ATTR_MSG: u16 = 1;
        if errno.0 == libc::EPERM {
            return Note::Ours(
                "CAP_NET_ADMIN in the user namespace that owns the network namespace is missing",
            );
        }
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return Note::None;
        }
        let length = match long(self.rest, 0) {
            Some(length) if self.flags & NLM_F_CAPPED == 0 => length as usize,
            _ => HEADER,
        };
        let attributes = self.rest.get(length.next_multiple_of(4)..);
        value(attributes.unwrap_or_default(), NLMSGERR_ATTR_MSG).map_or(Note::None, |text| {
            let text = String::from_utf8_lossy(text);
            Note::Kernel(text.trim_end_matches('\0').to_owned())
        })
    }
}

/// Kinds and values of attributes that follow each other, up to one that is torn.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const NLA_HEADER: usize = 4;
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes, 0)?);
        let kind = short(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(NLA_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this kind.
pub(crate) fn value(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|two| u16::from_ne_bytes(*two))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|four| u32::from_ne_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of 20 bytes and the 4 of padding, of this kind.
    fn datagram(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_CAPPED | NLM_F_ACK_TLVS).to_ne_bytes());
        bytes.extend(7_u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_refusal_has_the_messages_number_the_errno_and_the_kernels_words() {
        let mut payload = (-libc::EEXIST).to_ne_bytes().to_vec();
        payload.extend(datagram(0, &[])); // the header of the refused message
        payload.extend([9, 0, 1, 0, b'b', b'a', b'd', b'!', 0]);
        let mut answers = Answers::default();
        answers.read(&datagram(NLMSG_ERROR, &payload)).unwrap();
        let verdict = answers.iter().next().unwrap().verdict().unwrap();
        assert_eq!(verdict.sequence, 7);
        let error = verdict.failure("add").unwrap().during("publish");
        assert_eq!(
            error.to_string(),
            "publish: add: EEXIST: File exists (bad!)"
        );
    }

    #[test]
    fn torn_answers_are_told_and_torn_attributes_end_the_list() {
        let whole = datagram(NLMSG_ERROR, &[0; 20]);
        for length in 1..whole.len() {
            assert!(
                Answers::default().read(&whole[..length]).is_none(),
                "{length}"
            );
        }
        let bytes = [
            6, 0, 1, 128, 1, 2, 0, 0, 5, 0, 2, 0, 3, 0, 0, 0, 9, 0, 3, 0, 1,
        ];
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(1, &[1, 2][..]), (2, &[3])]);
        for header in [[0, 0, 1, 0], [3, 0, 1, 0]] {
            assert_eq!(attributes(&header).count(), 0);
        }
        assert_eq!(attributes(&[1]).count(), 0);
    }
}
