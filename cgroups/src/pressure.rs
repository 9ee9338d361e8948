//! Pressure: how long processes had to wait for a resource.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::controller::Version;
use crate::error::{Error, Result};
use crate::member::Member;
use crate::stats::file::{File, alive};
use crate::stats::scan::{self, Scanned};
use crate::wait::{self, Deadline};

/// What processes wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// A CPU: `cpu.pressure`.
    Cpu,
    /// Memory, when what was taken away has to be brought back: `memory.pressure`.
    Memory,
    /// Block devices: `io.pressure`.
    Io,
    /// CPU time that interrupts took: `irq.pressure`, which has [`Share::Full`] only. Since Linux 6.1, if built so.
    Irq,
}

/// How many of the processes have to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Share {
    /// At least one.
    Some,
    /// All that are not idle.
    Full,
}

/// How long processes of a cgroup had to wait for a resource, as of one moment: [`Cgroup::pressure`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Pressure {
    /// At least one waited. Not for [`Resource::Irq`].
    pub some: Option<Stall>,
    /// All that were not idle waited. For [`Resource::Cpu`] since Linux 5.13.
    pub full: Option<Stall>,
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stall {
    /// Per cent of the last 10 seconds.
    pub avg10: f64,
    /// Per cent of the last minute.
    pub avg60: f64,
    /// Per cent of the last five minutes.
    pub avg300: f64,
    /// All the time waited.
    pub total: Duration,
}

/// An fd that tells when processes waited too long for a resource: [`Cgroup::pressure_trigger`].
///
/// Any event loop can take it: ask poll(2) or epoll(7) for `POLLPRI`. `POLLERR` says that the cgroup is gone. The kernel
/// tells of at most one event a window. Dropping it ends it.
#[derive(Debug)]
pub struct PressureTrigger {
    file: File,
}

/// What the kernel takes as window.
const WINDOWS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(500)..=Duration::from_secs(10);

impl Resource {
    pub(crate) const COUNT: usize = 4;

    pub(crate) fn index(self) -> usize {
        match self {
            Resource::Cpu => 0,
            Resource::Memory => 1,
            Resource::Io => 2,
            Resource::Irq => 3,
        }
    }

    pub(crate) fn file(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu.pressure",
            Resource::Memory => "memory.pressure",
            Resource::Io => "io.pressure",
            Resource::Irq => "irq.pressure",
        }
    }
}

