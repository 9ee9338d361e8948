//! A filesystem being configured: fsopen(2), fsconfig(2), fsmount(2).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::directory::MOUNT;
use crate::error::{Error, Inner};

/// The fd of fsopen(2). It pins the superblock as long as it is open: it must not outlive the mounting.
#[derive(Debug)]
pub(crate) struct Context {
    fd: OwnedFd,
}

/// What the kernel answered instead of doing it.
#[derive(Debug)]
pub(crate) struct Refusal {
    op: &'static str,
    pub(crate) errno: Errno,
    said: String,
}

impl Context {
    pub(crate) fn open(filesystem: &'static str) -> Result<Self, Refusal> {
        let fd = fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|errno| Refusal::silent("fsopen", errno))?;
        Ok(Context { fd })
    }

    pub(crate) fn flag(&self, key: &'static str) -> Result<(), Refusal> {
        fsconfig_set_flag(&self.fd, key).map_err(|errno| self.refusal(key, errno))
    }

    pub(crate) fn string(&self, key: &'static str, value: &str) -> Result<(), Refusal> {
        fsconfig_set_string(&self.fd, key, value).map_err(|errno| self.refusal(key, errno))
    }

    pub(crate) fn fd(&self, key: &'static str, value: BorrowedFd<'_>) -> Result<(), Refusal> {
        fsconfig_set_fd(&self.fd, key, value).map_err(|errno| self.refusal(key, errno))
    }

    /// Makes the superblock.
    pub(crate) fn create(&self) -> Result<(), Refusal> {
        fsconfig_create(&self.fd).map_err(|errno| self.refusal(MOUNT, errno))
    }

    /// Makes a detached mount of it, and closes the context.
    pub(crate) fn mount(self, attributes: MountAttrFlags) -> Result<OwnedFd, Refusal> {
        fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| self.refusal("fsmount", errno))
    }

    fn refusal(&self, op: &'static str, errno: Errno) -> Refusal {
        Refusal {
            op,
            errno,
            said: said(self.fd.as_fd()),
        }
    }
}

impl Refusal {
    pub(crate) fn silent(op: &'static str, errno: Errno) -> Self {
        Refusal {
            op,
            errno,
            said: String::new(),
        }
    }

    /// Whether it is how kernels before 6.15 answer an `O_PATH` fd as the value of `lowerdir+`: 6.6 and older take no
    /// fds at all, up to 6.12 the key is a string's, 6.13 and 6.14 want an fd that is open for reading.
    pub(crate) fn takes_no_path_fds(&self) -> bool {
        match self.errno {
            Errno::OPNOTSUPP | Errno::BADF => true,
            Errno::INVAL => self.said.is_empty() || self.said.contains("Bad value for"),
            _ => false,
        }
    }

    /// Whether the key is not known, or not in this form.
    pub(crate) fn is_unknown_key(&self) -> bool {
        self.errno == Errno::OPNOTSUPP
            || self.errno == Errno::INVAL
                && (self.said.contains("nknown parameter") || self.said.contains("Bad value for"))
    }

    /// The error of doing it to `what`.
    pub(crate) fn on(self, what: &Path) -> Error {
        if self.said.is_empty() {
            return Error::sys(self.op, what)(self.errno);
        }
        Error::from(Inner::Refused {
            op: self.op,
            path: what.to_owned(),
            errno: self.errno.into(),
            reason: self.said,
        })
    }
}

/// What the kernel wrote about it: one message a read, each as `e overlay: text`.
fn said(context: BorrowedFd<'_>) -> String {
    let mut buffer = [0; 512];
    let mut messages = Vec::new();
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..length]);
        let text = line.trim_end();
        messages.push(text.get(2..).unwrap_or(text).to_owned());
    }
    messages.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(errno: Errno, said: &str) -> Refusal {
        Refusal {
            op: "lowerdir+",
            errno,
            said: said.to_owned(),
        }
    }

    #[test]
    fn older_kernels_are_told_from_bad_layers() {
        let old = [
            refusal(Errno::OPNOTSUPP, ""),
            refusal(Errno::BADF, ""),
            refusal(Errno::INVAL, "overlay: Bad value for 'lowerdir+'"),
        ];
        assert!(old.iter().all(Refusal::takes_no_path_fds));
        let bad = [
            refusal(Errno::INVAL, "overlay: filesystem on 3 not supported"),
            refusal(Errno::PERM, ""),
        ];
        assert!(!bad.iter().any(Refusal::takes_no_path_fds));
    }

    #[test]
    fn the_kernels_words_are_in_the_error() {
        let error = refusal(Errno::INVAL, "overlay: too many").on(Path::new("/srv/a"));
        assert_eq!(
            error.to_string(),
            "lowerdir+ /srv/a: EINVAL: Invalid argument (overlay: too many)"
        );
    }
}
