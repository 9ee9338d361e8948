//! The contents of files.

use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, seek};
use rustix::io::{Errno, pwrite, read, write};

use super::entry::Entry;
use super::meta::Failed;
use super::source::Source;
use crate::error::Error;

/// Writes an entry's data; a failed call is told to `failed`.
pub(crate) fn write_entry(
    file: BorrowedFd<'_>,
    entry: &mut Entry,
    source: &mut Source<'_>,
    failed: impl Fn(Failed) -> Error,
) -> Result<(), Error> {
    let Some(holes) = entry.holes.take() else {
        while entry.stored > 0 {
            let some = source.must_take(entry.stored)?;
            write_all(file, some).map_err(|errno| failed(("write", errno)))?;
            entry.stored -= some.len() as u64;
        }
        return Ok(());
    };
    ftruncate(file, holes.size).map_err(|errno| failed(("truncate", errno)))?;
    for (mut at, mut length) in holes.data {
        while length > 0 {
            let some = source.must_take(length)?;
            write_all_at(file, some, at).map_err(|errno| failed(("write", errno)))?;
            at += some.len() as u64;
            length -= some.len() as u64;
            entry.stored -= some.len() as u64;
        }
    }
    Ok(())
}

fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match write(file, bytes) {
            Err(Errno::INTR) => {}
            written => bytes = &bytes[written?..],
        }
    }
    Ok(())
}

fn write_all_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, at) {
            Err(Errno::INTR) => {}
            written => {
                let count = written?;
                bytes = &bytes[count..];
                at += count as u64;
            }
        }
    }
    Ok(())
}

/// Copies `size` bytes between files, holes as holes.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => return Ok(()),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(errno) => return Err(errno),
        };
        let end = seek(from, SeekFrom::Hole(start)).map_or(size, |end| end.min(size));
        copy_range(from, to, start, end)?;
        // A file that shrinks meanwhile must not keep it here.
        at = end.max(at + 1);
    }
    Ok(())
}

fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<(), Errno> {
    let (mut from_at, mut to_at) = (start, start);
    while from_at < end {
        let length = usize::try_from(end - from_at)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), length) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                return copy_by_hand(from, to, from_at, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_by_hand(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    mut at: u64,
    end: u64,
) -> Result<(), Errno> {
    let mut buffer = vec![0; 128 << 10];
    seek(from, SeekFrom::Start(at))?;
    while at < end {
        let most = usize::try_from(end - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        match read(from, &mut buffer[..most]) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                write_all_at(to, &buffer[..count], at)?;
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
