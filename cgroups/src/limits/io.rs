//! Block devices.

use std::time::Duration;

use super::cpu::check_weight;
use super::setting::{Rendering, Setting};
use super::{Limits, Max, put};
use crate::controller::Version;
use crate::device::Device;
use crate::error::{Error, Result};

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub(super) struct Io {
    max: Vec<(Device, IoMax)>,
    weight: Option<Weight>,
    weights: Vec<(Device, u16)>,
    latency: Vec<(Device, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
enum Weight {
    Own(u16),
    /// The `blkio.weight` of v1.
    Oci(u16),
}

/// Limits for one block device, for [`Limits::io_max`]. What is not given stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[must_use]
pub struct IoMax {
    rbps: Option<Max<u64>>,
    wbps: Option<Max<u64>>,
    riops: Option<Max<u32>>,
    wiops: Option<Max<u32>>,
}

impl IoMax {
    /// None of the limits.
    pub fn new() -> Self {
        IoMax::default()
    }

    /// Bytes read in a second.
    pub fn rbps(mut self, bytes: impl Into<Max<u64>>) -> Self {
        self.rbps = Some(bytes.into());
        self
    }

    /// Bytes written in a second.
    pub fn wbps(mut self, bytes: impl Into<Max<u64>>) -> Self {
        self.wbps = Some(bytes.into());
        self
    }

    /// Read operations in a second.
    pub fn riops(mut self, operations: impl Into<Max<u32>>) -> Self {
        self.riops = Some(operations.into());
        self
    }

    /// Write operations in a second.
    pub fn wiops(mut self, operations: impl Into<Max<u32>>) -> Self {
        self.wiops = Some(operations.into());
        self
    }

    /// Name in `io.max`, file of v1, value.
    fn parts(&self) -> [(&'static str, &'static str, Option<Max<u64>>); 4] {
        let wide = |max: Option<Max<u32>>| max.map(|max| max.map(u64::from));
        [
            ("rbps", "blkio.throttle.read_bps_device", self.rbps),
            ("wbps", "blkio.throttle.write_bps_device", self.wbps),
            ("riops", "blkio.throttle.read_iops_device", wide(self.riops)),
            (
                "wiops",
                "blkio.throttle.write_iops_device",
                wide(self.wiops),
            ),
        ]
    }
}

impl Limits {
    /// Limits what is read from and written to a device, with one write to `io.max`; on v1 with the
    /// `blkio.throttle` files. Once a device; a second call for it replaces the first.
    #[doc(alias = "io.max")]
    pub fn io_max(mut self, device: Device, max: IoMax) -> Self {
        put(&mut self.io.max, device, max);
        self
    }

    /// The share of device time where there is not enough for all, 1 to 10000 against the siblings' 100, with
    /// `io.weight`; where only the BFQ scheduler weighs, with `io.bfq.weight`, 1 to 1000: 100 stays 100, what is above
    /// is brought into its range. Replaces [`Limits::blkio_weight_oci`].
    #[doc(alias = "io.weight")]
    pub fn io_weight(mut self, weight: u16) -> Self {
        self.io.weight = Some(Weight::Own(weight));
        self
    }

    /// The same for one device. The kernel refuses it (`EOPNOTSUPP`) for a device without weights.
    pub fn io_weight_of(mut self, device: Device, weight: u16) -> Self {
        put(&mut self.io.weights, device, weight);
        self
    }

    /// The weight for the `blkio.weight` of an OCI configuration, 10 to 1000: `1 + (weight - 10) * 9999 / 990` in
    /// `io.weight`; the number itself in v1 and `io.bfq.weight`. 0 asks for nothing. Replaces [`Limits::io_weight`].
    #[doc(alias = "blkio.weight")]
    pub fn blkio_weight_oci(mut self, weight: u16) -> Self {
        self.io.weight = (weight != 0).then_some(Weight::Oci(weight));
        self
    }

    /// Slows others down where the cgroup waits longer than `target` for this device, with `io.latency`. Only in
    /// kernels with `CONFIG_BLK_CGROUP_IOLATENCY`. Zero takes it away. Not in v1.
    #[doc(alias = "io.latency")]
    pub fn io_latency(mut self, device: Device, target: Duration) -> Self {
        put(&mut self.io.latency, device, target);
        self
    }
}

impl Io {
    pub(super) fn validate(&self) -> Result<()> {
        for (device, max) in &self.max {
            check_io_max(*device, max)?;
        }
        match self.weight {
            Some(Weight::Own(weight)) => check_weight("io_weight", weight)?,
            Some(Weight::Oci(weight)) if !(10..=1000).contains(&weight) => {
                let reason = "is not within 10 and 1000";
                return Err(Error::limit("blkio_weight_oci", weight, reason));
            }
            _ => {}
        }
        for (_, weight) in &self.weights {
            check_weight("io_weight_of", *weight)?;
        }
        for (device, target) in &self.latency {
            if u64::try_from(target.as_micros()).is_err() {
                return Err(Error::limit("io_latency", device, "is too long"));
            }
        }
        Ok(())
    }

    pub(super) fn render(&self, version: Version, out: &mut Rendering) {
        match version {
            Version::V1 => self.render_v1(out),
            Version::V2 => self.render_v2(out),
        }
    }

    fn render_v2(&self, out: &mut Rendering) {
        for (device, max) in &self.max {
            let given = max.parts().into_iter();
            let value = given
                .filter_map(|(key, _, max)| max.map(|max| format!(" {key}={max}")))
                .collect::<String>();
            let none = format!("{device} rbps=max wbps=max riops=max wiops=max");
            let setting = Setting::new("io_max", "io.max", format!("{device}{value}"));
            out.write(setting.of_line(device, none));
        }
        if let Some(weight) = self.weight {
            let (limit, value) = (weight.limit(), format!("default {}", weight.io()));
            let setting = Setting::new(limit, "io.weight", value);
            let setting = setting.of_line("default", "default 100");
            out.write(setting.or_instead("io.bfq.weight", weight.bfq()));
        }
        for (device, weight) in &self.weights {
            let setting = Setting::new("io_weight_of", "io.weight", format!("{device} {weight}"));
            let setting = setting.of_line(device, format!("{device} default"));
            let bfq = format!("{device} {}", Weight::Own(*weight).bfq());
            out.write(setting.or_instead("io.bfq.weight", bfq));
        }
        for (device, target) in &self.latency {
            let value = format!("{device} target={}", target.as_micros());
            let setting = Setting::new("io_latency", "io.latency", value);
            out.write(setting.of_line(device, format!("{device} target=0")));
        }
    }

    fn render_v1(&self, out: &mut Rendering) {
        for (device, max) in &self.max {
            for (_, file, max) in max.parts() {
                let Some(max) = max else { continue };
                let setting = Setting::new("io_max", file, format!("{device} {}", max.or("0")));
                out.write(setting.of_line(device, format!("{device} 0")));
            }
        }
        if let Some(weight) = self.weight {
            let setting = Setting::new(weight.limit(), "blkio.bfq.weight", weight.bfq());
            out.write(setting.or_instead("blkio.weight", weight.bfq().max(10)));
        }
        for (device, weight) in &self.weights {
            let weight = Weight::Own(*weight).bfq();
            let value = format!("{device} {weight}");
            let setting = Setting::new("io_weight_of", "blkio.bfq.weight_device", value);
            let setting = setting.of_line(device, format!("{device} 0"));
            let cfq = format!("{device} {}", weight.max(10));
            out.write(setting.or_instead("blkio.weight_device", cfq));
        }
        out.not_in_v1("io_latency", !self.latency.is_empty());
    }
}

impl Weight {
    fn limit(self) -> &'static str {
        match self {
            Weight::Own(_) => "io_weight",
            Weight::Oci(_) => "blkio_weight_oci",
        }
    }

    /// In 1..=10000.
    fn io(self) -> u32 {
        match self {
            Weight::Own(weight) => weight.into(),
            Weight::Oci(weight) => 1 + (u32::from(weight).saturating_sub(10)) * 9999 / 990,
        }
    }

    /// In 1..=1000, where 100 is the default as well.
    fn bfq(self) -> u32 {
        match self {
            Weight::Oci(weight) => weight.into(),
            Weight::Own(weight @ 0..=100) => weight.into(),
            Weight::Own(weight) => 100 + (u32::from(weight) - 100) * 900 / 9900,
        }
    }
}

fn check_io_max(device: Device, max: &IoMax) -> Result<()> {
    let mut given = max.parts().into_iter().filter_map(|(key, _, max)| {
        let max = max?;
        Some((key, max))
    });
    let mut any = false;
    let zero = given.find(|(_, max)| {
        any = true;
        *max == Max::Of(0)
    });
    if let Some((key, _)) = zero {
        let reason = "would stop all of it; the least is 1";
        return Err(Error::limit("io_max", format!("{device} {key}=0"), reason));
    }
    if !any {
        return Err(Error::limit("io_max", device, "has no limit in it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_convert_without_overflow() {
        for (oci, io) in [(10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
            assert_eq!(Weight::Oci(oci).io(), io);
            assert_eq!(Weight::Oci(oci).bfq(), u32::from(oci));
        }
        for (io, bfq) in [(1, 1), (100, 100), (101, 100), (5050, 550), (10_000, 1000)] {
            assert_eq!(Weight::Own(io).bfq(), bfq);
        }
    }
}
