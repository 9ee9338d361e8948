//! The data of a file.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::{Errno, pread, pwrite};

/// What is read at once where the kernel cannot copy.
const BUFFER: usize = 128 << 10;

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    Cloned,
    Bytes(u64),
}

/// Copies `length` bytes of `from` to the empty file `to`.
pub(crate) fn copy(from: impl AsFd, to: impl AsFd, length: u64) -> Result<Copied, Errno> {
    let (from, to) = (from.as_fd(), to.as_fd());
    if length == 0 {
        return Ok(Copied::Bytes(0));
    }
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(Copied::Cloned);
    }
    let (mut position, mut bytes) = (0, 0);
    while let Some((start, end)) = next_data(from, position, length)? {
        range(from, to, start, end)?;
        bytes += end - start;
        position = end;
    }
    ftruncate(to, length)?;
    Ok(Copied::Bytes(bytes))
}

/// The next stretch that is not a hole. A filesystem that does not tell has none.
fn next_data(
    from: BorrowedFd<'_>,
    position: u64,
    length: u64,
) -> Result<Option<(u64, u64)>, Errno> {
    if position >= length {
        return Ok(None);
    }
    let start = match seek(from, SeekFrom::Data(position)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((position, length))),
        Err(errno) => return Err(errno),
    };
    if start >= length {
        return Ok(None);
    }
    let end = seek(from, SeekFrom::Hole(start))?.min(length);
    Ok((end > start).then_some((start, end)))
}

/// In the kernel if it can between these files, which it says at the first try.
fn range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let rest = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), rest) {
            // It has become shorter meanwhile.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return read_and_write(from, to, read_at, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn read_and_write(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    mut position: u64,
    end: u64,
) -> Result<(), Errno> {
    let mut buffer = vec![0; BUFFER];
    while position < end {
        let wanted = usize::try_from(end - position).map_or(BUFFER, |rest| rest.min(BUFFER));
        let length = match pread(from, &mut buffer[..wanted], position) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        let mut written = 0;
        while written < length {
            match pwrite(to, &buffer[written..length], position) {
                Ok(done) => {
                    written += done;
                    position += done as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}
