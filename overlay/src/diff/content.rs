//! Copies of files' content, shared with the original where the filesystem can.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::{Errno, pread, pwrite};

/// Copies `size` bytes into the empty file `to`, holes as holes.
pub(crate) fn copy_content(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Errno> {
    if size == 0 {
        return Ok(());
    }
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    ftruncate(to, size)?;
    let mut offset = 0;
    while offset < size {
        let data = match seek(from, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // There is no more.
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let end = seek(from, SeekFrom::Hole(data))?.min(size);
        copy_range(from, to, data, end)?;
        offset = end.max(data);
    }
    Ok(())
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let mut offset = start;
    while offset < end {
        let (mut at, mut there) = (offset, offset);
        let length = usize::try_from(end - offset)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match copy_file_range(from, Some(&mut at), to, Some(&mut there), length) {
            Ok(0) => return Ok(()),
            Ok(count) => offset += count as u64,
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(from, to, offset, end);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_by_hand(from: impl AsFd, to: impl AsFd, start: u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; 1 << 17];
    let mut offset = start;
    while offset < end {
        let most = usize::try_from(end - offset)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = pread(&from, &mut buffer[..most], offset)?;
        if count == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < count {
            written += pwrite(&to, &buffer[written..count], offset + written as u64)?;
        }
        offset += count as u64;
    }
    Ok(())
}
