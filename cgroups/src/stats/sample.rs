//! One sample, and how it comes out of each of the kernel's files; pure.

use std::time::Duration;

use super::scan::{self, Scanned};

/// What a cgroup, with all cgroups inside it, uses and has used, as of one moment: [`Stats::sample`](crate::Stats::sample).
///
/// What the cgroup's kernel does not say is `None`: a controller that is not enabled for it, a file of a later kernel,
/// what v1 does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sample {
    /// CPU time used.
    pub cpu: Option<CpuTime>,
    /// How a CPU limit held it back. On v2 it takes the `cpu` controller.
    pub throttling: Option<Throttling>,
    /// Memory, without what is swapped out. It takes the `memory` controller, as does swap.
    pub memory: Option<MemoryUse>,
    /// Swap. `None` without swap accounting.
    pub swap: Option<SwapUse>,
    /// Processes and threads. It takes the `pids` controller.
    pub pids: Option<PidsUse>,
    /// Input and output of block devices, all added up. It takes the `io` controller.
    pub io: Option<IoCount>,
}

/// CPU time since the cgroup was made, of all CPUs together: `cpu.stat`, on v1 `cpuacct.usage` and `cpuacct.stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuTime {
    /// All of it.
    pub usage: Duration,
    /// In programs. On v1 in steps of 10 ms.
    pub user: Duration,
    /// In the kernel. On v1 in steps of 10 ms.
    pub system: Duration,
}

/// What a CPU limit did since the cgroup was made: `cpu.stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Throttling {
    /// Periods in which it had something to run.
    pub periods: u64,
    /// Those of them in which it used its quota up.
    pub throttled_periods: u64,
    /// How long its CPUs were held back, all CPUs added up.
    pub throttled: Duration,
    /// Periods in which it used what it had saved before. Since Linux 5.14.
    pub bursts: u64,
    /// How much of it. Since Linux 5.14.
    pub burst: Duration,
}

/// Memory in bytes: `memory.current`, `memory.peak` and `memory.events`; on v1 `memory.usage_in_bytes`,
/// `memory.max_usage_in_bytes`, `memory.failcnt` and `memory.oom_control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// In use.
    pub current: u64,
    /// The most that ever was. Since Linux 5.19, on v1 always.
    pub peak: Option<u64>,
    /// What happened for lack of it.
    pub events: MemoryEvents,
}

/// How often what happened for lack of memory, with cgroups inside it: `memory.events`.
///
/// v1 has `max` (`memory.failcnt`, with that of `memory.memsw`) and `oom_kill` (of `memory.oom_control`), without those of
/// cgroups inside it. Some kernels, such as 6.18, do not count in `memory.failcnt`: it stays 0 even if its processes are
/// killed for the limit. `oom_kill` can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryEvents {
    /// Reclaimed although below `memory.low`.
    pub low: Option<u64>,
    /// Slowed down and reclaimed for `memory.high`.
    pub high: Option<u64>,
    /// Was about to go beyond `memory.max`.
    pub max: Option<u64>,
    /// Could not get memory even by reclaim.
    pub oom: Option<u64>,
    /// Processes that the OOM killer ended. With `memory.oom.group` the kernel counts more than there were.
    pub oom_kill: Option<u64>,
    /// Times the OOM killer ended the whole cgroup. Since Linux 5.17.
    pub oom_group_kill: Option<u64>,
}

/// Swap in bytes: `memory.swap.current`, `memory.swap.peak`, `memory.zswap.current`; on v1
/// `memory.memsw.usage_in_bytes` less the memory in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SwapUse {
    /// In use.
    pub current: u64,
    /// The most that ever was. Since Linux 6.5; not on v1.
    pub peak: Option<u64>,
    /// Memory that compressed swapped pages take. Since Linux 5.19 with zswap; not on v1.
    pub zswap: Option<u64>,
}

/// Processes and threads: `pids.current`, `pids.peak`, `pids.events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PidsUse {
    /// How many there are.
    pub current: u64,
    /// The most that ever were. Since Linux 6.1.
    pub peak: Option<u64>,
    /// How often fork(2) or clone(2) failed because of `pids.max`, its own; before Linux 6.11
    /// also that of a cgroup above.
    pub max_events: Option<u64>,
}

/// Input and output of block devices since the cgroup was made: `io.stat`, on v1 `blkio.throttle.io_service_bytes` and
/// `io_serviced`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoCount {
    /// Bytes read.
    pub rbytes: u64,
    /// Bytes written.
    pub wbytes: u64,
    /// Reads.
    pub rios: u64,
    /// Writes.
    pub wios: u64,
    /// Bytes discarded.
    pub dbytes: u64,
    /// Discards.
    pub dios: u64,
}

