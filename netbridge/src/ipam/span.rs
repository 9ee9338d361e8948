//! Addresses as numbers: spans of them, and sets of spans.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Which of the two address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    pub(crate) fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The address of a number. What does not fit IPv4 cannot come from a span of it.
    pub(crate) fn address(self, number: u128) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4((u32::try_from(number).unwrap_or(u32::MAX)).into()),
            Family::V6 => IpAddr::V6(number.into()),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Numbers from `start` to `end`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u128,
    pub(crate) end: u128,
}

impl Span {
    pub(crate) fn of(network: IpNetwork) -> Self {
        Span {
            start: number(network.network()),
            end: number(network.broadcast()),
        }
    }

    pub(crate) fn contains(self, at: u128) -> bool {
        (self.start..=self.end).contains(&at)
    }

    pub(crate) fn within(self, other: Span) -> bool {
        other.start <= self.start && self.end <= other.end
    }

    pub(crate) fn overlaps(self, other: Span) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// How many; of all of IPv6 one less than there are.
    pub(crate) fn len(self) -> u128 {
        (self.end - self.start).saturating_add(1)
    }
}

/// A set of numbers, kept as the spans they form: as large as it has gaps, not as it has numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans(BTreeMap<u128, u128>);

impl Spans {
    pub(crate) fn new(spans: impl IntoIterator<Item = Span>) -> Self {
        let mut set = Spans::default();
        spans.into_iter().for_each(|span| set.insert(span));
        set
    }

    /// The span of the set that `at` is in.
    fn around(&self, at: u128) -> Option<Span> {
        let (&start, &end) = self.0.range(..=at).next_back()?;
        (at <= end).then_some(Span { start, end })
    }

    /// The first span of the set that overlaps `span`.
    pub(crate) fn overlapped(&self, span: Span) -> Option<Span> {
        self.around(span.start).or_else(|| {
            let (&start, &end) = self.0.range(span.start..=span.end).next()?;
            Some(Span { start, end })
        })
    }

    /// Adds them, and joins what then touches.
    pub(crate) fn insert(&mut self, span: Span) {
        let mut joined = span;
        let touching = Span {
            start: span.start.saturating_sub(1),
            end: span.end.saturating_add(1),
        };
        while let Some(other) = self.overlapped(touching) {
            self.0.remove(&other.start);
            joined.start = joined.start.min(other.start);
            joined.end = joined.end.max(other.end);
        }
        self.0.insert(joined.start, joined.end);
    }

    pub(crate) fn insert_one(&mut self, at: u128) {
        self.insert(Span { start: at, end: at });
    }

    pub(crate) fn remove(&mut self, at: u128) {
        let Some(span) = self.around(at) else {
            return;
        };
        self.0.remove(&span.start);
        if span.start < at {
            self.0.insert(span.start, at - 1);
        }
        if at < span.end {
            self.0.insert(at + 1, span.end);
        }
    }

    /// The first number of `within` that is not in the set.
    pub(crate) fn first_gap(&self, within: Span) -> Option<u128> {
        match self.around(within.start) {
            None => Some(within.start),
            Some(span) if span.end < within.end => Some(span.end + 1),
            Some(_) => None,
        }
    }

    /// How many numbers of `within` are in the set.
    pub(crate) fn count(&self, within: Span) -> u128 {
        let first = self.around(within.start).map(|span| span.start);
        self.0
            .range(first.unwrap_or(within.start)..=within.end)
            .fold(0, |sum: u128, (&start, &end)| {
                let (start, end) = (start.max(within.start), end.min(within.end));
                sum.saturating_add(Span { start, end }.len())
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ipam::random::Random;

    #[test]
    fn a_set_of_spans_is_a_set() {
        for seed in 0..40 {
            let mut random = Random::new(seed);
            // Both ends of the numbers are among those tried.
            let base = [0, 1 << 100, u128::MAX - 63][seed as usize % 3];
            let all = Span {
                start: base,
                end: base + 63,
            };
            let (mut spans, mut model) = (Spans::default(), BTreeSet::new());
            for _ in 0..400 {
                let at = base + u128::from(random.below(64));
                let end = at.saturating_add(random.below(6).into()).min(all.end);
                let span = Span { start: at, end };
                match random.below(5) {
                    0 => {
                        spans.insert(span);
                        model.extend(at..=end);
                    }
                    1 | 2 => {
                        spans.insert_one(at);
                        model.insert(at);
                    }
                    _ => {
                        spans.remove(at);
                        model.remove(&at);
                    }
                }
                assert_eq!(spans.around(at).is_some(), model.contains(&at));
                let gap = (at..=end).find(|at| !model.contains(at));
                assert_eq!(spans.first_gap(span), gap);
                assert_eq!(spans.count(span), model.range(at..=end).count() as u128);
                let overlaps = model.range(at..=end).next().is_some();
                assert_eq!(spans.overlapped(span).is_some(), overlaps);
            }
            assert_eq!(spans.count(all), model.len() as u128);
            let disjoint = spans.0.iter().zip(spans.0.iter().skip(1));
            for ((_, end), (start, _)) in disjoint {
                assert!(end + 1 < *start, "{spans:?}");
            }
        }
    }
}
