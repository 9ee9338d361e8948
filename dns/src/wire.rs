//! DNS messages as bytes: a query is read in place, a reply written into a buffer that is used again.
//!
//! Nothing here follows a compression pointer and every step goes forward, so no message can make it loop; every read
//! is checked, so none can make it panic.

use crate::Name;

/// The bytes before the question.
pub(crate) const HEADER: usize = 12;
/// The longest name on the wire.
pub(crate) const NAME_MAX: usize = 255;
/// The longest query that is read. Real ones have a few hundred bytes at most.
pub(crate) const QUERY_MAX: usize = 4096;
/// What a client without EDNS can take over UDP.
const UDP_PLAIN: usize = 512;
/// The largest reply over UDP whatever the client says: it passes every path unfragmented.
pub(crate) const UDP_MAX: usize = 1232;
/// The OPT record of a reply.
const OPT_LEN: usize = 11;

const CLASS_IN: u16 = 1;

/// How a query came and its reply goes, which bounds the reply's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// 512 bytes, or what the client's EDNS says up to 1232.
    Udp,
    /// 65535 bytes.
    Tcp,
}

/// Response codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// Record types this crate knows.
pub(crate) mod rtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    /// TKEY, TSIG, IXFR, AXFR, MAILB, MAILA: not about data, or more than one message.
    pub(crate) const META: std::ops::RangeInclusive<u16> = 249..=254;
    pub(crate) const ANY: u16 = 255;
}

/// What the client's OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) payload: u16,
    pub(crate) dnssec_ok: bool,
    /// Whether it has options: cookies, a subnet and the like, to which a reply is for this client alone.
    pub(crate) has_options: bool,
}

/// The part of a query that its reply repeats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope<'a> {
    bytes: &'a [u8],
    /// Where the question ends; where it begins if there is none to repeat.
    question_end: usize,
    pub(crate) edns: Option<Edns>,
}

/// A query of one question in class IN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a> {
    pub(crate) envelope: Envelope<'a>,
    pub(crate) qtype: u16,
}

/// Why there is no [`Query`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault<'a> {
    /// Not worth a reply, or dangerous to reply to.
    Drop,
    /// Answered with this code.
    Reply(Rcode, Envelope<'a>),
}

impl<'a> Query<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Fault<'a>> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(Fault::Drop)?;
        if header[2] & 0x80 != 0 {
            return Err(Fault::Drop);
        }
        let mut envelope = Envelope {
            bytes,
            question_end: HEADER,
            edns: None,
        };
        if header[2] & 0x78 != 0 {
            return Err(Fault::Reply(Rcode::NotImp, envelope));
        }
        if header[4..10] != [0, 1, 0, 0, 0, 0] {
            return Err(Fault::Reply(Rcode::FormErr, envelope));
        }
        let Some((qtype, class, end)) = question(bytes) else {
            return Err(Fault::Reply(Rcode::FormErr, envelope));
        };
        envelope.question_end = end;
        let additional = u16::from_be_bytes([header[10], header[11]]);
        envelope.edns = opt(bytes, end, additional)
            .map_err(|rcode| Fault::Reply(rcode, envelope.with_edns(rcode)))?;
        match refusal(qtype, class) {
            Some(rcode) => Err(Fault::Reply(rcode, envelope)),
            None => Ok(Query { envelope, qtype }),
        }
    }

    /// The name asked for as a zone looks it up, written into `buffer`.
    pub(crate) fn key<'b>(&self, buffer: &'b mut [u8; NAME_MAX]) -> &'b [u8] {
        let name = self.name();
        let key = &mut buffer[..name.len()];
        key.copy_from_slice(name);
        // Length bytes are at most 63, below every letter.
        key.make_ascii_lowercase();
        key
    }

    /// The name asked for as it came.
    pub(crate) fn name(&self) -> &'a [u8] {
        &self.envelope.bytes[HEADER..self.envelope.question_end - 4]
    }

    /// The whole message.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.envelope.bytes
    }
}

impl<'a> Envelope<'a> {
    /// That of a query that was parsed before, as far as it can be.
    pub(crate) fn of(query: &'a [u8]) -> Option<Self> {
        match Query::parse(query) {
            Ok(query) => Some(query.envelope),
            Err(Fault::Reply(_, envelope)) => Some(envelope),
            Err(Fault::Drop) => None,
        }
    }

    /// Where the question ends.
    pub(crate) fn question_end(&self) -> usize {
        self.question_end
    }

    /// The size of the largest reply from elsewhere that the client can take.
    pub(crate) fn client_limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => UDP_PLAIN,
            (Transport::Udp, Some(edns)) => usize::from(edns.payload).max(UDP_PLAIN),
        }
    }

    /// A refused EDNS version is told by EDNS.
    fn with_edns(mut self, rcode: Rcode) -> Self {
        if rcode == Rcode::BadVers {
            self.edns = Some(Edns {
                payload: 0,
                dnssec_ok: false,
                has_options: false,
            });
        }
        self
    }
}