impl Sample {
    pub(crate) fn cpu_stat<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        for line in scan::keyed(text) {
            let line = line?;
            match line.key {
                b"usage_usec" => self.cpu().usage = micros(line.number()?),
                b"user_usec" => self.cpu().user = micros(line.number()?),
                b"system_usec" => self.cpu().system = micros(line.number()?),
                b"nr_periods" => self.throttling().periods = line.number()?,
                b"nr_throttled" => self.throttling().throttled_periods = line.number()?,
                b"throttled_usec" => self.throttling().throttled = micros(line.number()?),
                // Of v1, where they are nanoseconds.
                b"throttled_time" => self.throttling().throttled = nanos(line.number()?),
                b"nr_bursts" => self.throttling().bursts = line.number()?,
                b"burst_usec" => self.throttling().burst = micros(line.number()?),
                b"burst_time" => self.throttling().burst = nanos(line.number()?),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn cpuacct_usage<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        self.cpu().usage = nanos(scan::single(text)?);
        Ok(())
    }

    pub(crate) fn cpuacct_stat<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        for line in scan::keyed(text) {
            let line = line?;
            match line.key {
                b"user" => self.cpu().user = ticks(line.number()?),
                b"system" => self.cpu().system = ticks(line.number()?),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn memory_current<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        self.memory().current = scan::single(text)?;
        Ok(())
    }

    pub(crate) fn memory_peak<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        self.memory().peak = Some(scan::single(text)?);
        Ok(())
    }

    pub(crate) fn memory_events<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        self.memory().events.scan(text)
    }

    /// Of v1: that of memory, or that of memory and swap together, whichever limit was in the way.
    pub(crate) fn memory_failcnt<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        let max = &mut self.memory().events.max;
        *max = Some(max.unwrap_or(0).saturating_add(scan::single(text)?));
        Ok(())
    }

    pub(crate) fn swap_current<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        self.swap().current = scan::single(text)?;
        Ok(())
    }

    /// After the memory: the two are not of one moment, so the difference may be a little off.
    pub(crate) fn memsw_usage<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        let memory = self.memory().current;
        self.swap().current = scan::single(text)?.saturating_sub(memory);
        Ok(())
    }

    pub(crate) fn swap_peak<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        self.swap().peak = Some(scan::single(text)?);
        Ok(())
    }

    pub(crate) fn zswap_current<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        self.swap().zswap = Some(scan::single(text)?);
        Ok(())
    }

    pub(crate) fn pids_current<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        self.pids().current = scan::single(text)?;
        Ok(())
    }

    pub(crate) fn pids_peak<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        self.pids().peak = Some(scan::single(text)?);
        Ok(())
    }

    pub(crate) fn pids_events<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        self.pids().max_events = Some(max_events(text)?);
        Ok(())
    }

    pub(crate) fn io_stat<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        let io = self.io();
        each_io(text, |_, count| io.add(count))
    }

    pub(crate) fn blkio_bytes<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        let io = self.io();
        each_blkio(text, |_, count| {
            (io.rbytes, io.wbytes, io.dbytes) = (
                io.rbytes.saturating_add(count.rbytes),
                io.wbytes.saturating_add(count.wbytes),
                io.dbytes.saturating_add(count.dbytes),
            );
        })
    }

    pub(crate) fn blkio_serviced<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        let io = self.io();
        each_blkio(text, |_, count| io.add(count.as_operations()))
    }

    fn cpu(&mut self) -> &mut CpuTime {
        self.cpu.get_or_insert_default()
    }

    fn throttling(&mut self) -> &mut Throttling {
        self.throttling.get_or_insert_default()
    }

    fn memory(&mut self) -> &mut MemoryUse {
        self.memory.get_or_insert_default()
    }

    fn swap(&mut self) -> &mut SwapUse {
        self.swap.get_or_insert_default()
    }

    fn pids(&mut self) -> &mut PidsUse {
        self.pids.get_or_insert_default()
    }

    fn io(&mut self) -> &mut IoCount {
        self.io.get_or_insert_default()
    }
}

impl MemoryEvents {
    /// From `memory.events` or, of v1, `memory.oom_control`.
    pub(crate) fn scan<'t>(&mut self, text: &'t [u8]) -> Scanned<'t> {
        for line in scan::keyed(text) {
            let line = line?;
            let slot = match line.key {
                b"low" => &mut self.low,
                b"high" => &mut self.high,
                b"max" => &mut self.max,
                b"oom" => &mut self.oom,
                b"oom_kill" => &mut self.oom_kill,
                b"oom_group_kill" => &mut self.oom_group_kill,
                _ => continue,
            };
            *slot = Some(line.number()?);
        }
        Ok(())
    }
}

