//! The cost model behind `io.weight`, which the whole machine shares.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::controller::Controller;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::hierarchy::Hierarchy;

/// When the cost model of [`Hierarchy::io_cost_qos`] slows a device down. What is not given stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct IoCostQos {
    enable: Option<bool>,
    auto: Option<bool>,
    read: Option<Latency>,
    write: Option<Latency>,
    scale: Option<(f64, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Latency {
    percentile: f64,
    time: Duration,
}

/// What a device can do, for [`Hierarchy::io_cost_model`]: the linear model of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[must_use]
pub struct IoCostModel {
    read: Option<[u64; 3]>,
    write: Option<[u64; 3]>,
}

impl IoCostQos {
    /// Nothing given.
    pub fn new() -> Self {
        IoCostQos::default()
    }

    /// Whether the device has weights at all (`enable`).
    pub fn enable(mut self, enable: bool) -> Self {
        self.enable = Some(enable);
        self
    }

    /// Takes the kernel's own parameters for this sort of device (`ctrl=auto`) or those given here (`ctrl=user`).
    pub fn auto(mut self, auto: bool) -> Self {
        self.auto = Some(auto);
        self
    }

    /// The device is taken for saturated if this percentile of reads (0 to 100) takes longer than `time` (`rpct`,
    /// `rlat`; in whole microseconds).
    pub fn read(mut self, percentile: f64, time: Duration) -> Self {
        self.read = Some(Latency { percentile, time });
        self
    }

    /// The same for writes (`wpct`, `wlat`).
    pub fn write(mut self, percentile: f64, time: Duration) -> Self {
        self.write = Some(Latency { percentile, time });
        self
    }

    /// How far below and above the model the kernel may go, in percent of it, 1 to 10000 (`min`, `max`).
    pub fn scale(mut self, min: f64, max: f64) -> Self {
        self.scale = Some((min, max));
        self
    }

    fn validate(&self) -> Result<()> {
        for latency in self.read.iter().chain(&self.write) {
            if !(0.0..=100.0).contains(&latency.percentile) {
                let reason = "its percentile is not within 0 and 100";
                return Err(Error::limit("io_cost_qos", latency.percentile, reason));
            }
            if latency.time.as_micros() > u128::from(u32::MAX) {
                let value = latency.time.as_micros();
                return Err(Error::limit("io_cost_qos", value, "its time is too long"));
            }
        }
        match self.scale {
            // Written so that NaN fails.
            Some((min, max)) if !(1.0 <= min && min <= max && max <= 10_000.0) => {
                let reason = "is not 1 to 10000 percent, the smaller first";
                let value = format!("{min} {max}");
                Err(Error::limit("io_cost_qos", value, reason))
            }
            _ => Ok(()),
        }
    }

    fn line(&self, device: Device) -> String {
        let mut line = Line(device.to_string());
        line.add("enable", self.enable.map(u8::from));
        line.add("ctrl", self.auto.map(control));
        for (latency, [percentile, time]) in [
            (self.read, ["rpct", "rlat"]),
            (self.write, ["wpct", "wlat"]),
        ] {
            line.add(percentile, latency.map(|l| format!("{:.2}", l.percentile)));
            line.add(time, latency.map(|l| l.time.as_micros()));
        }
        line.add("min", self.scale.map(|(min, _)| format!("{min:.2}")));
        line.add("max", self.scale.map(|(_, max)| format!("{max:.2}")));
        line.0
    }
}

impl IoCostModel {
    /// The kernel's own model for this sort of device (`ctrl=auto`).
    pub fn new() -> Self {
        IoCostModel::default()
    }

    /// What it reads: bytes a second, sequential and random operations of 4 KiB a second.
    pub fn read(mut self, bps: u64, sequential_iops: u64, random_iops: u64) -> Self {
        self.read = Some([bps, sequential_iops, random_iops]);
        self
    }

    /// What it writes, in the same.
    pub fn write(mut self, bps: u64, sequential_iops: u64, random_iops: u64) -> Self {
        self.write = Some([bps, sequential_iops, random_iops]);
        self
    }

    fn validate(&self) -> Result<()> {
        let numbers = self.read.iter().chain(&self.write).flatten();
        if numbers.into_iter().any(|number| *number == 0) {
            return Err(Error::limit("io_cost_model", 0, "is no speed"));
        }
        Ok(())
    }

    fn line(&self, device: Device) -> String {
        let mut line = Line(device.to_string());
        let auto = self.read.is_none() && self.write.is_none();
        line.add("ctrl", Some(control(auto)));
        for (numbers, keys) in [
            (self.read, ["rbps", "rseqiops", "rrandiops"]),
            (self.write, ["wbps", "wseqiops", "wrandiops"]),
        ] {
            if numbers.is_some() {
                line.add("model", (!line.0.contains("model=")).then_some("linear"));
            }
            for (at, key) in keys.into_iter().enumerate() {
                line.add(key, numbers.map(|numbers| numbers[at]));
            }
        }
        line.0
    }
}

impl Hierarchy {
    /// Says when a device counts as saturated, for `io.weight` to share it out, by `io.cost.qos` of the root cgroup
    /// (Linux 5.4). This is a setting of the whole machine: it holds for every cgroup, until it is changed.
    ///
    /// # Errors
    /// `InvalidInput` for a percentage that cannot be, `Unsupported` if the kernel has no cost model, if v1 has the
    /// controller, or if the top that can be seen here is not the root of the whole tree. `NotFound` (`ENODEV`) if
    /// there is no such disk.
    #[doc(alias = "io.cost.qos")]
    pub fn io_cost_qos(&self, device: Device, qos: &IoCostQos) -> Result<()> {
        qos.validate()?;
        self.write_to_root("io_cost_qos", "io.cost.qos", &qos.line(device))
    }

    /// Says what a device can do, by `io.cost.model` of the root cgroup: as [`Hierarchy::io_cost_qos`].
    ///
    /// # Errors
    /// As [`Hierarchy::io_cost_qos`].
    #[doc(alias = "io.cost.model")]
    pub fn io_cost_model(&self, device: Device, model: &IoCostModel) -> Result<()> {
        model.validate()?;
        self.write_to_root("io_cost_model", "io.cost.model", &model.line(device))
    }

    fn write_to_root(&self, what: &'static str, file: &str, line: &str) -> Result<()> {
        let v2 = self.v2.as_ref().map(|mount| &mount.root);
        let root = v2.ok_or_else(|| Error::no_controller(what, Controller::Io.name()))?;
        match root.write(file, line) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::NOENT) => Err(Error::no_file(what, root.file_path(file))),
            Err(errno) => Err(Error::write(root.file_path(file), line, errno)),
        }
    }
}

