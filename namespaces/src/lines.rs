//! Files made of lines, such as `/etc/passwd`, whoever wrote them and however large they are.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// More than any such file has, and little enough to be read in a few milliseconds.
const MAX_FILE: u64 = 16 << 20;
const MAX_LINE: u64 = 1 << 20;

/// A regular file that was opened to be read, and what errors call it.
#[derive(Debug)]
pub(crate) struct Lines<'p> {
    file: File,
    /// `file of the host`, `file of the root`.
    kind: &'static str,
    path: &'p Path,
}

impl<'p> Lines<'p> {
    /// Opens the regular file at the absolute `path`, as it is seen with `root` as the root: no symbolic link leads out of
    /// it. `None`: there is none.
    ///
    /// It is looked at before it is opened, and not waited for: a fifo would block, and a device do who knows what.
    pub(crate) fn open(
        root: impl AsFd,
        kind: &'static str,
        path: &'p Path,
    ) -> Result<Option<Self>> {
        let found = match open_in(root, path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other.map_err(Error::path("open", path))?,
        };
        let stat = rustix::fs::fstat(&found).map_err(Error::path("fstat", path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::invalid(kind, path, "is not a regular file"));
        }
        if u64::try_from(stat.st_size).unwrap_or(0) > MAX_FILE {
            return Err(Error::invalid(kind, path, "is larger than 16 MiB"));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let same = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
        let file = rustix::fs::open(same, flags, Mode::empty());
        let file = file.map_err(Error::path("open", path))?.into();
        Ok(Some(Lines { file, kind, path }))
    }

    /// Calls `each` with one line after another, without its end, until that breaks.
    pub(crate) fn each<T>(
        &self,
        mut each: impl FnMut(&[u8]) -> Result<ControlFlow<T>>,
    ) -> Result<Option<T>> {
        let mut reader = BufReader::new((&self.file).take(MAX_FILE + 1));
        let (mut line, mut size) = (Vec::new(), 0);
        loop {
            line.clear();
            let read = (&mut reader)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)
                .map_err(Error::path("read", self.path))?;
            if read == 0 {
                return Ok(None);
            }
            size += read as u64;
            if size > MAX_FILE {
                return Err(self.bad("is larger than 16 MiB"));
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if read as u64 == MAX_LINE {
                return Err(self.bad("has a line longer than 1 MiB"));
            }
            if let ControlFlow::Break(found) = each(&line)? {
                return Ok(Some(found));
            }
        }
    }

    pub(crate) fn bad(&self, reason: &'static str) -> Error {
        Error::invalid(self.kind, self.path, reason)
    }
}

fn open_in(root: impl AsFd, path: &Path) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // The kernel says EAGAIN where something on the way was renamed meanwhile.
    for _ in 0..100 {
        match openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// A decimal id, as such files and command lines have it. No sign, no other base, nothing around it; and not the id that
/// to setresuid(2) means "as before".
pub(crate) fn id(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok().filter(|&id| id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_decimal_digits_are_an_id() {
        for (text, expected) in [
            ("0", Some(0)),
            ("010", Some(10)),
            ("4294967294", Some(u32::MAX - 1)),
            ("4294967295", None),
            ("4294967296", None),
            ("-1", None),
            ("+1", None),
            ("0x10", None),
            (" 1", None),
            ("1 ", None),
            ("1e3", None),
            ("", None),
        ] {
            assert_eq!(id(text.as_bytes()), expected, "{text:?}");
        }
    }
}
