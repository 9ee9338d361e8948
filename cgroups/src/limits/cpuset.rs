//! Which CPUs and memory nodes.

use std::fmt;
use std::str::FromStr;

use super::Limits;
use super::setting::{Old, Rendering, Setting};
use crate::controller::Version;
use crate::error::{Error, Result};

/// A set of CPUs or of memory nodes, by their numbers, as the kernel writes them: `0-3,7`.
///
/// ```
/// use cofferdam_cgroups::CpuSet;
///
/// let set: CpuSet = "7,0-2,3".parse()?;
/// assert_eq!(set.to_string(), "0-3,7");
/// assert_eq!(set, CpuSet::from_iter([0, 1, 2, 3, 7]));
/// # Ok::<(), cofferdam_cgroups::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CpuSet {
    /// First and last of each run, sorted, with a gap between any two.
    runs: Vec<(u32, u32)>,
}

/// Whether the CPUs of a cgroup are a scheduling domain of their own: `cpuset.cpus.partition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Partition {
    /// Part of the domain of the cgroup above.
    Member,
    /// A scheduling domain of its own.
    Root,
    /// The same without load balancing: nothing runs on a CPU but what was pinned to it.
    Isolated,
}

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub(super) struct Cpuset {
    cpus: Option<CpuSet>,
    mems: Option<CpuSet>,
    exclusive: Option<CpuSet>,
    partition: Option<Partition>,
}

/// One more than the largest number a kernel can be built for.
const END: u32 = 8192;

impl Limits {
    /// The CPUs its processes may run on, with `cpuset.cpus`. The empty set is that of the cgroup above, in v2.
    ///
    /// In v1 a cgroup has to have CPUs and memory nodes before it can have processes: what is not given is copied from
    /// the cgroup above.
    #[doc(alias = "cpuset.cpus")]
    pub fn cpuset_cpus(mut self, cpus: CpuSet) -> Self {
        self.cpuset.cpus = Some(cpus);
        self
    }

    /// The memory nodes its processes may have memory of, with `cpuset.mems`: as [`Limits::cpuset_cpus`].
    #[doc(alias = "cpuset.mems")]
    pub fn cpuset_mems(mut self, nodes: CpuSet) -> Self {
        self.cpuset.mems = Some(nodes);
        self
    }

    /// Makes its CPUs a scheduling domain of their own, with `cpuset.cpus.partition`. The kernel takes the word and may
    /// then declare the partition invalid: this is read back, and an error with the kernel's reason
    /// ([`Error::partition_reason`]). Not in v1.
    #[doc(alias = "cpuset.cpus.partition")]
    pub fn cpuset_partition(mut self, partition: Partition) -> Self {
        self.cpuset.partition = Some(partition);
        self
    }

    /// The CPUs that only partitions below it may have, with `cpuset.cpus.exclusive` (Linux 6.7). Not in v1.
    #[doc(alias = "cpuset.cpus.exclusive")]
    pub fn cpuset_cpus_exclusive(mut self, cpus: CpuSet) -> Self {
        self.cpuset.exclusive = Some(cpus);
        self
    }
}

impl Cpuset {
    pub(super) fn render(&self, version: Version, out: &mut Rendering) {
        for (limit, file, set) in [
            ("cpuset_cpus", "cpuset.cpus", &self.cpus),
            ("cpuset_mems", "cpuset.mems", &self.mems),
        ] {
            match set {
                Some(set) if set.is_empty() && version == Version::V1 => {
                    out.refuse(limit, "cgroup v1 has no empty set");
                }
                set => out.value(limit, file, set.as_ref().map(CpuSet::to_kernel)),
            }
        }
        if version == Version::V1 {
            out.not_in_v1("cpuset_cpus_exclusive", self.exclusive.is_some());
            out.not_in_v1("cpuset_partition", self.partition.is_some());
            return;
        }
        let exclusive = self.exclusive.as_ref().map(CpuSet::to_kernel);
        out.value("cpuset_cpus_exclusive", "cpuset.cpus.exclusive", exclusive);
        if let Some(partition) = self.partition {
            let file = "cpuset.cpus.partition";
            let mut setting = Setting::new("cpuset_partition", file, partition);
            setting.old = Old::Partition;
            out.write(setting);
        }
    }
}

