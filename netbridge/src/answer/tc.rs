//! Queueing disciplines and filters.

use super::{NLA_TYPE_MASK, array_at, attributes, text, u32_at};
use crate::error::Result;
use crate::message::tc::{HANDLE, TICK};

/// `struct tcmsg`.
const HEADER: usize = 20;

/// What a token bucket does, and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BucketAnswer {
    /// In bytes a second.
    pub(crate) rate: u64,
    /// In bytes.
    pub(crate) burst: u64,
    /// In bytes; of what has no queue, none.
    pub(crate) limit: Option<u32>,
    pub(crate) sent: u64,
    pub(crate) packets: u64,
    pub(crate) drops: u64,
    pub(crate) backlog: u32,
}

/// The root queueing discipline of `RTM_NEWQDISC`, where it is a tbf of this crate.
pub(crate) fn tbf(payload: &[u8]) -> Result<Option<BucketAnswer>> {
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_RATE64: u16 = 4;
    if payload.is_empty() || u32_at(payload, 8)? != u32::from(HANDLE.major) << 16 {
        return Ok(None);
    }
    let found = Kind::of(payload)?;
    if found.kind != "tbf" {
        return Ok(None);
    }
    let mut bucket = BucketAnswer::default();
    let mut buffer = 0;
    for option in attributes(&found.options, 0)? {
        let option = option?;
        match option.kind() {
            TCA_TBF_PARMS => {
                bucket.rate = bucket.rate.max(u32_at(option.value(), 8)?.into());
                bucket.limit = Some(u32_at(option.value(), 24)?);
                buffer = u32_at(option.value(), 28)?;
            }
            TCA_TBF_RATE64 => bucket.rate = u64_at(option.value())?,
            _ => {}
        }
    }
    bucket.burst = bytes_in(buffer, bucket.rate);
    bucket.count(&found.statistics)?;
    Ok(Some(bucket))
}

/// What a filter of `RTM_NEWTFILTER` does with the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Sends them to the link of this index.
    Redirect(u32),
    Police(BucketAnswer),
    Other,
}

/// A filter with an action, by u32. Others, and the tables that u32 keeps filters in, are `Other`.
pub(crate) fn filter(payload: &[u8]) -> Result<Filter> {
    const TCA_U32_ACT: u16 = 7;
    let found = Kind::of(payload)?;
    if found.kind != "u32" {
        return Ok(Filter::Other);
    }
    for option in attributes(&found.options, 0)? {
        let option = option?;
        if option.kind() & NLA_TYPE_MASK == TCA_U32_ACT {
            let first = attributes(option.value(), 0)?.next();
            return first.map_or(Ok(Filter::Other), |action| action_of(action?.value()));
        }
    }
    Ok(Filter::Other)
}

fn action_of(action: &[u8]) -> Result<Filter> {
    const TCA_MIRRED_PARMS: u16 = 2;
    const TCA_POLICE_TBF: u16 = 1;
    const TCA_POLICE_RATE64: u16 = 8;
    let found = Kind::parse(action, 0, TCA_ACT_STATS)?;
    let mut bucket = BucketAnswer::default();
    let mut ticks = 0;
    for option in attributes(&found.options, 0)? {
        let option = option?;
        match (found.kind.as_str(), option.kind()) {
            ("mirred", TCA_MIRRED_PARMS) => {
                return Ok(Filter::Redirect(u32_at(option.value(), 24)?));
            }
            ("police", TCA_POLICE_TBF) => {
                ticks = u32_at(option.value(), 12)?;
                bucket.rate = bucket.rate.max(u32_at(option.value(), 28)?.into());
            }
            ("police", TCA_POLICE_RATE64) => bucket.rate = u64_at(option.value())?,
            _ => {}
        }
    }
    if found.kind != "police" {
        return Ok(Filter::Other);
    }
    bucket.burst = bytes_in(ticks, bucket.rate);
    bucket.count(&found.statistics)?;
    Ok(Filter::Police(bucket))
}

const TCA_STATS2: u16 = 7;
const TCA_ACT_STATS: u16 = 4;

/// What queueing disciplines, filters and actions have alike.
#[derive(Default)]
struct Kind {
    kind: String,
    options: Vec<u8>,
    statistics: Vec<u8>,
}

impl Kind {
    fn of(payload: &[u8]) -> Result<Self> {
        Kind::parse(payload, HEADER, TCA_STATS2)
    }

    fn parse(payload: &[u8], after: usize, statistics: u16) -> Result<Self> {
        const KIND: u16 = 1;
        const OPTIONS: u16 = 2;
        let mut found = Kind::default();
        for attribute in attributes(payload, after)? {
            let attribute = attribute?;
            match attribute.kind() & NLA_TYPE_MASK {
                KIND => found.kind = text(attribute.value()),
                OPTIONS => found.options = attribute.value().to_vec(),
                kind if kind == statistics => {
                    found.statistics = attribute.value().to_vec();
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

impl BucketAnswer {
    fn count(&mut self, statistics: &[u8]) -> Result<()> {
        const TCA_STATS_BASIC: u16 = 1;
        const TCA_STATS_QUEUE: u16 = 3;
        const TCA_STATS_PKT64: u16 = 8;
        for counter in attributes(statistics, 0)? {
            let counter = counter?;
            match counter.kind() {
                TCA_STATS_BASIC => {
                    self.sent = u64_at(counter.value())?;
                    self.packets = self.packets.max(u32_at(counter.value(), 8)?.into());
                }
                TCA_STATS_PKT64 => self.packets = u64_at(counter.value())?,
                TCA_STATS_QUEUE => {
                    self.backlog = u32_at(counter.value(), 4)?;
                    self.drops = u32_at(counter.value(), 8)?.into();
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn u64_at(value: &[u8]) -> Result<u64> {
    array_at(value, 0).map(u64::from_ne_bytes)
}

/// How many bytes go in so many ticks: the kernel keeps a burst as a time, so that some are lost to rounding.
fn bytes_in(ticks: u32, rate: u64) -> u64 {
    let bytes = u128::from(ticks) * TICK * u128::from(rate);
    u64::try_from(bytes.div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
}
