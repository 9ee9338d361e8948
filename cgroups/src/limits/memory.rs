//! Memory and swap.

use super::setting::{Rendering, Setting};
use super::{Limits, Max};
use crate::controller::Version;
use crate::error::{Error, Result};

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub(super) struct Memory {
    max: Option<Max<u64>>,
    high: Option<Max<u64>>,
    low: Option<Max<u64>>,
    min: Option<Max<u64>>,
    swap: Option<Swap>,
    swap_high: Option<Max<u64>>,
    zswap_max: Option<Max<u64>>,
    zswap_writeback: Option<bool>,
    oom_group: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
enum Swap {
    Max(Max<u64>),
    /// Of memory and swap together.
    Total(Max<u64>),
    /// A number that is no total.
    Nonsense(i64),
    /// As it is, whatever the limit of memory.
    #[cfg_attr(
        not(any(feature = "oci", feature = "cgroups-rs")),
        allow(dead_code, reason = "only what is converted asks for it")
    )]
    Untouched,
}

/// The largest usual page: less than that rounds down to no memory at all.
const SMALLEST_MEMORY: u64 = 64 << 10;

impl Limits {
    /// Limits memory to `bytes`, with `memory.max`; beyond it the OOM killer ends a process of the cgroup.
    ///
    /// Alone, it also takes the swap away (`memory.swap.max` is 0; on v1 `memory.memsw.limit_in_bytes` is the same
    /// number), or the limit would only move memory to disk; and [`Max::Unlimited`] gives it back.
    /// [`Limits::memory_swap_max`] and [`Limits::memory_swap_oci`] say otherwise. A kernel without swap accounting has
    /// neither file: there the limit holds for RAM alone. The kernel rounds down to whole pages.
    #[doc(alias = "memory.max")]
    pub fn memory_max(mut self, bytes: impl Into<Max<u64>>) -> Self {
        self.memory.max = Some(bytes.into());
        self
    }

    /// Slows the processes down and reclaims their memory beyond `bytes`, with `memory.high`. Nothing is killed. Not in
    /// v1.
    #[doc(alias = "memory.high")]
    pub fn memory_high(mut self, bytes: impl Into<Max<u64>>) -> Self {
        self.memory.high = Some(bytes.into());
        self
    }

    /// Protects up to `bytes` from reclaim as long as others have unprotected memory, with `memory.low`. Not in v1.
    #[doc(alias = "memory.low")]
    pub fn memory_low(mut self, bytes: impl Into<Max<u64>>) -> Self {
        self.memory.low = Some(bytes.into());
        self
    }

    /// Protects up to `bytes` from reclaim whatever happens, with `memory.min`: the OOM killer comes first. Not in v1.
    #[doc(alias = "memory.min")]
    pub fn memory_min(mut self, bytes: impl Into<Max<u64>>) -> Self {
        self.memory.min = Some(bytes.into());
        self
    }

    /// Limits swap to `bytes`, not counting memory, with `memory.swap.max`. On v1, which knows the total alone, it
    /// takes [`Limits::memory_max`] as well. Replaces [`Limits::memory_swap_oci`].
    #[doc(alias = "memory.swap.max")]
    pub fn memory_swap_max(mut self, bytes: impl Into<Max<u64>>) -> Self {
        self.memory.swap = Some(Swap::Max(bytes.into()));
        self
    }

    /// Limits memory and swap together to `total` bytes, as the `memory.swap` of an OCI configuration has it: what is
    /// above [`Limits::memory_max`] is swap. -1 is no limit of swap; 0 asks for nothing. Replaces
    /// [`Limits::memory_swap_max`].
    #[doc(alias = "memory.memsw.limit_in_bytes")]
    pub fn memory_swap_oci(mut self, total: i64) -> Self {
        self.memory.swap = match total {
            0 => None,
            -1 => Some(Swap::Total(Max::Unlimited)),
            total => Some(match u64::try_from(total) {
                Ok(total) => Swap::Total(Max::Of(total)),
                Err(_) => Swap::Nonsense(total),
            }),
        };
        self
    }

    /// Leaves swap as it is, though memory is limited: the kernel's default is no limit.
    #[cfg(any(feature = "oci", feature = "cgroups-rs"))]
    pub(crate) fn memory_swap_untouched(mut self) -> Self {
        self.memory.swap = Some(Swap::Untouched);
        self
    }

    /// Slows the processes down beyond this much swap, with `memory.swap.high` (Linux 5.8). Not in v1.
    #[doc(alias = "memory.swap.high")]
    pub fn memory_swap_high(mut self, bytes: impl Into<Max<u64>>) -> Self {
        self.memory.swap_high = Some(bytes.into());
        self
    }

    /// Limits what the cgroup takes of the compressed swap cache, with `memory.zswap.max` (Linux 5.19). Not in v1.
    #[doc(alias = "memory.zswap.max")]
    pub fn memory_zswap_max(mut self, bytes: impl Into<Max<u64>>) -> Self {
        self.memory.zswap_max = Some(bytes.into());
        self
    }

    /// Whether the compressed swap cache may write to disk, with `memory.zswap.writeback` (Linux 6.8). Not in v1.
    #[doc(alias = "memory.zswap.writeback")]
    pub fn memory_zswap_writeback(mut self, writeback: bool) -> Self {
        self.memory.zswap_writeback = Some(writeback);
        self
    }

    /// Whether the OOM killer ends all processes of the cgroup or one, with `memory.oom.group` (Linux 4.19). Not in v1.
    #[doc(alias = "memory.oom.group")]
    pub fn memory_oom_group(mut self, group: bool) -> Self {
        self.memory.oom_group = Some(group);
        self
    }
}

