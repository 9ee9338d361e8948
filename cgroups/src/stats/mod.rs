//! What a cgroup uses, from files that are kept open.

pub(crate) mod file;
#[cfg(test)]
pub(crate) mod fuzz;
mod memory;
mod sample;
pub(crate) mod scan;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::controller::Version;
use crate::dir::Dir;
use crate::error::{Error, ErrorKind, Result};
use crate::pressure::{self, Pressure, Resource};
use file::{File, alive};
pub use memory::MemoryStat;
pub(crate) use sample::max_events;
pub use sample::{CpuTime, IoCount, MemoryEvents, MemoryUse, PidsUse, Sample, SwapUse, Throttling};
use scan::Scanned;

/// Reads what a cgroup uses, from files it keeps open: [`Cgroup::stats`].
///
/// A [`Stats::sample`] is one pread(2) a file, about ten of them, and no allocation after the first. It holds about a
/// dozen fds, and a few more once the other methods were called. It outlives the [`Cgroup`] it came from, does not keep
/// the cgroup from being removed, and never takes another of the same name for it: the kernel knows which one an fd is
/// of.
///
/// ```no_run
/// # fn main() -> cofferdam_cgroups::Result<()> {
/// # let cgroup = cofferdam_cgroups::Hierarchy::detect()?.open(["/sys/fs/cgroup/web-1"])?;
/// let mut stats = cgroup.stats()?;
/// loop {
///     let sample = stats.sample()?;
///     if let (Some(cpu), Some(memory)) = (sample.cpu, sample.memory) {
///         println!("{:?} of CPU time, {} bytes", cpu.usage, memory.current);
///     }
///     std::thread::sleep(std::time::Duration::from_secs(1));
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Stats {
    dirs: Vec<(Version, Dir)>,
    files: Vec<(File, Parse)>,
    buffer: Vec<u8>,
    // The others are opened when first asked for.
    memory_stat: Option<Option<File>>,
    io_stat: Option<Vec<File>>,
    hugetlb: Option<Vec<HugetlbFiles>>,
    pressure: [Option<File>; Resource::COUNT],
}

/// What one block device did: [`Stats::io_stat`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceIo {
    /// The first number of the device.
    pub major: u32,
    /// The second number of the device.
    pub minor: u32,
    /// What was done.
    pub count: IoCount,
}

/// Huge pages of one size: [`Stats::hugetlb`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HugetlbUse {
    /// The size of a page, in bytes.
    pub page_size: u64,
    /// In use, in bytes: `hugetlb.<size>.current`, on v1 `usage_in_bytes`.
    pub current: u64,
    /// How often more was refused: `max` of `hugetlb.<size>.events`, on v1 `failcnt`.
    pub max_events: u64,
}

type Parse = for<'s, 't> fn(&'s mut Sample, &'t [u8]) -> Scanned<'t>;

#[derive(Debug)]
struct HugetlbFiles {
    page_size: u64,
    current: File,
    events: File,
    version: Version,
}

/// Files that say something together. The cgroup has it if it has the first.
struct Source {
    version: Version,
    files: &'static [(&'static str, Parse)],
}

const fn v2(files: &'static [(&'static str, Parse)]) -> Source {
    Source {
        version: Version::V2,
        files,
    }
}

const fn v1(files: &'static [(&'static str, Parse)]) -> Source {
    Source {
        version: Version::V1,
        files,
    }
}

