//! CPU time.

use std::time::Duration;

use super::setting::{Rendering, Setting};
use super::{Limits, Max};
use crate::controller::Version;
use crate::error::{Error, Result};

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub(super) struct Cpu {
    time: Option<Time>,
    burst: Option<Duration>,
    weight: Option<Weight>,
    idle: Option<bool>,
    uclamp_min: Option<Max<f64>>,
    uclamp_max: Option<Max<f64>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
enum Time {
    Max {
        quota: Max<Duration>,
        period: Duration,
    },
    Cpus(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
enum Weight {
    Own(u16),
    Nice(i8),
    Shares(u64),
}

/// The most CPUs a kernel can be built for.
const MOST_CPUS: f64 = 8192.0;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST_PERIOD: Duration = Duration::from_secs(1);
const DEFAULT_PERIOD: Duration = Duration::from_millis(100);
/// `MIN_SHARES` and `MAX_SHARES` of the kernel.
const FEWEST_SHARES: u64 = 2;
const MOST_SHARES: u64 = 1 << 18;

impl Limits {
    /// Limits CPU time to `quota` in every `period`, with `cpu.max`; beyond it the cgroup waits for the next period.
    ///
    /// Both in whole microseconds: what is finer is cut off. [`Max::Unlimited`] takes the limit away and sets the
    /// period. Replaces [`Limits::cpus`].
    #[doc(alias = "cpu.max")]
    pub fn cpu_max(mut self, quota: impl Into<Max<Duration>>, period: Duration) -> Self {
        let quota = quota.into();
        self.cpu.time = Some(Time::Max { quota, period });
        self
    }

    /// Limits CPU time to that of `cpus` CPUs, as [`Limits::cpu_max`] with a period of 100 ms. Replaces it.
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.cpu.time = Some(Time::Cpus(cpus));
        self
    }

    /// Lets quota that was not used be saved up, to this much, and used beyond the quota later, with `cpu.max.burst`
    /// (Linux 5.14). In whole microseconds. It cannot be more than the quota.
    #[doc(alias = "cpu.max.burst")]
    pub fn cpu_max_burst(mut self, burst: Duration) -> Self {
        self.cpu.burst = Some(burst);
        self
    }

    /// The share of CPU time where there is not enough for all, 1 to 10000 against the siblings' 100 by default, with
    /// `cpu.weight`. On v1 `cpu.shares`, which counts from 1024: the kernel's own conversion, so that 100 is 1024.
    /// Replaces [`Limits::cpu_weight_nice`] and [`Limits::cpu_shares_oci`].
    #[doc(alias = "cpu.weight")]
    pub fn cpu_weight(mut self, weight: u16) -> Self {
        self.cpu.weight = Some(Weight::Own(weight));
        self
    }

    /// The weight that a process of this nice value has, -20 to 19, with `cpu.weight.nice`. Not in v1. Replaces
    /// [`Limits::cpu_weight`] and [`Limits::cpu_shares_oci`].
    #[doc(alias = "cpu.weight.nice")]
    pub fn cpu_weight_nice(mut self, nice: i8) -> Self {
        self.cpu.weight = Some(Weight::Nice(nice));
        self
    }

    /// The weight for the `cpu.shares` of an OCI configuration, 2 to 262144: `1 + ((shares - 2) * 9999) / 262142` as
    /// other runtimes convert it; on v1 the number itself. More or less is taken for the nearest allowed, as the kernel
    /// does; 0 asks for nothing. Replaces [`Limits::cpu_weight`] and [`Limits::cpu_weight_nice`].
    #[doc(alias = "cpu.shares")]
    pub fn cpu_shares_oci(mut self, shares: u64) -> Self {
        self.cpu.weight = (shares != 0).then_some(Weight::Shares(shares));
        self
    }

    /// Whether it runs only when nothing else wants the CPU, as by `SCHED_IDLE`, with `cpu.idle` (Linux 5.15). While it
    /// does, the kernel refuses to change its weight.
    #[doc(alias = "cpu.idle")]
    pub fn cpu_idle(mut self, idle: bool) -> Self {
        self.cpu.idle = Some(idle);
        self
    }

    /// The least utilisation the scheduler assumes of it when it chooses a CPU's frequency, in percent with two
    /// decimals, with `cpu.uclamp.min`. Only in kernels with `CONFIG_UCLAMP_TASK_GROUP`.
    #[doc(alias = "cpu.uclamp.min")]
    pub fn cpu_uclamp_min(mut self, percent: impl Into<Max<f64>>) -> Self {
        self.cpu.uclamp_min = Some(percent.into());
        self
    }

    /// The most, with `cpu.uclamp.max`: as [`Limits::cpu_uclamp_min`].
    #[doc(alias = "cpu.uclamp.max")]
    pub fn cpu_uclamp_max(mut self, percent: impl Into<Max<f64>>) -> Self {
        self.cpu.uclamp_max = Some(percent.into());
        self
    }
}

impl Cpu {
    pub(super) fn validate(&self) -> Result<()> {
        match self.time {
            Some(Time::Max { quota, period }) => check_cpu_max(quota, period)?,
            Some(Time::Cpus(cpus)) => check_cpus(cpus)?,
            None => {}
        }
        match self.weight {
            Some(Weight::Own(weight)) => check_weight("cpu_weight", weight)?,
            Some(Weight::Nice(nice)) => check_nice(nice)?,
            Some(Weight::Shares(_)) | None => {}
        }
        self.check_burst()?;
        check_percent("cpu_uclamp_min", self.uclamp_min)?;
        check_percent("cpu_uclamp_max", self.uclamp_max)
    }

    pub(super) fn render(&self, version: Version, out: &mut Rendering) {
        self.render_time(version, out);
        let burst = match version {
            Version::V2 => "cpu.max.burst",
            Version::V1 => "cpu.cfs_burst_us",
        };
        out.value("cpu_max_burst", burst, self.burst.map(|b| b.as_micros()));
        self.render_weight(version, out);
        out.value("cpu_idle", "cpu.idle", self.idle.map(u8::from));
        let percent = |clamp: Option<Max<f64>>| clamp.map(|max| max.map(|p| format!("{p:.2}")));
        let (min, max) = (percent(self.uclamp_min), percent(self.uclamp_max));
        // The minimum may not be above the maximum in effect; the kernel sees to that itself.
        out.value("cpu_uclamp_min", "cpu.uclamp.min", min);
        out.value("cpu_uclamp_max", "cpu.uclamp.max", max);
    }

    fn render_time(&self, version: Version, out: &mut Rendering) {
        let Some((limit, quota, period)) = self.quota() else {
            return;
        };
        let (quota, period) = (quota.map(|quota| quota.as_micros()), period.as_micros());
        match version {
            Version::V2 => out.write(Setting::new(limit, "cpu.max", format!("{quota} {period}"))),
            Version::V1 => {
                out.write(Setting::new(limit, "cpu.cfs_period_us", period));
                out.write(Setting::new(limit, "cpu.cfs_quota_us", quota.or("-1")));
            }
        }
    }

    fn render_weight(&self, version: Version, out: &mut Rendering) {
        match (self.weight, version) {
            (None, _) => {}
            (Some(Weight::Own(weight)), Version::V2) => {
                out.write(Setting::new("cpu_weight", "cpu.weight", weight));
            }
            (Some(Weight::Own(weight)), Version::V1) => {
                let shares = shares_of_weight(weight);
                out.write(Setting::new("cpu_weight", "cpu.shares", shares));
            }
            (Some(Weight::Nice(nice)), Version::V2) => {
                out.write(Setting::new("cpu_weight_nice", "cpu.weight.nice", nice));
            }
            (Some(Weight::Nice(_)), Version::V1) => out.not_in_v1("cpu_weight_nice", true),
            (Some(Weight::Shares(shares)), Version::V2) => {
                let weight = weight_of_shares(shares);
                out.write(Setting::new("cpu_shares_oci", "cpu.weight", weight));
            }
            (Some(Weight::Shares(shares)), Version::V1) => {
                let shares = shares.clamp(FEWEST_SHARES, MOST_SHARES);
                out.write(Setting::new("cpu_shares_oci", "cpu.shares", shares));
            }
        }
    }

    fn quota(&self) -> Option<(&'static str, Max<Duration>, Duration)> {
        Some(match self.time? {
            Time::Max { quota, period } => ("cpu_max", quota, period),
            Time::Cpus(cpus) => {
                let quota = Duration::try_from_secs_f64(DEFAULT_PERIOD.as_secs_f64() * cpus);
                // One that is no time has no quota either; it is refused before it is written.
                ("cpus", Max::Of(quota.unwrap_or_default()), DEFAULT_PERIOD)
            }
        })
    }

    fn check_burst(&self) -> Result<()> {
        let Some(burst) = self.burst else {
            return Ok(());
        };
        let value = burst.as_micros();
        let quota = self.quota().and_then(|(_, quota, _)| quota.limit());
        if quota.is_some_and(|quota| value > quota.as_micros()) {
            return Err(Error::limit("cpu_max_burst", value, "is above the quota"));
        }
        if burst.as_secs_f64() > MOST_CPUS {
            let reason = "is more than 8192 CPUs for a second";
            return Err(Error::limit("cpu_max_burst", value, reason));
        }
        Ok(())
    }
}

/// As the kernel makes its own shares of `cpu.weight`.
fn shares_of_weight(weight: u16) -> u32 {
    (u32::from(weight) * 1024 + 50) / 100
}

fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(FEWEST_SHARES, MOST_SHARES);
    1 + ((shares - FEWEST_SHARES) * 9999) / (MOST_SHARES - FEWEST_SHARES)
}

/// Weights are alike in the cpu and the io controller.
pub(super) fn check_weight(limit: &'static str, weight: u16) -> Result<()> {
    if (1..=10_000).contains(&weight) {
        return Ok(());
    }
    Err(Error::limit(limit, weight, "is not within 1 and 10000"))
}

fn check_nice(nice: i8) -> Result<()> {
    if (-20..=19).contains(&nice) {
        return Ok(());
    }
    let reason = "is not within -20 and 19";
    Err(Error::limit("cpu_weight_nice", nice, reason))
}

fn check_percent(limit: &'static str, percent: Option<Max<f64>>) -> Result<()> {
    match percent {
        // Written so that NaN fails.
        Some(Max::Of(percent)) if !(0.0..=100.0).contains(&percent) => {
            Err(Error::limit(limit, percent, "is not within 0 and 100"))
        }
        _ => Ok(()),
    }
}

fn check_cpu_max(quota: Max<Duration>, period: Duration) -> Result<()> {
    let value = || format!("{} {}", quota.map(|q| q.as_micros()), period.as_micros());
    let refused = |reason| Err(Error::limit("cpu_max", value(), reason));
    if !(SHORTEST..=LONGEST_PERIOD).contains(&period) {
        return refused("its period is not within 1 ms and 1 s");
    }
    let Some(quota) = quota.limit() else {
        return Ok(());
    };
    if quota < SHORTEST {
        return refused("its quota is below 1 ms");
    }
    if quota.as_secs_f64() / period.as_secs_f64() > MOST_CPUS {
        return refused("is more than 8192 CPUs");
    }
    Ok(())
}

fn check_cpus(cpus: f64) -> Result<()> {
    // Written so that NaN fails.
    if (0.01..=MOST_CPUS).contains(&cpus) {
        return Ok(());
    }
    Err(Error::limit("cpus", cpus, "is not within 0.01 and 8192"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_weights_convert_at_their_edges() {
        for (shares, weight) in [
            (0, 1),
            (1, 1),
            (2, 1),
            (1024, 39),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        for (weight, shares) in [(1, 10), (100, 1024), (10_000, 102_400)] {
            assert_eq!(shares_of_weight(weight), shares);
        }
    }
}
