//! What the kernel has, as limits; pure.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::{HugePage, IoMax, Limits, Max, Partition, put};
use crate::controller::Version;
use crate::device::Device;
use crate::error::{Error, Result};

/// The files of one directory.
pub(crate) struct Files<'a> {
    pub(crate) path: &'a Path,
    /// The text of a file; `None` if there is none.
    pub(crate) read: &'a dyn Fn(&str) -> Result<Option<String>>,
}

/// Sizes of huge pages that some machine has.
const HUGE_PAGES: [u64; 6] = [64 << 10, 2 << 20, 32 << 20, 512 << 20, 1 << 30, 16 << 30];
/// What v1, and v2's huge pages before their first write, show for no limit is `i64::MAX`, less a part of a page, which
/// may be a huge one.
const UNLIMITED: u64 = i64::MAX as u64 - (16 << 30);

impl Limits {
    /// Adds the limits that a directory has.
    pub(crate) fn with_those_of(self, files: &Files<'_>, version: Version) -> Result<Self> {
        match version {
            Version::V2 => self
                .v2_cpu(files)?
                .v2_memory(files)?
                .v2_io(files)?
                .v2_rest(files),
            Version::V1 => self
                .v1_cpu(files)?
                .v1_memory(files)?
                .v1_io(files)?
                .v1_rest(files),
        }
    }

    fn v2_cpu(self, files: &Files<'_>) -> Result<Self> {
        let time = files.value("cpu.max", |text| {
            let (quota, period) = text.split_once(' ')?;
            Some((max(quota)?.map(micros), micros(period.parse().ok()?)))
        })?;
        let mut limits = self.given(time, |limits, (quota, period)| {
            limits.cpu_max(quota, period)
        });
        let burst = files.value("cpu.max.burst", number)?;
        limits = limits.given(burst.map(micros), Limits::cpu_max_burst);
        // An idle cgroup shows no weight that could be written.
        let weight = files
            .value("cpu.weight", number)?
            .filter(|weight| *weight != 0);
        limits = limits.given(weight, Limits::cpu_weight);
        limits = limits.given(files.value("cpu.idle", flag)?, Limits::cpu_idle);
        let clamp = files.value("cpu.uclamp.min", max::<f64>)?;
        limits = limits.given(clamp, Limits::cpu_uclamp_min);
        let clamp = files.value("cpu.uclamp.max", max::<f64>)?;
        Ok(limits.given(clamp, Limits::cpu_uclamp_max))
    }

    fn v2_memory(self, files: &Files<'_>) -> Result<Self> {
        let bytes = |file| files.value(file, max::<u64>);
        let limits = self
            .given(bytes("memory.max")?, Limits::memory_max)
            .given(bytes("memory.high")?, Limits::memory_high)
            .given(bytes("memory.low")?, Limits::memory_low)
            .given(bytes("memory.min")?, Limits::memory_min)
            .given(bytes("memory.swap.max")?, Limits::memory_swap_max)
            .given(bytes("memory.swap.high")?, Limits::memory_swap_high)
            .given(bytes("memory.zswap.max")?, Limits::memory_zswap_max);
        let writeback = files.value("memory.zswap.writeback", flag)?;
        let group = files.value("memory.oom.group", flag)?;
        Ok(limits
            .given(writeback, Limits::memory_zswap_writeback)
            .given(group, Limits::memory_oom_group))
    }

    fn v2_io(mut self, files: &Files<'_>) -> Result<Self> {
        for (device, max) in files.lines("io.max", io_max)? {
            self = self.io_max(device, max);
        }
        for (key, weight) in files.lines("io.weight", |line| {
            let (key, weight) = line.split_once(' ')?;
            Some((key.to_owned(), number(weight)?))
        })? {
            self = match key.parse() {
                Ok(device) => self.io_weight_of(device, weight),
                Err(_) => self.io_weight(weight),
            };
        }
        for (device, target) in files.lines("io.latency", |line| {
            let (device, target) = line.split_once(' ')?;
            let target = number(target.strip_prefix("target=")?)?;
            Some((device.parse().ok()?, micros(target)))
        })? {
            self = self.io_latency(device, target);
        }
        Ok(self)
    }