/// What a sample is made of, each from the first of its sources that the cgroup has. Of v2 a hybrid machine has the
/// CPU time only.
const FACTS: [&[Source]; 6] = [
    &[
        v2(&[("cpu.stat", Sample::cpu_stat)]),
        v1(&[
            ("cpuacct.usage", Sample::cpuacct_usage),
            ("cpuacct.stat", Sample::cpuacct_stat),
        ]),
    ],
    &[v1(&[("cpu.stat", Sample::cpu_stat)])],
    &[
        v2(&[
            ("memory.current", Sample::memory_current),
            ("memory.peak", Sample::memory_peak),
            ("memory.events", Sample::memory_events),
        ]),
        v1(&[
            ("memory.usage_in_bytes", Sample::memory_current),
            ("memory.max_usage_in_bytes", Sample::memory_peak),
            ("memory.failcnt", Sample::memory_failcnt),
            ("memory.memsw.failcnt", Sample::memory_failcnt),
            ("memory.oom_control", Sample::memory_events),
        ]),
    ],
    &[
        v2(&[
            ("memory.swap.current", Sample::swap_current),
            ("memory.swap.peak", Sample::swap_peak),
            ("memory.zswap.current", Sample::zswap_current),
        ]),
        v1(&[("memory.memsw.usage_in_bytes", Sample::memsw_usage)]),
    ],
    &[v2(PIDS), v1(PIDS)],
    &[
        v2(&[("io.stat", Sample::io_stat)]),
        v1(&[
            (BLKIO[0][0], Sample::blkio_bytes),
            (BLKIO[0][1], Sample::blkio_serviced),
        ]),
        v1(&[
            (BLKIO[1][0], Sample::blkio_bytes),
            (BLKIO[1][1], Sample::blkio_serviced),
        ]),
    ],
];

const PIDS: &[(&str, Parse)] = &[
    ("pids.current", Sample::pids_current),
    ("pids.peak", Sample::pids_peak),
    ("pids.events", Sample::pids_events),
];

/// With cgroups inside it, as v2 counts; and what older kernels have.
const BLKIO: [[&str; 2]; 2] = [
    [
        "blkio.throttle.io_service_bytes_recursive",
        "blkio.throttle.io_serviced_recursive",
    ],
    [
        "blkio.throttle.io_service_bytes",
        "blkio.throttle.io_serviced",
    ],
];

impl Cgroup {
    /// Opens the files that say what it uses, for samples at a low price: see [`Stats`].
    ///
    /// What a controller would say that the cgroup has not got is `None` in every sample: in v2 one that is not enabled
    /// for it as of now, in v1 one whose hierarchy it was not created in.
    ///
    /// # Errors
    /// `NotFound` if the cgroup is gone, `PermissionDenied`.
    pub fn stats(&self) -> Result<Stats> {
        let mut dirs = Vec::new();
        for member in self.members() {
            let dir = member.dir.open(Path::new(""));
            let dir = dir.or_else(|error| alive(&member.dir).and(Err(error)))?;
            alive(&dir)?;
            dirs.push((member.version, dir));
        }
        let mut files = Vec::new();
        for sources in FACTS {
            open_first(&dirs, sources, &mut files)?;
        }
        Ok(Stats {
            dirs,
            files,
            buffer: vec![0; file::USUAL],
            memory_stat: None,
            io_stat: None,
            hugetlb: None,
            pressure: [const { None }; Resource::COUNT],
        })
    }
}

impl Stats {
    /// Reads all of it once, by one pread(2) a file. No allocation after the first call, unless a file has become
    /// longer than all before.
    ///
    /// The files are read one after the other: the numbers are of almost the same moment.
    ///
    /// # Errors
    /// `NotFound` if the cgroup is gone, even if there is another of its name; `Malformed` if the kernel's text is not
    /// understood.
    pub fn sample(&mut self) -> Result<Sample> {
        let mut sample = Sample::default();
        for (file, parse) in &self.files {
            let text = file.read(&mut self.buffer)?;
            parse(&mut sample, text).map_err(|line| file.malformed(line))?;
        }
        Ok(sample)
    }

    /// Reads `memory.stat`, which takes the kernel longer than all of [`Stats::sample`]. `None` without the memory
    /// controller.
    ///
    /// # Errors
    /// As [`Stats::sample`]; `PermissionDenied` by the first call.
    pub fn memory_stat(&mut self) -> Result<Option<MemoryStat>> {
        let name = "memory.stat";
        let open = || open_one(&self.dirs, &[(Version::V2, name), (Version::V1, name)]);
        let Some(file) = kept(&mut self.memory_stat, open)? else {
            return Ok(None);
        };
        let text = file.read(&mut self.buffer)?;
        let stat = MemoryStat::scan(text).map_err(|line| file.malformed(line))?;
        Ok(Some(stat))
    }

