//! Huge pages.

use std::fmt;
use std::str::FromStr;

use super::setting::{Rendering, Setting};
use super::{Limits, Max, put};
use crate::controller::Version;
use crate::error::{Error, Result};

/// The size of a huge page, as the kernel writes it in file names: `2MB`, `1GB`, `64KB`.
///
/// ```
/// use cofferdam_cgroups::HugePage;
///
/// assert_eq!("2MB".parse::<HugePage>()?, HugePage::MB2);
/// assert_eq!(HugePage::GB1.to_string(), "1GB");
/// # Ok::<(), cofferdam_cgroups::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HugePage(pub(super) u64);

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub(super) struct Hugetlb {
    max: Vec<(HugePage, Max<u64>)>,
    rsvd_max: Vec<(HugePage, Max<u64>)>,
}

impl HugePage {
    /// 2 MiB.
    pub const MB2: HugePage = HugePage(2 << 20);
    /// 1 GiB.
    pub const GB1: HugePage = HugePage(1 << 30);

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for HugePage {
    type Err = Error;

    /// Parses the kernel's form: a power of two of `KB`, `MB` or `GB`, which are 1024 of each other.
    ///
    /// # Errors
    /// `InvalidInput` for anything else.
    fn from_str(text: &str) -> Result<Self> {
        let units = [("KB", 10), ("MB", 20), ("GB", 30)];
        let parsed = units.into_iter().find_map(|(unit, shift)| {
            let number = text.strip_suffix(unit)?.parse::<u64>().ok()?;
            (number.is_power_of_two() && number <= 1 << 30).then(|| HugePage(number << shift))
        });
        parsed
            .filter(|page| page.to_string() == text)
            .ok_or_else(|| {
                let reason = "is not a size of huge pages such as 2MB or 1GB";
                Error::limit("hugetlb", format_args!("{text:?}"), reason)
            })
    }
}

impl fmt::Display for HugePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 => write!(f, "{}GB", bytes >> 30),
            bytes if bytes >= 1 << 20 => write!(f, "{}MB", bytes >> 20),
            bytes => write!(f, "{}KB", bytes >> 10),
        }
    }
}

impl Limits {
    /// Limits the huge pages of one size in use to `bytes`, with `hugetlb.2MB.max` or the like; beyond it a page fault
    /// is a `SIGBUS`. The kernel rounds down to whole pages.
    #[doc(alias = "hugetlb.2MB.max")]
    pub fn hugetlb_max(mut self, page: HugePage, bytes: impl Into<Max<u64>>) -> Self {
        put(&mut self.hugetlb.max, page, bytes.into());
        self
    }

    /// Limits those reserved, with `hugetlb.2MB.rsvd.max` or the like (Linux 5.7); beyond it mmap(2) fails with
    /// `ENOMEM`.
    #[doc(alias = "hugetlb.2MB.rsvd.max")]
    pub fn hugetlb_rsvd_max(mut self, page: HugePage, bytes: impl Into<Max<u64>>) -> Self {
        put(&mut self.hugetlb.rsvd_max, page, bytes.into());
        self
    }
}

impl Hugetlb {
    pub(super) fn validate(&self) -> Result<()> {
        let max = self.max.iter().map(|entry| ("hugetlb_max", entry));
        let rsvd = self
            .rsvd_max
            .iter()
            .map(|entry| ("hugetlb_rsvd_max", entry));
        for (limit, (page, bytes)) in max.chain(rsvd) {
            if bytes.limit().is_some_and(|b| i64::try_from(b).is_err()) {
                let value = format!("{page} {bytes}");
                return Err(Error::limit(limit, value, "is more than i64::MAX"));
            }
        }
        Ok(())
    }

    pub(super) fn render(&self, version: Version, out: &mut Rendering) {
        let (file, unlimited) = match version {
            Version::V2 => ("max", "max"),
            Version::V1 => ("limit_in_bytes", "-1"),
        };
        for (page, bytes) in &self.max {
            let file = format!("hugetlb.{page}.{file}");
            out.write(Setting::new("hugetlb_max", file, bytes.or(unlimited)));
        }
        for (page, bytes) in &self.rsvd_max {
            let file = format!("hugetlb.{page}.rsvd.{file}");
            out.write(Setting::new("hugetlb_rsvd_max", file, bytes.or(unlimited)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_kernels() {
        for text in ["64KB", "2MB", "512MB", "1GB", "16GB"] {
            assert_eq!(text.parse::<HugePage>().unwrap().to_string(), text);
        }
        for text in [
            "", "2", "MB", "3MB", "2M", "2mb", "1024KB", "-2MB", "+2MB", "2MB/..", "0KB",
        ] {
            assert!(text.parse::<HugePage>().is_err(), "{text:?}");
        }
    }
}