    fn v2_rest(mut self, files: &Files<'_>) -> Result<Self> {
        self = self.cpusets(files)?;
        let exclusive = files.value("cpuset.cpus.exclusive", |text| text.parse().ok())?;
        self = self.given(exclusive, Limits::cpuset_cpus_exclusive);
        let partition = files.value("cpuset.cpus.partition", partition)?;
        self = self.given(partition, Limits::cpuset_partition);
        for page in HUGE_PAGES.map(HugePage) {
            let bytes = files.value(&format!("hugetlb.{page}.max"), rounded_max)?;
            self = self.given(bytes, |limits, bytes| limits.hugetlb_max(page, bytes));
            let bytes = files.value(&format!("hugetlb.{page}.rsvd.max"), rounded_max)?;
            self = self.given(bytes, |limits, bytes| limits.hugetlb_rsvd_max(page, bytes));
        }
        for (region, bytes) in files.lines("dmem.max", word_and_max)? {
            self = self.dmem_max(region, bytes);
        }
        for (region, bytes) in files.lines("dmem.low", word_and_max)? {
            self = self.dmem_low(region, bytes);
        }
        for (region, bytes) in files.lines("dmem.min", word_and_max)? {
            self = self.dmem_min(region, bytes);
        }
        self.counts(files)
    }

    fn v1_cpu(self, files: &Files<'_>) -> Result<Self> {
        let quota = files.value("cpu.cfs_quota_us", number::<i64>)?;
        let period = files.value("cpu.cfs_period_us", number)?;
        let time = quota.zip(period).map(|(quota, period)| {
            // -1 is no limit.
            let quota = u64::try_from(quota).map_or(Max::Unlimited, Max::Of);
            (quota.map(micros), micros(period))
        });
        let burst = files.value("cpu.cfs_burst_us", number)?;
        Ok(self
            .given(time, |limits, (quota, period)| {
                limits.cpu_max(quota, period)
            })
            .given(burst.map(micros), Limits::cpu_max_burst)
            .given(files.value("cpu.shares", number)?, Limits::cpu_shares_oci)
            .given(files.value("cpu.idle", flag)?, Limits::cpu_idle))
    }

    fn v1_memory(self, files: &Files<'_>) -> Result<Self> {
        let memory = files.value("memory.limit_in_bytes", rounded_max)?;
        let total = files.value("memory.memsw.limit_in_bytes", rounded_max)?;
        let swap = total.map(|total| {
            let memory = memory.and_then(Max::limit).unwrap_or(0);
            total.map(|total| total.saturating_sub(memory))
        });
        Ok(self
            .given(memory, Limits::memory_max)
            .given(swap, Limits::memory_swap_max))
    }

    fn v1_io(mut self, files: &Files<'_>) -> Result<Self> {
        let mut found: Vec<(Device, IoMax)> = Vec::new();
        for key in ["read_bps", "write_bps", "read_iops", "write_iops"] {
            let file = format!("blkio.throttle.{key}_device");
            for (device, value) in files.lines(&file, |line| {
                let (device, value) = line.split_once(' ')?;
                Some((device.parse().ok()?, number::<u64>(value)?))
            })? {
                let known = found.iter().find(|(known, _)| *known == device);
                let max = known.map_or(IoMax::new(), |(_, max)| *max);
                let operations = u32::try_from(value).unwrap_or(u32::MAX);
                let max = match key {
                    "read_bps" => max.rbps(value),
                    "write_bps" => max.wbps(value),
                    "read_iops" => max.riops(operations),
                    _ => max.wiops(operations),
                };
                put(&mut found, device, max);
            }
        }
        for (device, max) in found {
            self = self.io_max(device, max);
        }
        Ok(self)
    }

