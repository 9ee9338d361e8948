//! Extended attributes of a file, within bounds.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{fgetxattr, flistxattr, getxattr, listxattr};
use rustix::io::Errno;

use super::Problem;
use crate::directory::by_fd;
use crate::error::{Error, Result};
use crate::marks::Marks;

/// Names and values of one file together; the kernel takes 64 KiB of names, and 64 KiB for each value.
const LIMIT: usize = 1 << 20;
/// The most the kernel gives of names, and of one value.
const BUFFER: usize = 1 << 16;

/// Those of the host rather than of the content: its labels, its integrity keys, its NFS server's access lists.
const HOSTS: [&[u8]; 4] = [
    b"security.selinux",
    b"security.evm",
    b"security.ima",
    b"system.nfs4_acl",
];

/// Names and values, sorted by name.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// How a file was opened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Opened {
    /// To be read.
    Readable,
    /// By `O_PATH`, as symlinks and devices are.
    Path,
}

/// The names on a file, each with its NUL.
pub(crate) fn names(file: impl AsFd, opened: Opened) -> Result<Vec<u8>, Errno> {
    let list = filled(|buffer| match opened {
        Opened::Readable => flistxattr(&file, buffer),
        Opened::Path => listxattr(by_fd(&file), buffer),
    });
    match list {
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        list => list,
    }
}

/// Whether `list`, as [`names`] gives it, has `name`.
pub(crate) fn lists(list: &[u8], name: &str) -> bool {
    split(list).any(|found| found.to_bytes() == name.as_bytes())
}

/// The value of `name`, None where there is none.
pub(crate) fn value(
    file: impl AsFd,
    opened: Opened,
    name: &CStr,
) -> Result<Option<Vec<u8>>, Errno> {
    let value = filled(|buffer| match opened {
        Opened::Readable => fgetxattr(&file, name, buffer),
        Opened::Path => getxattr(by_fd(&file), name, buffer),
    });
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What an overlay would show of `file`, without the host's own.
pub(crate) fn shown(file: impl AsFd, opened: Opened, marks: Marks, path: &Path) -> Result<Xattrs> {
    let list = names(&file, opened).map_err(Error::sys("listxattr", path))?;
    refuse_metacopy(&list, marks, path)?;
    let mut found = Xattrs::new();
    let mut total = 0;
    for stored in split(&list) {
        let Some(name) = marks.shown(stored.to_bytes()) else {
            continue;
        };
        if HOSTS.contains(&&*name) {
            continue;
        }
        let read = value(&file, opened, stored).map_err(Error::sys("getxattr", path))?;
        let Some(value) = read else { continue };
        total += name.len() + value.len();
        if total > LIMIT {
            let path = path.to_owned();
            return Err(Problem::ManyXattrs { path, limit: LIMIT }.into());
        }
        found.insert(name.into_owned(), value);
    }
    Ok(found)
}

/// What `read` gives; the large buffer only where it is needed.
fn filled(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; BUFFER];
            let length = read(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}

pub(crate) fn refuse_metacopy(list: &[u8], marks: Marks, path: &Path) -> Result<()> {
    if !lists(list, marks.metacopy()) {
        return Ok(());
    }
    Err(Error::from(Problem::Elsewhere {
        path: path.to_owned(),
        mark: marks.metacopy(),
        option: "metacopy",
    }))
}

pub(crate) fn split(list: &[u8]) -> impl Iterator<Item = &CStr> {
    list.split_inclusive(|byte| *byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
}