/// Type, class and end of the question.
fn question(bytes: &[u8]) -> Option<(u16, u16, usize)> {
    let end = plain_name(bytes, HEADER)?;
    Some((read_u16(bytes, end)?, read_u16(bytes, end + 2)?, end + 4))
}

/// The end of a name that uses no compression: nothing precedes a question that it could point to.
fn plain_name(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length > 63 || at - start > NAME_MAX {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// The OPT record among the additional ones, which must fill the rest of the message.
fn opt(bytes: &[u8], start: usize, count: u16) -> Result<Option<Edns>, Rcode> {
    let mut at = start;
    let mut found = None;
    for _ in 0..count {
        let record = Record::read(bytes, at).ok_or(Rcode::FormErr)?;
        at = record.end;
        if record.rtype != rtype::OPT {
            continue;
        }
        if found.is_some() || !record.of_root {
            return Err(Rcode::FormErr);
        }
        found = Some(record);
    }
    if at != bytes.len() {
        return Err(Rcode::FormErr);
    }
    match found {
        Some(record) if (record.ttl >> 16) & 0xff != 0 => Err(Rcode::BadVers),
        Some(record) => Ok(Some(Edns {
            payload: record.class,
            dnssec_ok: record.ttl & 0x8000 != 0,
            has_options: record.end > record.ttl_at + 6,
        })),
        None => Ok(None),
    }
}

struct Record {
    of_root: bool,
    rtype: u16,
    class: u16,
    ttl: u32,
    ttl_at: usize,
    end: usize,
}

impl Record {
    fn read(bytes: &[u8], start: usize) -> Option<Self> {
        let at = any_name(bytes, start)?;
        let high = u32::from(read_u16(bytes, at + 4)?);
        let low = u32::from(read_u16(bytes, at + 6)?);
        let end = at + 10 + usize::from(read_u16(bytes, at + 8)?);
        (end <= bytes.len()).then_some(())?;
        Some(Record {
            of_root: at == start + 1,
            rtype: read_u16(bytes, at)?,
            class: read_u16(bytes, at + 2)?,
            ttl: high << 16 | low,
            ttl_at: at + 4,
            end,
        })
    }
}

/// For how many seconds a reply from an upstream may be kept, if it may: as long as its shortest-lived record, and no longer
/// than its SOA record says, which a denial must have.
pub(crate) fn lifetime(message: &[u8], question_end: usize) -> Option<u32> {
    let (flags, rcode) = (*message.get(2)?, *message.get(3)? & 15);
    if flags & TRUNCATED != 0 || !matches!(rcode, 0 | 3) {
        return None;
    }
    let answers = read_u16(message, 6)?;
    let mut shortest = None;
    let mut denied_for = None;
    for (number, record) in records(message, question_end).enumerate() {
        let record = record?;
        if record.rtype == rtype::OPT {
            continue;
        }
        shortest = Some(shortest.map_or(record.ttl, |ttl: u32| ttl.min(record.ttl)));
        let is_authority = number >= usize::from(answers);
        if is_authority && record.rtype == rtype::SOA {
            let minimum = message.get(..record.end)?.last_chunk::<4>()?;
            denied_for = Some(u32::from_be_bytes(*minimum).min(record.ttl));
        }
    }
    match denied_for {
        Some(seconds) => shortest.map(|shortest| shortest.min(seconds)),
        None if answers > 0 && rcode == 0 => shortest,
        None => None,
    }
}

/// Where the TTLs of a message's records are, but for OPT, which has none.
pub(crate) fn ttl_offsets(message: &[u8], question_end: usize) -> Vec<usize> {
    let records = records(message, question_end).map_while(|record| record);
    let with_ttl = records.filter(|record| record.rtype != rtype::OPT);
    with_ttl.map(|record| record.ttl_at).collect()
}

/// The records behind the question; `None` where the message is broken, and then no more.
fn records(message: &[u8], question_end: usize) -> impl Iterator<Item = Option<Record>> {
    let counts = [6, 8, 10].map(|at| read_u16(message, at).unwrap_or(0));
    let mut left: u32 = counts.into_iter().map(u32::from).sum();
    let mut at = question_end;
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let record = Record::read(message, at);
        match &record {
            Some(record) => at = record.end,
            None => left = 0,
        }
        Some(record)
    })
}

/// The end of a name, which a pointer ends too; where it points to does not matter here.
fn any_name(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + length,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
        if at - start > NAME_MAX {
            return None;
        }
    }
}