    fn v1_rest(mut self, files: &Files<'_>) -> Result<Self> {
        self = self.cpusets(files)?;
        for page in HUGE_PAGES.map(HugePage) {
            let bytes = files.value(&format!("hugetlb.{page}.limit_in_bytes"), rounded_max)?;
            self = self.given(bytes, |limits, bytes| limits.hugetlb_max(page, bytes));
        }
        self.counts(files)
    }

    /// What has the same name in both.
    fn counts(mut self, files: &Files<'_>) -> Result<Self> {
        let pids = files.value("pids.max", max::<u32>)?;
        self = self.given(pids, Limits::pids_max);
        for (resource, n) in files.lines("misc.max", word_and_max)? {
            self = self.misc_max(resource, n);
        }
        for (device, handles, objects) in files.lines("rdma.max", |line| {
            let mut words = line.split(' ');
            let device = words.next()?.to_owned();
            let handles = max::<u32>(words.next()?.strip_prefix("hca_handle=")?)?;
            let objects = max::<u32>(words.next()?.strip_prefix("hca_object=")?)?;
            Some((device, handles, objects))
        })? {
            self = self.rdma_max(device, handles, objects);
        }
        Ok(self)
    }

    fn cpusets(self, files: &Files<'_>) -> Result<Self> {
        let cpus = files.value("cpuset.cpus", |text| text.parse().ok())?;
        let mems = files.value("cpuset.mems", |text| text.parse().ok())?;
        Ok(self
            .given(cpus, Limits::cpuset_cpus)
            .given(mems, Limits::cpuset_mems))
    }

    fn given<T>(self, value: Option<T>, set: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => set(self, value),
            None => self,
        }
    }
}