impl IoCount {
    pub(crate) fn add(&mut self, other: IoCount) {
        // A device list that does not fit 64 bits is none of the kernel's, but it must not end the program.
        self.rbytes = self.rbytes.saturating_add(other.rbytes);
        self.wbytes = self.wbytes.saturating_add(other.wbytes);
        self.rios = self.rios.saturating_add(other.rios);
        self.wios = self.wios.saturating_add(other.wios);
        self.dbytes = self.dbytes.saturating_add(other.dbytes);
        self.dios = self.dios.saturating_add(other.dios);
    }

    /// Of a v1 file that has numbers of operations in the form of bytes.
    pub(crate) fn as_operations(self) -> Self {
        IoCount {
            rios: self.rbytes,
            wios: self.wbytes,
            dios: self.dbytes,
            ..IoCount::default()
        }
    }
}

/// `max` of a `pids.events`, of a hugetlb events file.
pub(crate) fn max_events(text: &[u8]) -> Scanned<'_, u64> {
    for line in scan::keyed(text) {
        let line = line?;
        if line.key == b"max" {
            return line.number();
        }
    }
    Err(text)
}

/// Each device of an `io.stat`. The kernel may leave devices without numbers on the line of the next one, and has more
/// keys for those with a cost model.
pub(crate) fn each_io<'t>(
    text: &'t [u8],
    mut tell: impl FnMut((u32, u32), IoCount),
) -> Scanned<'t> {
    for line in scan::lines(text) {
        let mut device = None;
        let mut count = IoCount::default();
        for word in scan::words(line) {
            match scan::split(word, b'=') {
                Some((key, value)) => one_io(&mut count, key, value).ok_or(line)?,
                None => device = Some(scan::device(word).ok_or(line)?),
            }
        }
        tell(device.ok_or(line)?, count);
    }
    Ok(())
}

fn one_io(count: &mut IoCount, key: &[u8], value: &[u8]) -> Option<()> {
    let slot = match key {
        b"rbytes" => &mut count.rbytes,
        b"wbytes" => &mut count.wbytes,
        b"rios" => &mut count.rios,
        b"wios" => &mut count.wios,
        b"dbytes" => &mut count.dbytes,
        b"dios" => &mut count.dios,
        _ => return Some(()),
    };
    *slot = scan::number(value)?;
    Some(())
}

/// Each number of a v1 file, `8:0 Read 4096`, as bytes of its kind. The sums, and sync and async, say it again.
pub(crate) fn each_blkio<'t>(
    text: &'t [u8],
    mut tell: impl FnMut((u32, u32), IoCount),
) -> Scanned<'t> {
    for line in scan::lines(text) {
        let mut words = scan::words(line);
        let (Some(device), Some(kind)) = (words.next(), words.next()) else {
            return Err(line);
        };
        if device == b"Total" {
            continue;
        }
        let device = scan::device(device).ok_or(line)?;
        let bytes = words.next().and_then(scan::number).ok_or(line)?;
        let mut count = IoCount::default();
        match kind {
            b"Read" => count.rbytes = bytes,
            b"Write" => count.wbytes = bytes,
            b"Discard" => count.dbytes = bytes,
            _ => continue,
        }
        tell(device, count);
    }
    Ok(())
}

fn micros(number: u64) -> Duration {
    Duration::from_micros(number)
}

fn nanos(number: u64) -> Duration {
    Duration::from_nanos(number)
}