fn refusal(qtype: u16, class: u16) -> Option<Rcode> {
    if qtype == rtype::OPT || qtype == 0 {
        return Some(Rcode::FormErr);
    }
    if class != CLASS_IN || rtype::META.contains(&qtype) {
        return Some(Rcode::Refused);
    }
    None
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// A reply being written.
pub(crate) struct Response<'a, 'o> {
    envelope: Envelope<'a>,
    out: &'o mut Vec<u8>,
    limit: usize,
    answers: u16,
    additional: u16,
    flags: u8,
}

const TRUNCATED: u8 = 0x02;
const AUTHORITATIVE: u8 = 0x04;

impl<'a, 'o> Response<'a, 'o> {
    /// Starts over in `out`.
    pub(crate) fn new(envelope: Envelope<'a>, transport: Transport, out: &'o mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&envelope.bytes[..envelope.question_end]);
        let opt = if envelope.edns.is_some() { OPT_LEN } else { 0 };
        let limit = match transport {
            Transport::Udp => envelope.client_limit(transport).min(UDP_MAX),
            Transport::Tcp => usize::from(u16::MAX),
        };
        Response {
            envelope,
            out,
            limit: limit - opt,
            answers: 0,
            additional: 0,
            flags: 0,
        }
    }

    /// Says that the reply comes from who knows best.
    pub(crate) fn authoritative(mut self) -> Self {
        self.flags |= AUTHORITATIVE;
        self
    }

    /// Says that there is more than fits.
    pub(crate) fn truncated(mut self) -> Self {
        self.flags |= TRUNCATED;
        self
    }

    /// Appends a record of the name asked for, its data written by `data`. One that does not fit sets the truncated
    /// bit and ends the answer.
    pub(crate) fn record(&mut self, rtype: u16, ttl: u32, data: impl FnOnce(&mut Vec<u8>)) {
        if self.flags & TRUNCATED != 0 {
            return;
        }
        let start = self.out.len();
        // The name is a pointer to the question's.
        self.out.extend_from_slice(&[0xc0, HEADER as u8]);
        self.out.extend_from_slice(&rtype.to_be_bytes());
        self.out.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&[0, 0]);
        let body = self.out.len();
        data(self.out);
        if self.out.len() > self.limit || self.answers == u16::MAX {
            self.out.truncate(start);
            self.flags |= TRUNCATED;
            return;
        }
        // Data is an address or a name, at most 255 bytes.
        let length = (self.out.len() - body) as u16;
        self.out[body - 2..body].copy_from_slice(&length.to_be_bytes());
        self.answers += 1;
    }

    /// Appends a record of another name behind the answers, if it fits.
    pub(crate) fn additional(&mut self, name: &Name, rtype: u16, ttl: u32, data: &[u8]) {
        let start = self.out.len();
        name.write(self.out);
        self.out.extend_from_slice(&rtype.to_be_bytes());
        self.out.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        // An address.
        self.out
            .extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.out.extend_from_slice(data);
        // One is kept for the OPT record.
        let is_cut = self.flags & TRUNCATED != 0;
        if is_cut || self.out.len() > self.limit || self.additional >= u16::MAX - 1 {
            self.out.truncate(start);
        } else {
            self.additional += 1;
        }
    }

    /// Writes the header and, to who asked with EDNS, the OPT record.
    pub(crate) fn finish(self, rcode: Rcode) {
        let code = rcode as u16;
        let questions = u8::from(self.envelope.question_end > HEADER);
        let additional = self.additional + u16::from(self.envelope.edns.is_some());
        let (answers, additional) = (self.answers.to_be_bytes(), additional.to_be_bytes());
        let (opcode_rd, cd) = (self.out[2] & 0x79, self.out[3] & 0x10);
        self.out[2] = 0x80 | opcode_rd | self.flags;
        self.out[3] = 0x80 | cd | (code & 15) as u8;
        self.out[4..6].copy_from_slice(&[0, questions]);
        self.out[6..8].copy_from_slice(&answers);
        self.out[8..10].copy_from_slice(&[0, 0]);
        self.out[10..HEADER].copy_from_slice(&additional);
        let Some(edns) = self.envelope.edns else {
            return;
        };
        let payload = (UDP_MAX as u16).to_be_bytes();
        let flags = if edns.dnssec_ok { 0x80 } else { 0 };
        self.out.extend_from_slice(&[0, 0, rtype::OPT as u8]);
        self.out.extend_from_slice(&payload);
        self.out
            .extend_from_slice(&[(code >> 4) as u8, 0, flags, 0, 0, 0]);
    }
}

/// What a reply from an upstream says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not a reply to this query: someone guesses, or it is late.
    Stranger,
    /// The upstream cannot or will not say: another may.
    Unhelpful,
    /// The answer.
    Answer,
}

/// Compares a message from an upstream with the query sent to it.
pub(crate) fn judge(query: &[u8], question_end: usize, message: &[u8]) -> Verdict {
    let name_end = question_end - 4;
    let Some(question) = message.get(HEADER..question_end) else {
        return Verdict::Stranger;
    };
    let same_name = question[..name_end - HEADER].eq_ignore_ascii_case(&query[HEADER..name_end]);
    let same_type = question[name_end - HEADER..] == query[name_end..question_end];
    let is_reply = message[2] & 0xf8 == 0x80 && message[4..6] == [0, 1];
    if !(same_name && same_type && is_reply && message[..2] == query[..2]) {
        return Verdict::Stranger;
    }
    match message[3] & 15 {
        2 | 4 | 5 => Verdict::Unhelpful,
        _ => Verdict::Answer,
    }
}