impl Files<'_> {
    fn value<T>(&self, file: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(text) = (self.read)(file)? else {
            return Ok(None);
        };
        let value = parse(text.trim_end());
        let value = value.ok_or_else(|| self.not_understood(file, &text))?;
        Ok(Some(value))
    }

    fn lines<T>(&self, file: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
        let text = (self.read)(file)?.unwrap_or_default();
        text.lines()
            .map(|line| parse(line.trim_end()).ok_or_else(|| self.not_understood(file, line)))
            .collect()
    }

    fn not_understood(&self, file: &str, line: &str) -> Error {
        Error::parse(&self.path.join(file), line.trim_end().as_bytes())
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn max<T: FromStr>(text: &str) -> Option<Max<T>> {
    if text == "max" {
        return Some(Max::Unlimited);
    }
    number(text).map(Max::Of)
}

fn rounded_max(text: &str) -> Option<Max<u64>> {
    Some(match max(text)? {
        Max::Of(bytes) if bytes >= UNLIMITED => Max::Unlimited,
        max => max,
    })
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

fn micros(n: u64) -> Duration {
    Duration::from_micros(n)
}

/// One that the kernel declared invalid is still what was asked for.
fn partition(text: &str) -> Option<Partition> {
    match text.split(' ').next()? {
        "member" => Some(Partition::Member),
        "root" => Some(Partition::Root),
        "isolated" => Some(Partition::Isolated),
        _ => None,
    }
}

fn word_and_max(line: &str) -> Option<(String, Max<u64>)> {
    let (word, value) = line.split_once(' ')?;
    Some((word.to_owned(), max(value)?))
}

fn io_max(line: &str) -> Option<(Device, IoMax)> {
    let mut words = line.split(' ');
    let device = words.next()?.parse().ok()?;
    let mut limits = IoMax::new();
    for word in words {
        let (key, value) = word.split_once('=')?;
        limits = match key {
            "rbps" => limits.rbps(max::<u64>(value)?),
            "wbps" => limits.wbps(max::<u64>(value)?),
            "riops" => limits.riops(max::<u32>(value)?),
            "wiops" => limits.wiops(max::<u32>(value)?),
            // Of a later kernel.
            _ => limits,
        };
    }
    Some((device, limits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn read(table: &[(&str, &str)], version: Version) -> Result<Limits> {
        let read = |file: &str| {
            let found = table.iter().find(|(name, _)| *name == file);
            Ok(found.map(|(_, text)| (*text).to_owned()))
        };
        let files = Files {
            path: Path::new("/cgroup"),
            read: &read,
        };
        Limits::new().with_those_of(&files, version)
    }

    #[test]
    fn files_of_v2_are_the_limits_that_wrote_them() {
        let table = [
            ("cpu.max", "max 100000\n"),
            ("cpu.max.burst", "0\n"),
            ("cpu.weight", "100\n"),
            ("cpu.idle", "0\n"),
            ("cpu.uclamp.min", "12.50\n"),
            ("cpu.uclamp.max", "max\n"),
            ("cpuset.cpus", "\n"),
            ("cpuset.mems", "0-1\n"),
            ("cpuset.cpus.exclusive", "1\n"),
            ("cpuset.cpus.partition", "root invalid (reason)\n"),
            ("memory.max", "67108864\n"),
            ("memory.high", "max\n"),
            ("memory.low", "0\n"),
            ("memory.min", "0\n"),
            ("memory.swap.max", "0\n"),
            ("memory.oom.group", "1\n"),
            ("io.max", "8:0 rbps=max wbps=7 riops=max wiops=3\n"),
            ("io.weight", "default 50\n8:16 200\n"),
            ("io.latency", "8:0 target=5000\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.1GB.max", "1073741824\n"),
            ("pids.max", "9\n"),
            ("rdma.max", "mlx5_0 hca_handle=2 hca_object=max\n"),
            ("misc.max", "sev 3\n"),
            ("dmem.low", "a/b 4\n"),
        ];
        let limits = read(&table, Version::V2).unwrap();
        assert!(limits.validate().is_ok());
        let written = limits.settings_v2();
        for (file, text) in table {
            let mine: Vec<_> = written.iter().filter(|(name, _)| name == file).collect();
            let mine: Vec<_> = mine.iter().map(|(_, value)| value.trim_end()).collect();
            let text = text.trim_end().replace(" invalid (reason)", "");
            assert_eq!(mine.join("\n"), text, "{file}");
        }
    }

    #[test]
    fn files_of_v1_are_read_in_their_own_terms() {
        let unlimited = "9223372036854771712\n";
        let table = [
            ("cpu.cfs_quota_us", "-1\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.shares", "512\n"),
            ("memory.limit_in_bytes", "67108864\n"),
            ("memory.memsw.limit_in_bytes", "68157440\n"),
            ("blkio.throttle.read_bps_device", "8:0 5\n"),
            ("blkio.throttle.write_iops_device", "8:0 6\n"),
            ("hugetlb.2MB.limit_in_bytes", unlimited),
            ("pids.max", "max\n"),
        ];
        let limits = read(&table, Version::V1).unwrap();
        let max = IoMax::new().rbps(5_u64).wiops(6_u32);
        let expected = Limits::new()
            .cpu_max(Max::Unlimited, micros(100_000))
            .cpu_shares_oci(512)
            .memory_max(64 << 20)
            .memory_swap_max(1 << 20)
            .io_max(Device::number(8, 0), max)
            .hugetlb_max(HugePage::MB2, Max::Unlimited)
            .pids_max(Max::Unlimited);
        assert_eq!(limits, expected);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for row in [
            ("cpu.max", "fast\n"),
            ("memory.max", "\n"),
            ("io.max", "8:0 rbps\n"),
            ("cpuset.cpus.partition", "half\n"),
        ] {
            let error = read(&[row], Version::V2).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed);
            assert!(error.to_string().contains(row.0), "{error}");
        }
    }
}