/// `USER_HZ`, which is 100 on every machine this runs on.
fn ticks(number: u64) -> Duration {
    Duration::from_millis(number.saturating_mul(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_v2_as_captured() {
        let mut sample = Sample::default();
        let text = include_bytes!("../../tests/data/v2/cpu.stat");
        sample.cpu_stat(text).unwrap();
        let cpu = sample.cpu.unwrap();
        assert_eq!(cpu.usage, Duration::from_micros(18_653_070));
        assert_eq!(cpu.user + cpu.system, cpu.usage - Duration::from_micros(1));
        let throttling = sample.throttling.unwrap();
        assert_eq!(
            (throttling.periods, throttling.throttled_periods),
            (932, 932)
        );
        assert_eq!(throttling.throttled, Duration::from_micros(74_316_052));
        assert_eq!((throttling.bursts, throttling.burst), (0, Duration::ZERO));
        let text = include_bytes!("../../tests/data/v2/memory.events");
        sample.memory_events(text).unwrap();
        let events = sample.memory.unwrap().events;
        assert_eq!((events.low, events.oom_group_kill), (Some(0), Some(0)));
        let text = include_bytes!("../../tests/data/v2/pids.events");
        sample.pids_events(text).unwrap();
        assert_eq!(sample.pids.unwrap().max_events, Some(0));
        assert_eq!(sample.io, None);
    }

    #[test]
    fn a_sample_of_v1_as_captured() {
        let mut sample = Sample::default();
        sample.cpuacct_usage(b"1234567890\n").unwrap();
        let text = include_bytes!("../../tests/data/v1/cpuacct.stat");
        sample.cpuacct_stat(text).unwrap();
        let cpu = sample.cpu.unwrap();
        assert_eq!(cpu.usage, Duration::from_nanos(1_234_567_890));
        assert_eq!(cpu.user, Duration::from_millis(912_890));
        sample
            .cpu_stat(b"nr_periods 3\nnr_throttled 2\nthrottled_time 1500\n")
            .unwrap();
        assert_eq!(
            sample.throttling.unwrap().throttled,
            Duration::from_nanos(1500)
        );
        let text = include_bytes!("../../tests/data/v1/memory.oom_control");
        sample.memory_events(text).unwrap();
        let events = sample.memory.unwrap().events;
        assert_eq!((events.oom, events.oom_kill), (None, Some(0)));
    }

    #[test]
    fn swap_of_v1_is_what_is_beyond_the_memory() {
        let mut sample = Sample::default();
        sample.memory_current(b"4096\n").unwrap();
        sample.memsw_usage(b"12288\n").unwrap();
        assert_eq!(sample.swap.unwrap().current, 8192);
        sample.memsw_usage(b"0\n").unwrap();
        assert_eq!(sample.swap.unwrap().current, 0);
    }

    #[test]
    fn io_is_added_up_over_devices_and_keys_of_later_kernels_are_left() {
        let text =
            b"254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0 cost.vrate=98.00\n\
            7:1 7:0 8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n9:0 \n";
        let mut sample = Sample::default();
        sample.io_stat(text).unwrap();
        let io = sample.io.unwrap();
        assert_eq!((io.rbytes, io.wbytes, io.rios), (4097, 8194, 4));
        assert_eq!((io.wios, io.dbytes, io.dios), (6, 5, 6));
        let mut devices = Vec::new();
        each_io(text, |device, _| devices.push(device)).unwrap();
        assert_eq!(devices, [(254, 0), (8, 0), (9, 0)]);
        for bad in [
            &b"rbytes=1"[..],
            b"8:0 rbytes=x",
            b"sda rbytes=1",
            b"8:0 rbytes=",
        ] {
            assert_eq!(Sample::default().io_stat(bad), Err(bad));
        }
    }

    #[test]
    fn io_of_v1_is_told_by_kind() {
        let mut sample = Sample::default();
        let text = b"8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\n8:0 Async 0\n8:0 Discard 5\n8:0 Total 35\nTotal 35\n";
        sample.blkio_bytes(text).unwrap();
        sample
            .blkio_serviced(b"8:0 Read 1\n8:0 Write 2\nTotal 3\n")
            .unwrap();
        let io = sample.io.unwrap();
        assert_eq!((io.rbytes, io.wbytes, io.dbytes), (10, 20, 5));
        assert_eq!((io.rios, io.wios, io.dios), (1, 2, 0));
        let text = include_bytes!("../../tests/data/v1/blkio.throttle.io_service_bytes");
        sample.blkio_bytes(text).unwrap();
        assert!(sample.blkio_bytes(b"8:0 Read\n").is_err());
    }

    #[test]
    fn a_line_that_is_not_understood_is_told() {
        let mut sample = Sample::default();
        let bad = b"usage_usec 5\nuser_usec -1\n";
        assert_eq!(sample.cpu_stat(bad), Err(&b"user_usec -1"[..]));
        assert_eq!(sample.cpu_stat(b"rubbish"), Err(&b"rubbish"[..]));
        assert_eq!(sample.memory_current(b"max\n"), Err(&b"max\n"[..]));
        assert_eq!(max_events(b"min 1\n"), Err(&b"min 1\n"[..]));
    }

    type Parser = fn(&mut Sample, &[u8]) -> bool;

    /// Whatever the bytes, a parser says yes or no.
    #[test]
    fn no_text_ends_the_program() {
        let parsers: [Parser; 5] = [
            |sample, text| sample.cpu_stat(text).is_ok(),
            |sample, text| sample.io_stat(text).is_ok(),
            |sample, text| sample.blkio_serviced(text).is_ok(),
            |sample, text| sample.memory_events(text).is_ok(),
            |sample, text| sample.memsw_usage(text).is_ok(),
        ];
        let seeds: [&[u8]; 4] = [
            include_bytes!("../../tests/data/v2/cpu.stat"),
            b"254:0 rbytes=4096 wbytes=18446744073709551615 rios=1\n254:1 wbytes=18446744073709551615\n",
            b"8:0 Read 18446744073709551615\n8:1 Read 1\nTotal 3\n",
            include_bytes!("../../tests/data/v2/memory.events"),
        ];
        let mut understood = 0;
        crate::stats::fuzz::texts(&seeds, 4000, |text| {
            understood += parsers
                .iter()
                .filter(|parse| parse(&mut Sample::default(), text))
                .count();
        });
        assert!(understood > 0);
    }
}