impl CpuSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        CpuSet::default()
    }

    /// How many are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether none is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether this one is in it.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.runs
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&number))
    }

    /// The numbers in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The text to write. To write nothing at all would be no write.
    fn to_kernel(&self) -> String {
        if self.is_empty() {
            return "\n".to_owned();
        }
        self.to_string()
    }

    fn of_runs(mut runs: Vec<(u32, u32)>) -> Self {
        runs.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(runs.len());
        for (first, last) in runs {
            match merged.last_mut() {
                Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        CpuSet { runs: merged }
    }
}

/// Numbers of 8192 and more, which no kernel has, are left out.
impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let numbers = numbers.into_iter().filter(|number| *number < END);
        CpuSet::of_runs(numbers.map(|number| (number, number)).collect())
    }
}

impl FromStr for CpuSet {
    type Err = Error;

    /// Parses a list such as `0-3,7`. The empty text is the empty set.
    ///
    /// # Errors
    /// `InvalidInput` for what is no list, for a run that ends before it begins, for a number of 8192 or more.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(CpuSet::new());
        }
        let runs = text.split(',').map(|run| {
            parse_run(run).ok_or_else(|| {
                let reason = "is not a list such as 0-3,7 of numbers below 8192";
                Error::limit("cpuset", format_args!("{text:?}"), reason)
            })
        });
        Ok(CpuSet::of_runs(runs.collect::<Result<_>>()?))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.runs.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Partition::Member => "member",
            Partition::Root => "root",
            Partition::Isolated => "isolated",
        })
    }
}

fn parse_run(run: &str) -> Option<(u32, u32)> {
    let (first, last) = run.split_once('-').unwrap_or((run, run));
    let (first, last) = (parse_number(first)?, parse_number(last)?);
    (first <= last).then_some((first, last))
}

fn parse_number(text: &str) -> Option<u32> {
    // `parse` alone would take a plus sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number < END)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A xorshift generator: the same numbers every time.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn what_is_printed_parses_to_the_same_set() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for round in 0..2000 {
            let most = if round % 2 == 0 { 40 } else { u64::from(END) };
            let count = random(&mut state) % 60;
            let numbers: Vec<u32> = (0..count)
                .map(|_| u32::try_from(random(&mut state) % most).unwrap())
                .collect();
            let set = CpuSet::from_iter(numbers.clone());
            assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set);
            let mut sorted = numbers;
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(set.iter().collect::<Vec<_>>(), sorted);
            assert_eq!(set.len(), sorted.len());
            assert!(sorted.iter().all(|number| set.contains(*number)));
        }
    }

    #[test]
    fn rubbish_is_no_set_and_never_a_panic() {
        let bad = [
            ",",
            "1,",
            "-",
            "1-",
            "-1",
            "3-1",
            "a",
            "1-2-3",
            "+1",
            "1 2",
            "8192",
            "0-8192",
            "99999999999999999999",
            "0x1",
            "1--2",
        ];
        for text in bad {
            assert!(text.parse::<CpuSet>().is_err(), "{text:?}");
        }
        let mut state = 7;
        for _ in 0..5000 {
            let length = random(&mut state) % 12;
            let text: String = (0..length)
                .map(|_| char::from(b"0123456789-, "[(random(&mut state) % 13) as usize]))
                .collect();
            if let Ok(set) = text.parse::<CpuSet>() {
                assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set, "{text:?}");
            }
        }
    }

    #[test]
    fn runs_that_touch_or_overlap_are_one() {
        for (text, printed) in [
            ("0,1,2", "0-2"),
            ("5-9,0-5", "0-9"),
            ("3,3,3", "3"),
            ("0-3,2", "0-3"),
            ("", ""),
            ("\n", ""),
            ("0-8191", "0-8191"),
        ] {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), printed);
        }
        assert!(CpuSet::from_iter([9000]).is_empty());
    }
}