impl Memory {
    pub(super) fn validate(&self) -> Result<()> {
        if let Some(Max::Of(bytes)) = self.max {
            if bytes < SMALLEST_MEMORY {
                return Err(Error::limit("memory_max", bytes, "is less than 64 KiB"));
            }
        }
        let swap = match self.swap {
            Some(Swap::Max(max)) => Some(max),
            _ => None,
        };
        for (limit, bytes) in [
            ("memory_max", self.max),
            ("memory_high", self.high),
            ("memory_low", self.low),
            ("memory_min", self.min),
            ("memory_swap_max", swap),
            ("memory_swap_high", self.swap_high),
            ("memory_zswap_max", self.zswap_max),
        ] {
            check_bytes(limit, bytes)?;
        }
        self.check_total()
    }

    pub(super) fn render(&self, version: Version, out: &mut Rendering) {
        match version {
            Version::V1 => self.render_v1(out),
            Version::V2 => self.render_v2(out),
        }
    }

    fn render_v2(&self, out: &mut Rendering) {
        let flag = |given: Option<bool>| given.map(u8::from);
        out.value("memory_min", "memory.min", self.min);
        out.value("memory_low", "memory.low", self.low);
        out.value("memory_oom_group", "memory.oom.group", flag(self.oom_group));
        // Lowered together, `high` reclaims where `max` would kill. Swap comes before both, for them to reclaim to.
        self.render_swap(out);
        out.value("memory_swap_high", "memory.swap.high", self.swap_high);
        out.value("memory_zswap_max", "memory.zswap.max", self.zswap_max);
        out.value(
            "memory_zswap_writeback",
            "memory.zswap.writeback",
            flag(self.zswap_writeback),
        );
        out.value("memory_high", "memory.high", self.high);
        out.value("memory_max", "memory.max", self.max);
    }

    fn render_swap(&self, out: &mut Rendering) {
        let file = "memory.swap.max";
        match (self.swap, self.max) {
            (Some(Swap::Max(max)), _) => out.write(Setting::new("memory_swap_max", file, max)),
            (Some(Swap::Total(total)), max) => {
                let memory = max.and_then(Max::limit).unwrap_or(0);
                let swap = total.map(|total| total.saturating_sub(memory));
                out.write(Setting::new("memory_swap_oci", file, swap));
            }
            (Some(Swap::Nonsense(_) | Swap::Untouched), _) | (None, None) => {}
            (None, Some(max)) => {
                let swap = max.map(|_| 0);
                out.write(Setting::new("memory_max", file, swap).skip_if_absent());
            }
        }
    }

    fn render_v1(&self, out: &mut Rendering) {
        for (limit, given) in [
            ("memory_high", self.high.is_some()),
            ("memory_low", self.low.is_some()),
            ("memory_min", self.min.is_some()),
            ("memory_swap_high", self.swap_high.is_some()),
            ("memory_zswap_max", self.zswap_max.is_some()),
            ("memory_zswap_writeback", self.zswap_writeback.is_some()),
            ("memory_oom_group", self.oom_group.is_some()),
        ] {
            out.not_in_v1(limit, given);
        }
        let max = self.max.map(|max| max.or("-1"));
        out.value("memory_max", "memory.limit_in_bytes", max);
        self.render_memsw(out);
    }

    /// Of memory and swap together. It may not be below the limit of memory, so it comes second.
    fn render_memsw(&self, out: &mut Rendering) {
        let file = "memory.memsw.limit_in_bytes";
        match (self.swap, self.max) {
            (Some(Swap::Max(Max::Unlimited)), _) => {
                out.write(Setting::new("memory_swap_max", file, "-1"));
            }
            (Some(Swap::Max(Max::Of(swap))), Some(max)) => {
                let total = max.map(|memory| memory.saturating_add(swap));
                out.write(Setting::new("memory_swap_max", file, total.or("-1")));
            }
            (Some(Swap::Max(Max::Of(_))), None) => out.refuse(
                "memory_swap_max",
                "cgroup v1 limits memory and swap together, so it takes memory_max as well",
            ),
            (Some(Swap::Total(total)), _) => {
                out.write(Setting::new("memory_swap_oci", file, total.or("-1")));
            }
            (Some(Swap::Nonsense(_) | Swap::Untouched), _) | (None, None) => {}
            (None, Some(max)) => {
                out.write(Setting::new("memory_max", file, max.or("-1")).skip_if_absent());
            }
        }
    }

    fn check_total(&self) -> Result<()> {
        let refused = |total: &dyn ToString, reason| {
            Err(Error::limit("memory_swap_oci", total.to_string(), reason))
        };
        match (self.swap, self.max) {
            (Some(Swap::Nonsense(total)), _) => refused(&total, "is less than -1"),
            (Some(Swap::Total(Max::Of(total))), Some(Max::Of(memory))) if total < memory => {
                refused(&total, "is less than memory_max, which it includes")
            }
            (Some(Swap::Total(Max::Of(total))), Some(Max::Unlimited) | None) => {
                refused(&total, "includes memory, so it takes memory_max as well")
            }
            _ => Ok(()),
        }
    }
}

fn check_bytes(limit: &'static str, bytes: Option<Max<u64>>) -> Result<()> {
    match bytes {
        Some(Max::Of(bytes)) if i64::try_from(bytes).is_err() => {
            Err(Error::limit(limit, bytes, "is more than i64::MAX"))
        }
        _ => Ok(()),
    }
}