    /// Reads what each block device did, by device number: `io.stat`, on v1 the files of `blkio.throttle`. `None`
    /// without the io controller. A device that did nothing may be left out.
    ///
    /// # Errors
    /// As [`Stats::memory_stat`].
    pub fn io_stat(&mut self) -> Result<Option<Vec<DeviceIo>>> {
        let files = kept(&mut self.io_stat, || open_io(&self.dirs))?;
        let mut devices: Vec<DeviceIo> = Vec::new();
        for (at, file) in files.iter().enumerate() {
            let text = file.read(&mut self.buffer)?;
            let scanned = match (files.len(), at) {
                (1, _) => sample::each_io(text, |device, count| add(&mut devices, device, count)),
                (_, 0) => {
                    sample::each_blkio(text, |device, count| add(&mut devices, device, count))
                }
                _ => sample::each_blkio(text, |device, count| {
                    add(&mut devices, device, count.as_operations());
                }),
            };
            scanned.map_err(|line| file.malformed(line))?;
        }
        Ok((!files.is_empty()).then_some(devices))
    }

    /// Reads the use of huge pages, smallest size first: `hugetlb.<size>.current` and `.events`. Empty without the
    /// hugetlb controller.
    ///
    /// # Errors
    /// As [`Stats::memory_stat`].
    pub fn hugetlb(&mut self) -> Result<Vec<HugetlbUse>> {
        let sizes = kept(&mut self.hugetlb, || open_hugetlb(&self.dirs))?;
        let mut all = Vec::with_capacity(sizes.len());
        for size in sizes {
            let current = scan::single(size.current.read(&mut self.buffer)?);
            let current = current.map_err(|line| size.current.malformed(line))?;
            let text = size.events.read(&mut self.buffer)?;
            let max_events = match size.version {
                Version::V2 => max_events(text),
                Version::V1 => scan::single(text),
            };
            all.push(HugetlbUse {
                page_size: size.page_size,
                current,
                max_events: max_events.map_err(|line| size.events.malformed(line))?,
            });
        }
        Ok(all)
    }

    /// Reads how long its processes had to wait for a resource, as [`Cgroup::pressure`] from a file that is kept open.
    /// `None` where the kernel does not say it.
    ///
    /// # Errors
    /// As [`Stats::memory_stat`].
    pub fn pressure(&mut self, resource: Resource) -> Result<Option<Pressure>> {
        let kept = &mut self.pressure[resource.index()];
        if let Some(file) = kept {
            match pressure::read(file, &mut self.buffer) {
                // The kernel takes the file away when the accounting is switched off, as it does with the cgroup.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                read => return read,
            }
        }
        *kept = open_one(&self.dirs, &[(Version::V2, resource.file())])?;
        match kept {
            Some(file) => pressure::read(file, &mut self.buffer),
            None => Ok(None),
        }
    }
}

/// What is in the slot, opened if it is empty.
fn kept<T>(slot: &mut Option<T>, open: impl FnOnce() -> Result<T>) -> Result<&T> {
    match slot {
        Some(kept) => Ok(kept),
        empty => Ok(empty.insert(open()?)),
    }
}

