//! A kernel file that is kept open and read again and again.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Error, Result};

/// What every file of statistics fits into, as a rule.
pub(crate) const USUAL: usize = 4096;
/// More than any of them can sensibly have.
const MOST: usize = 16 << 20;
/// How much of a line that is not understood an error shows.
const SHOWN: usize = 120;

#[derive(Debug)]
pub(crate) struct File {
    fd: OwnedFd,
    path: PathBuf,
}

impl File {
    /// Opens it; `None` where there is no such file, or no such cgroup any more: see [`alive`].
    pub(crate) fn open(dir: &Dir, name: &str, flags: OFlags) -> Result<Option<Self>> {
        let path = dir.file_path(name);
        match dir.open_file(name, flags) {
            Ok(fd) => Ok(Some(File { fd, path })),
            Err(Errno::NOENT | Errno::NODEV) => Ok(None),
            Err(errno) => Err(Error::sys("open", &path, errno)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Its text as of now. The buffer grows where that is longer.
    pub(crate) fn read<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
        match self.fill(buffer) {
            Ok(n) => Ok(&buffer[..n]),
            Err(errno) => Err(self.failed("read", errno)),
        }
    }

    /// The error of a call on it. The kernel says `ENODEV` for ever once the cgroup is removed, and for no other reason.
    pub(crate) fn failed(&self, op: &'static str, errno: Errno) -> Error {
        match errno {
            Errno::NODEV => Error::gone(self.path.parent().unwrap_or(&self.path)),
            errno => Error::sys(op, &self.path, errno),
        }
    }

    /// The error of a line that is not understood.
    pub(crate) fn malformed(&self, line: &[u8]) -> Error {
        Error::parse(&self.path, &line[..line.len().min(SHOWN)])
    }

    fn fill(&self, buffer: &mut Vec<u8>) -> rustix::io::Result<usize> {
        let mut filled = 0;
        loop {
            if filled == buffer.len() {
                if filled >= MOST {
                    return Err(Errno::FBIG);
                }
                buffer.resize((2 * filled).max(USUAL), 0);
            }
            let rest = &mut buffer[filled..];
            let fd = self.fd.as_fd();
            match rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut *rest, filled as u64))? {
                0 => return Ok(filled),
                n => filled += n,
            }
            // What leaves room was all, as the kernel prints such a file at once.
            if filled < buffer.len() {
                return Ok(filled);
            }
        }
    }
}

/// That the cgroup still exists, where a file of it does not.
pub(crate) fn alive(dir: &Dir) -> Result<()> {
    match dir.open_file("cgroup.procs", OFlags::PATH) {
        Ok(_) => Ok(()),
        Err(Errno::NOENT | Errno::NODEV) => Err(Error::gone(dir.path())),
        Err(errno) => Err(Error::sys("open", &dir.file_path("cgroup.procs"), errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::stats::{Parse, Sample, Stats};
    use std::os::unix::fs::FileExt;

    /// A file without a name, with this text.
    fn file(text: &[u8]) -> File {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let fd = std::fs::File::from(fd);
        fd.write_all_at(text, 0).unwrap();
        File {
            fd: fd.into(),
            path: "/cgroup/file".into(),
        }
    }

    #[test]
    fn the_buffer_grows_for_a_file_that_is_longer() {
        for length in [0, 1, 4095, 4096, 4097, 100_000] {
            let text = vec![b'x'; length];
            let mut buffer = vec![0; USUAL];
            assert_eq!(file(&text).read(&mut buffer).unwrap(), text);
            assert!(buffer.len() <= (2 * length).max(USUAL));
        }
    }

    #[test]
    fn a_file_without_an_end_is_an_error() {
        let error = file(&vec![0; MOST + 1]).read(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Os);
        assert!(error.to_string().starts_with("read /cgroup/file: "));
    }

    #[test]
    fn what_is_not_understood_is_named_by_file_and_line() {
        let long = format!("usage_usec 5\nuser_usec {}\n", "9".repeat(500));
        let parse: Parse = Sample::cpu_stat;
        let mut stats = Stats {
            dirs: Vec::new(),
            files: vec![(file(long.as_bytes()), parse)],
            buffer: Vec::new(),
            memory_stat: None,
            io_stat: None,
            hugetlb: None,
            pressure: [const { None }; 4],
        };
        let error = stats.sample().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        let text = error.to_string();
        assert!(text.starts_with("/cgroup/file: unexpected line \"user_usec 999"));
        assert!(text.len() < 200, "{text}");
    }
}