impl Cgroup {
    /// Reads how long its processes, and those of cgroups inside it, had to wait for a resource: `cpu.pressure` and the
    /// like. It takes v2, but no controller.
    ///
    /// `None` where the kernel does not count it: built without it, booted with `psi=0`, switched off for this cgroup
    /// ([`Cgroup::set_pressure_accounting`]), and v1.
    ///
    /// # Errors
    /// `NotFound` if the cgroup is gone, `PermissionDenied`, `Malformed` if the kernel's text is not understood.
    pub fn pressure(&self, resource: Resource) -> Result<Option<Pressure>> {
        let Some(member) = self.in_v2() else {
            return Ok(None);
        };
        match File::open(&member.dir, resource.file(), OFlags::RDONLY) {
            Ok(Some(file)) => read(&file, &mut Vec::new()),
            Ok(None) => alive(&member.dir).map(|()| None),
            Err(error) if unsupported(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the kernel count pressure in it, or not, by `cgroup.pressure`. It does at first; where many cgroups come and
    /// go, not to saves a little time at every task switch. Those inside it go on as they were.
    ///
    /// # Errors
    /// `Unsupported` before Linux 6.1 and on v1, `NotFound` if the cgroup is gone, `PermissionDenied`.
    pub fn set_pressure_accounting(&self, on: bool) -> Result<()> {
        let name = "cgroup.pressure";
        let member = self.v2_for("switch pressure accounting of")?;
        let value = if on { "1" } else { "0" };
        match member.dir.write(name, value) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT | Errno::NODEV) => Err(absent(
                member,
                name,
                "this kernel cannot switch pressure accounting; Linux 6.1 with PSI can",
            )),
            Err(errno) => Err(Error::write(member.dir.file_path(name), value, errno)),
        }
    }

    /// Makes an fd that tells when, within `window`, some or all of its processes had waited for a resource for `stall`
    /// together. By a write(2) into the pressure file; the kernel watches as long as the fd is open.
    ///
    /// `window` is 500 ms to 10 s, and `stall` not more than that. Without `CAP_SYS_RESOURCE` in the initial user
    /// namespace it has to be a multiple of 2 s, and before Linux 6.4 there is no trigger without it.
    ///
    /// # Errors
    /// `InvalidInput` if the times are not like that, or for `Some` of `Irq`, which the kernel does not count;
    /// `Unsupported` where [`Cgroup::pressure`] is `None`; `NotFound` if the cgroup is gone; `PermissionDenied`.
    pub fn pressure_trigger(
        &self,
        resource: Resource,
        share: Share,
        stall: Duration,
        window: Duration,
    ) -> Result<PressureTrigger> {
        let text = trigger(resource, share, stall, window)?;
        let member = self.v2_for("watch the pressure in")?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        let file = match File::open(&member.dir, resource.file(), flags) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(not_counted(member, resource)),
            Err(error) if unsupported(&error) => return Err(not_counted(member, resource)),
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                let path = member.dir.file_path(resource.file());
                let reason = "before Linux 6.4 it takes CAP_SYS_RESOURCE";
                return Err(Error::write_explained(&path, &text, Errno::PERM, reason));
            }
            Err(error) => return Err(error),
        };
        match rustix::io::retry_on_intr(|| rustix::io::write(file.fd(), text.as_bytes())) {
            Ok(_) => Ok(PressureTrigger { file }),
            Err(Errno::OPNOTSUPP) => Err(not_counted(member, resource)),
            Err(Errno::INVAL) => Err(Error::write_explained(
                file.path(),
                &text,
                Errno::INVAL,
                "without CAP_SYS_RESOURCE the window has to be a multiple of 2 s",
            )),
            Err(Errno::NODEV) => Err(Error::gone(member.dir.path())),
            Err(errno) => Err(Error::write(file.path().to_owned(), &text, errno)),
        }
    }

    /// Its v2 directory.
    pub(crate) fn in_v2(&self) -> Option<&Member> {
        self.members().find(|member| member.version == Version::V2)
    }

    /// Its v2 directory, without which `op` cannot be done.
    pub(crate) fn v2_for(&self, op: &'static str) -> Result<&Member> {
        self.in_v2().ok_or_else(|| {
            let reason = "it takes cgroup v2, which this machine does not have mounted";
            Error::lacks(op, self.path().to_owned(), reason)
        })
    }
}

impl PressureTrigger {
    /// Waits for the next event, by poll(2) and at most for `timeout`: whether there was one.
    ///
    /// # Errors
    /// `NotFound` if the cgroup is gone, or the accounting was switched off.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let deadline = Deadline::after(timeout);
        loop {
            let left = deadline.left();
            let found = wait::poll(self, left).map_err(|errno| self.file.failed("poll", errno))?;
            if found.contains(PollFlags::ERR) {
                return Err(self.file.failed("poll", Errno::NODEV));
            }
            if found.contains(PollFlags::PRI) {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }
}

impl AsFd for PressureTrigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.fd().as_fd()
    }
}

