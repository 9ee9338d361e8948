//! Limits that other crates have types for. What cannot be said here is an error: a limit is not dropped.

#[cfg(feature = "cgroups-rs")]
mod cgroups_rs;
#[cfg(feature = "oci")]
mod oci;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use crate::device::Device;
use crate::devices::DeviceRule;
use crate::error::{Error, Result};
use crate::{IoMax, Limits, Max};

const DEFAULT_PERIOD: u64 = 100_000;

/// -1 is no limit in all of these.
fn max(limit: &'static str, number: i64) -> Result<Max<u64>> {
    match u64::try_from(number) {
        Ok(number) => Ok(Max::Of(number)),
        Err(_) if number == -1 => Ok(Max::Unlimited),
        Err(_) => Err(Error::limit(limit, number, "is less than -1")),
    }
}

fn max_u32(limit: &'static str, number: i64) -> Result<Max<u32>> {
    match max(limit, number)? {
        Max::Unlimited => Ok(Max::Unlimited),
        Max::Of(number) => Ok(Max::Of(narrow(limit, number)?)),
    }
}

fn narrow(limit: &'static str, number: u64) -> Result<u32> {
    let narrow = u32::try_from(number).ok();
    narrow.ok_or_else(|| Error::limit(limit, number, "is more than 4294967295"))
}

/// An error if it is given.
fn unsaid<T>(limit: &'static str, given: Option<T>, reason: &'static str) -> Result<()> {
    match given {
        Some(_) => Err(Error::unsayable(limit, reason)),
        None => Ok(()),
    }
}

/// Of microseconds. A quota of 0 and one that is not given are the same to the kernel's v1 and to other runtimes.
fn cpu_time(limits: Limits, quota: Option<i64>, period: Option<u64>) -> Result<Limits> {
    let (quota, period) = (quota.filter(|q| *q != 0), period.filter(|p| *p != 0));
    if quota.is_none() && period.is_none() {
        return Ok(limits);
    }
    let quota = max("cpu_max", quota.unwrap_or(-1))?;
    let period = Duration::from_micros(period.unwrap_or(DEFAULT_PERIOD));
    Ok(limits.cpu_max(quota.map(Duration::from_micros), period))
}

fn cpuset(mut limits: Limits, cpus: Option<&str>, mems: Option<&str>) -> Result<Limits> {
    if let Some(cpus) = cpus.filter(|cpus| !cpus.is_empty()) {
        limits = limits.cpuset_cpus(cpus.parse()?);
    }
    if let Some(mems) = mems.filter(|mems| !mems.is_empty()) {
        limits = limits.cpuset_mems(mems.parse()?);
    }
    Ok(limits)
}

fn device(limit: &'static str, major: impl Display, minor: impl Display) -> Result<Device> {
    // There is no other way from text or from any integer.
    let number = |text: String| text.parse::<u32>().ok();
    match (number(major.to_string()), number(minor.to_string())) {
        (Some(major), Some(minor)) => Ok(Device::number(major, minor)),
        _ => {
            let device = format_args!("{major}:{minor}").to_string();
            Err(Error::limit(limit, device, "is no number of a device"))
        }
    }
}

/// The weight of one device in the numbers of `blkio.weight`, 10 to 1000. On v1 it comes back to within 10 % of it.
fn device_weight(limits: Limits, device: Device, weight: u16) -> Result<Limits> {
    if !(10..=1000).contains(&weight) {
        let reason = "is not within 10 and 1000";
        return Err(Error::limit("io_weight_of", weight, reason));
    }
    let weight = 1 + (u32::from(weight) - 10) * 9999 / 990;
    // At most 10000.
    Ok(limits.io_weight_of(device, u16::try_from(weight).unwrap_or(u16::MAX)))
}

/// What four lists say of each device.
#[derive(Default)]
struct Throttles(BTreeMap<Device, IoMax>);

#[derive(Clone, Copy)]
enum Throttle {
    ReadBytes,
    WriteBytes,
    ReadOperations,
    WriteOperations,
}

impl Throttles {
    /// A rate of 0 is no limit, as in v1.
    fn add(&mut self, which: Throttle, device: Device, rate: u64) -> Result<()> {
        let io = self.0.entry(device).or_default();
        let bytes = match rate {
            0 => Max::Unlimited,
            rate => Max::Of(rate),
        };
        let operations = || match rate {
            0 => Ok(Max::Unlimited),
            rate => narrow("io_max", rate).map(Max::Of),
        };
        *io = match which {
            Throttle::ReadBytes => io.rbps(bytes),
            Throttle::WriteBytes => io.wbps(bytes),
            Throttle::ReadOperations => io.riops(operations()?),
            Throttle::WriteOperations => io.wiops(operations()?),
        };
        Ok(())
    }

    fn onto(self, limits: Limits) -> Limits {
        let devices = self.0.into_iter();
        devices.fold(limits, |limits, (device, io)| limits.io_max(device, io))
    }
}

/// In the words of a v1 file. -1 is any number.
fn device_rule(
    allow: bool,
    kind: char,
    major: i64,
    minor: i64,
    access: &str,
) -> Result<DeviceRule> {
    let word = if allow { "allow" } else { "deny" };
    let number = |number: i64| match number {
        -1 => "*".to_owned(),
        number => number.to_string(),
    };
    format!("{word} {kind} {}:{} {access}", number(major), number(minor)).parse()
}
