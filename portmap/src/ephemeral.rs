//! Which host ports may be chosen for who asked for none: the kernel's range for sockets without a port.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Failure, Inner};
use crate::netns::NetNs;
use crate::spec::PortSpec;

/// Ports in their order, without those that are reserved for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidates {
    first: u16,
    last: u16,
    /// Sorted, and not overlapping.
    reserved: Vec<(u16, u16)>,
}

/// Where the next search begins, so that a port that was just given back is not given out again at once.
#[derive(Debug, Default)]
pub(crate) struct Turn(AtomicU32);

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

impl Candidates {
    /// `net.ipv4.ip_local_port_range` without `net.ipv4.ip_local_reserved_ports`, both of that network namespace. They hold for
    /// IPv6 too.
    pub(crate) fn of(netns: &NetNs) -> Result<Self, Failure> {
        let read = || Ok((read(RANGE)?, read(RESERVED)?));
        let failed = |error: io::Error| Failure::call(format_args!("read {RANGE}"), &error);
        let (range, reserved) = netns.run(read).map_err(failed)?;
        let unexpected = |what: &str| Failure::Answer {
            step: format!("read {RANGE}"),
            what: format!("{what:?}"),
        };
        let mut bounds = range.split_ascii_whitespace().map(str::parse);
        let (Some(Ok(first)), Some(Ok(last))) = (bounds.next(), bounds.next()) else {
            return Err(unexpected(&range));
        };
        let reserved = ranges(&reserved).ok_or_else(|| unexpected(&reserved))?;
        Ok(Candidates::new(first, last, reserved))
    }

    /// As many ports are tried for one spec.
    pub(crate) const TRIES: usize = 4096;

    /// What may be chosen for a spec that leaves its host port to be chosen.
    pub(crate) fn for_spec(spec: &PortSpec, netns: &NetNs) -> Result<Self, Failure> {
        match spec.host_port() {
            0 => Candidates::of(netns),
            first => Ok(Candidates::within(first, *spec.host_ports().end())),
        }
    }

    pub(crate) fn exhausted(&self, doing: impl fmt::Display, tries: usize) -> Error {
        Inner::Exhausted {
            doing: doing.to_string(),
            first: self.first,
            last: self.last,
            tries,
        }
        .into()
    }

    /// Those from `first` to `last`.
    pub(crate) fn within(first: u16, last: u16) -> Self {
        Candidates::new(first, last, Vec::new())
    }

    fn new(first: u16, last: u16, mut reserved: Vec<(u16, u16)>) -> Self {
        reserved.sort_unstable();
        Candidates {
            first: first.max(1),
            last,
            reserved,
        }
    }

    /// Each of them once, from where it is `turn`.
    pub(crate) fn from(&self, turn: &Turn) -> impl Iterator<Item = u16> + '_ {
        let length = (u32::from(self.last) + 1).saturating_sub(u32::from(self.first));
        let start = turn.0.fetch_add(1, Ordering::Relaxed);
        (0..length)
            .map(move |step| self.first + (start.wrapping_add(step) % length) as u16)
            .filter(|port| !self.is_reserved(*port))
    }

    fn is_reserved(&self, port: u16) -> bool {
        let after = self.reserved.partition_point(|(first, _)| *first <= port);
        self.reserved[..after]
            .iter()
            .next_back()
            .is_some_and(|(_, last)| port <= *last)
    }
}

impl Turn {
    /// The search that begins next begins behind this port.
    pub(crate) fn after(&self, candidates: &Candidates, port: u16) {
        let next = u32::from(port.saturating_sub(candidates.first)) + 1;
        self.0.store(next, Ordering::Relaxed);
    }
}

fn read(path: &str) -> io::Result<String> {
    use std::io::Read;
    // A bitmap of all ports prints as at most 32768 of them.
    const MOST: u64 = 1 << 18;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MOST)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Reads `80,8000-8010`, as the kernel prints bitmaps.
fn ranges(text: &str) -> Option<Vec<(u16, u16)>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Vec::new());
    }
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_left_out_and_the_rest_goes_round() {
        let candidates = Candidates::new(10, 19, ranges("15,1-11,18-30\n").unwrap());
        let turn = Turn::default();
        let all: Vec<u16> = candidates.from(&turn).collect();
        assert_eq!(all, [12, 13, 14, 16, 17]);
        turn.after(&candidates, 14);
        let all: Vec<u16> = candidates.from(&turn).collect();
        assert_eq!(all, [16, 17, 12, 13, 14]);
        turn.after(&candidates, 19);
        assert_eq!(candidates.from(&turn).next(), Some(12));
    }

    #[test]
    fn the_whole_and_the_empty_range_are_ranges() {
        let turn = Turn::default();
        assert_eq!(Candidates::within(1, 65535).from(&turn).count(), 65535);
        assert_eq!(Candidates::within(0, 65535).from(&turn).count(), 65535);
        assert_eq!(Candidates::within(7, 7).from(&turn).count(), 1);
        assert_eq!(Candidates::within(8, 7).from(&turn).count(), 0);
    }

    #[test]
    fn what_the_kernel_does_not_print_is_no_list() {
        assert_eq!(ranges("\n").unwrap(), []);
        for wrong in ["a", "1-", "1,,2", "70000", "1 2"] {
            assert_eq!(ranges(wrong), None, "{wrong}");
        }
    }
}