/// Opens the first of these sources that one of the directories has.
fn open_first(
    dirs: &[(Version, Dir)],
    sources: &[Source],
    files: &mut Vec<(File, Parse)>,
) -> Result<()> {
    for source in sources {
        for (_, dir) in dirs
            .iter()
            .filter(|(version, _)| *version == source.version)
        {
            let before = files.len();
            for (name, parse) in source.files {
                let opened = File::open(dir, name, OFlags::RDONLY)?;
                files.extend(opened.map(|file| (file, *parse)));
                if files.len() == before {
                    break;
                }
            }
            if files.len() > before {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Opens the first of these files that one of the directories has, if the cgroup is not gone.
fn open_one(dirs: &[(Version, Dir)], names: &[(Version, &str)]) -> Result<Option<File>> {
    for (version, name) in names {
        for (_, dir) in dirs.iter().filter(|(of, _)| of == version) {
            if let Some(file) = File::open(dir, name, OFlags::RDONLY)? {
                return Ok(Some(file));
            }
        }
    }
    dirs.iter().try_for_each(|(_, dir)| alive(dir))?;
    Ok(None)
}

/// One file of v2, or the two of v1.
fn open_io(dirs: &[(Version, Dir)]) -> Result<Vec<File>> {
    if let Some(file) = open_one(dirs, &[(Version::V2, "io.stat")])? {
        return Ok(vec![file]);
    }
    for names in BLKIO {
        let mut files = Vec::new();
        for name in names {
            files.extend(open_one(dirs, &[(Version::V1, name)])?);
        }
        if files.len() == names.len() {
            return Ok(files);
        }
    }
    Ok(Vec::new())
}

fn add(devices: &mut Vec<DeviceIo>, (major, minor): (u32, u32), count: IoCount) {
    let found = devices
        .iter_mut()
        .find(|device| (device.major, device.minor) == (major, minor));
    match found {
        Some(device) => device.count.add(count),
        None => devices.push(DeviceIo {
            major,
            minor,
            count,
        }),
    }
}

fn open_hugetlb(dirs: &[(Version, Dir)]) -> Result<Vec<HugetlbFiles>> {
    let mut all = Vec::new();
    for (version, dir) in dirs {
        alive(dir)?;
        let [usage, events] = match version {
            Version::V2 => ["current", "events"],
            Version::V1 => ["usage_in_bytes", "failcnt"],
        };
        for (page_size, size) in page_sizes(dir, usage)? {
            let open = |what| File::open(dir, &format!("hugetlb.{size}.{what}"), OFlags::RDONLY);
            if let (Some(current), Some(events)) = (open(usage)?, open(events)?) {
                all.push(HugetlbFiles {
                    page_size,
                    current,
                    events,
                    version: *version,
                });
            }
        }
    }
    all.sort_by_key(|files| files.page_size);
    Ok(all)
}

/// The sizes that a directory has files for, in bytes and as the kernel writes them.
fn page_sizes(dir: &Dir, usage: &str) -> Result<Vec<(u64, String)>> {
    let failed = |errno| Error::sys("read", dir.path(), errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = rustix::fs::openat(dir, ".", flags, Mode::empty())
        .and_then(rustix::fs::Dir::new)
        .map_err(failed)?;
    let mut sizes = Vec::new();
    for entry in listing {
        let name = match entry {
            Ok(entry) => OsString::from(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes())),
            Err(Errno::NODEV | Errno::NOENT) => break,
            Err(errno) => return Err(failed(errno)),
        };
        let size = name.to_str().and_then(|name| size_of_file(name, usage));
        sizes.extend(size.and_then(|size| Some((bytes(size)?, size.to_owned()))));
    }
    Ok(sizes)
}

/// `2MB` of `hugetlb.2MB.current`.
fn size_of_file<'n>(name: &'n str, usage: &str) -> Option<&'n str> {
    let size = name.strip_prefix("hugetlb.")?.strip_suffix(usage)?;
    size.strip_suffix('.').filter(|size| !size.contains('.'))
}

/// `2MB`, as the kernel writes it.
fn bytes(size: &str) -> Option<u64> {
    let (number, unit) = size.split_at_checked(size.len().checked_sub(2)?)?;
    let unit = match unit {
        "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    scan::number(number.as_bytes())?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_those_of_file_names() {
        assert_eq!(size_of_file("hugetlb.2MB.current", "current"), Some("2MB"));
        assert_eq!(size_of_file("hugetlb.2MB.rsvd.current", "current"), None);
        assert_eq!(size_of_file("hugetlb.2MB.max", "current"), None);
        assert_eq!(bytes("64KB"), Some(64 << 10));
        assert_eq!(bytes("16GB"), Some(16 << 30));
        for bad in ["", "B", "MB", "2TB", "\u{20ac}MB", "-2MB"] {
            assert_eq!(bytes(bad), None);
        }
    }
}
