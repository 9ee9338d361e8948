//! The most that was in use.

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::controller::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::stats::file::{File, alive};
use crate::stats::scan;

/// The most of something that was in use, by an fd of its own: [`Cgroup::memory_peak`] and the like.
///
/// After [`Peak::reset`] it is the most since then, for this value alone: other readers of the file, another `Peak`
/// among them, see what they saw before.
#[derive(Debug)]
pub struct Peak {
    file: File,
    reset: Reset,
}

/// What resets it.
#[derive(Clone, Copy, Debug)]
enum Reset {
    /// A write to the fd, whatever is written.
    ByFd,
    /// `0`, for all readers: v1.
    ForAll,
    /// Nothing.
    Never,
    /// The file could be opened for reading only.
    Denied,
}

impl Cgroup {
    /// The most memory that it used, in bytes: `memory.peak` (Linux 5.19), on v1 `memory.max_usage_in_bytes`.
    ///
    /// # Errors
    /// `Unsupported` without the memory controller and on kernels without the file, `NotFound` if the cgroup is gone,
    /// `PermissionDenied`.
    pub fn memory_peak(&self) -> Result<Peak> {
        let v1 = (Version::V1, "memory.max_usage_in_bytes", Reset::ForAll);
        self.peak(
            &[(Version::V2, "memory.peak", Reset::ByFd), v1],
            "it takes the memory controller, and on v2 Linux 5.19",
        )
    }

    /// The most swap that it used, in bytes: `memory.swap.peak` (Linux 6.5). Not on v1.
    ///
    /// # Errors
    /// As [`Cgroup::memory_peak`].
    pub fn swap_peak(&self) -> Result<Peak> {
        self.peak(
            &[(Version::V2, "memory.swap.peak", Reset::ByFd)],
            "it takes the memory controller of v2, swap accounting and Linux 6.5",
        )
    }

    /// The most processes and threads that it had: `pids.peak` (Linux 6.1). It cannot be reset.
    ///
    /// # Errors
    /// As [`Cgroup::memory_peak`].
    pub fn pids_peak(&self) -> Result<Peak> {
        let [v2, v1] = [Version::V2, Version::V1].map(|of| (of, "pids.peak", Reset::Never));
        self.peak(&[v2, v1], "it takes the pids controller and Linux 6.1")
    }

    fn peak(&self, files: &[(Version, &str, Reset)], reason: &'static str) -> Result<Peak> {
        for (version, name, reset) in files {
            for member in self.members().filter(|member| member.version == *version) {
                let open = |flags| File::open(&member.dir, name, flags);
                let (opened, reset) = match open(OFlags::RDWR) {
                    // Not writable on kernels that reset nothing, nor for who may only read.
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                        (open(OFlags::RDONLY)?, reset.denied())
                    }
                    opened => (opened?, *reset),
                };
                if let Some(file) = opened {
                    return Ok(Peak { file, reset });
                }
            }
        }
        self.members().try_for_each(|member| alive(&member.dir))?;
        let name = files.first().map_or("", |(_, name, _)| *name);
        Err(Error::lacks("read", self.path().join(name), reason))
    }
}

impl Reset {
    fn denied(self) -> Self {
        match self {
            Reset::Never => Reset::Never,
            _ => Reset::Denied,
        }
    }
}

impl Peak {
    /// Reads it: the most since the cgroup was made, or since the last [`Peak::reset`].
    ///
    /// # Errors
    /// `NotFound` if the cgroup is gone, `Malformed` if the kernel's text is not understood.
    pub fn read(&self) -> Result<u64> {
        let mut buffer = Vec::new();
        let text = self.file.read(&mut buffer)?;
        scan::single(text).map_err(|line| self.file.malformed(line))
    }

    /// Makes what is in use now the most that was, for this value alone. On v1 for all readers of the file.
    ///
    /// # Errors
    /// `Unsupported` before Linux 6.12, and for processes, `NotFound` if the cgroup is gone, `PermissionDenied`.
    pub fn reset(&self) -> Result<()> {
        let value = match self.reset {
            Reset::ByFd => "reset",
            Reset::ForAll => "0",
            Reset::Never => return Err(self.cannot_reset("no kernel resets it")),
            Reset::Denied => {
                let path = self.file.path().to_owned();
                return Err(Error::write(path, "reset", Errno::ACCESS));
            }
        };
        match rustix::io::retry_on_intr(|| rustix::io::write(self.file.fd(), value.as_bytes())) {
            Ok(_) => Ok(()),
            Err(Errno::INVAL) => Err(self.cannot_reset("this kernel cannot; Linux 6.12 can")),
            Err(Errno::NODEV) => Err(self.file.failed("write", Errno::NODEV)),
            Err(errno) => Err(Error::write(self.file.path().to_owned(), value, errno)),
        }
    }

    fn cannot_reset(&self, reason: &'static str) -> Error {
        Error::lacks("reset", self.file.path().to_owned(), reason)
    }
}
