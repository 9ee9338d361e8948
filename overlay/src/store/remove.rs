//! Trees taken away, however deep they are, with a few fds.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, OFlags, renameat, unlinkat};
use rustix::io::Errno;

use super::area::{Area, unique};
use crate::beneath;
use crate::error::Result;

/// Removes the file or directory `name` of `area` with all that is in it. Directories in it are moved up to `area` first, so
/// that none is deep; killed half way, these are there beside the rest.
pub(crate) fn remove(area: &Area, name: &str) -> Result<()> {
    let mut left = vec![name.to_owned()];
    while let Some(name) = left.pop() {
        match beneath::open(area, name.as_str(), OFlags::DIRECTORY) {
            Ok(directory) => {
                empty(area, &directory, &mut left).map_err(area.failed("empty", &name))?;
                match unlinkat(area, name.as_str(), AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    // Another process removes the same: what it took away hid other names from the reading.
                    Err(Errno::NOTEMPTY) => left.push(name),
                    Err(errno) => return Err(area.failed("rmdir", &name)(errno)),
                }
            }
            Err(Errno::NOTDIR | Errno::LOOP) => area.unlink(&name)?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(area.failed("open", &name)(errno)),
        }
    }
    Ok(())
}

/// Unlinks what is in `directory`, and adds the names of directories moved up to `left`.
fn empty(area: &Area, directory: &OwnedFd, left: &mut Vec<String>) -> Result<(), Errno> {
    loop {
        let mut found = false;
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            found = true;
            if entry.file_type() != FileType::Directory && unlink(directory, name)? {
                continue;
            }
            let new = unique();
            match renameat(directory, name, area, new.as_str()) {
                Ok(()) => left.push(new),
                // Another process removes the same leftovers.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        // What is removed while a directory is read may hide some names from that reading.
        if !found {
            return Ok(());
        }
    }
}

/// False for a directory, which some filesystems do not tell before.
fn unlink(directory: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}