/// Reads a file of which only the kernel knows whether it says anything.
pub(crate) fn read(file: &File, buffer: &mut Vec<u8>) -> Result<Option<Pressure>> {
    match file.read(buffer) {
        Ok(text) => match Pressure::scan(text) {
            Ok(pressure) => Ok(Some(pressure)),
            Err(line) => Err(file.malformed(line)),
        },
        Err(error) if unsupported(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Pressure {
    fn scan(text: &[u8]) -> Scanned<'_, Self> {
        let mut pressure = Pressure::default();
        for line in scan::lines(text) {
            let (share, rest) = scan::split(line, b' ').ok_or(line)?;
            match share {
                b"some" => pressure.some = Some(Stall::scan(rest).ok_or(line)?),
                b"full" => pressure.full = Some(Stall::scan(rest).ok_or(line)?),
                _ => return Err(line),
            }
        }
        Ok(pressure)
    }
}

impl Stall {
    fn scan(text: &[u8]) -> Option<Self> {
        let mut stall = Stall::default();
        let mut total = None;
        for word in scan::words(text) {
            let (key, value) = scan::split(word, b'=')?;
            match key {
                b"avg10" => stall.avg10 = scan::percent(value)?,
                b"avg60" => stall.avg60 = scan::percent(value)?,
                b"avg300" => stall.avg300 = scan::percent(value)?,
                b"total" => total = Some(scan::number(value)?),
                _ => {}
            }
        }
        stall.total = Duration::from_micros(total?);
        Some(stall)
    }
}

/// What a trigger writes.
fn trigger(resource: Resource, share: Share, stall: Duration, window: Duration) -> Result<String> {
    let refuse = |value, reason| Err(Error::limit("pressure trigger", value, reason));
    if !WINDOWS.contains(&window) {
        return refuse(
            format!("{window:?}"),
            "the window has to be within 500 ms..=10 s",
        );
    }
    if stall.as_micros() == 0 || stall > window {
        let reason = "the stall has to be at least 1 us and not more than the window";
        return refuse(format!("{stall:?}"), reason);
    }
    let share = match (share, resource) {
        (Share::Some, Resource::Irq) => {
            let reason = "for interrupts the kernel counts full pressure only";
            return refuse("some irq".to_owned(), reason);
        }
        (Share::Some, _) => "some",
        (Share::Full, _) => "full",
    };
    Ok(format!(
        "{share} {} {}",
        stall.as_micros(),
        window.as_micros()
    ))
}

fn unsupported(error: &Error) -> bool {
    error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
}

fn not_counted(member: &Member, resource: Resource) -> Error {
    absent(
        member,
        resource.file(),
        "this kernel does not count pressure here: built without PSI, booted with psi=0, or switched off by cgroup.pressure",
    )
}

/// That a file is not there: because the cgroup is not, or for the reason given.
fn absent(member: &Member, name: &str, reason: &'static str) -> Error {
    match alive(&member.dir) {
        Ok(()) => Error::lacks("write", member.dir.file_path(name), reason),
        Err(gone) => gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_pressure_file_as_captured() {
        let text = include_bytes!("../tests/data/v2/cpu.pressure");
        let pressure = Pressure::scan(text).unwrap();
        let some = pressure.some.unwrap();
        assert_eq!((some.avg10, some.avg60, some.avg300), (74.14, 61.63, 21.37));
        assert_eq!(some.total, Duration::from_micros(73_744_009));
        assert_eq!(pressure.full, pressure.some);
    }

    #[test]
    fn one_line_is_enough() {
        let irq = Pressure::scan(b"full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n").unwrap();
        assert_eq!(irq.some, None);
        assert_eq!(irq.full.unwrap().total, Duration::from_micros(7));
    }

    #[test]
    fn a_line_that_is_not_understood_is_told() {
        for bad in [
            &b"some"[..],
            b"most avg10=0.00 avg60=0.00 avg300=0.00 total=7",
            b"some avg10=x avg60=0.00 avg300=0.00 total=7",
            b"some avg10=0.00 avg60=0.00 avg300=0.00",
            b"some avg10",
        ] {
            assert_eq!(Pressure::scan(bad), Err(bad));
        }
        let seeds: [&[u8]; 1] = [include_bytes!("../tests/data/v2/cpu.pressure")];
        let mut understood = 0;
        crate::stats::fuzz::texts(&seeds, 4000, |text| {
            understood += usize::from(Pressure::scan(text).is_ok());
        });
        assert!(understood > 0);
    }

    #[test]
    fn a_trigger_is_checked_before_anything_is_written() {
        let [ms500, s1] = [500, 1000].map(Duration::from_millis);
        let text = trigger(Resource::Io, Share::Full, ms500, s1).unwrap();
        assert_eq!(text, "full 500000 1000000");
        let s11 = Duration::from_secs(11);
        for (resource, stall, window) in [
            (Resource::Cpu, ms500, Duration::from_millis(499)),
            (Resource::Cpu, s1, s11),
            (Resource::Cpu, s1, ms500),
            (Resource::Cpu, Duration::from_nanos(999), s1),
            (Resource::Irq, ms500, s1),
        ] {
            let error = trigger(resource, Share::Some, stall, window).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
}