fn control(auto: bool) -> &'static str {
    if auto { "auto" } else { "user" }
}

/// A line of `key=value` words.
struct Line(String);

impl Line {
    fn add(&mut self, key: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _written = write!(self.0, " {key}={value}").is_ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_lines_render() {
        let disk = Device::number(8, 0);
        let ms = Duration::from_millis;
        let qos = IoCostQos::new().enable(true).auto(false);
        let qos = qos.read(95.0, ms(5)).write(99.5, ms(10)).scale(50.0, 150.0);
        assert_eq!(
            qos.line(disk),
            "8:0 enable=1 ctrl=user rpct=95.00 rlat=5000 wpct=99.50 wlat=10000 min=50.00 max=150.00"
        );
        assert_eq!(IoCostQos::new().enable(false).line(disk), "8:0 enable=0");
        assert_eq!(IoCostModel::new().line(disk), "8:0 ctrl=auto");
        let model = IoCostModel::new().read(3, 2, 1).write(6, 5, 4);
        assert_eq!(
            model.line(disk),
            "8:0 ctrl=user model=linear rbps=3 rseqiops=2 rrandiops=1 wbps=6 wseqiops=5 wrandiops=4"
        );
    }

    #[test]
    fn costs_that_cannot_be_are_refused() {
        let ms = Duration::from_millis;
        for qos in [
            IoCostQos::new().read(101.0, ms(1)),
            IoCostQos::new().write(f64::NAN, ms(1)),
            IoCostQos::new().read(1.0, Duration::MAX),
            IoCostQos::new().scale(100.0, 50.0),
            IoCostQos::new().scale(0.0, f64::NAN),
        ] {
            assert!(qos.validate().is_err(), "{qos:?}");
        }
        assert!(IoCostModel::new().read(0, 1, 1).validate().is_err());
    }
}
