//! A directory of the store, by fd.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, flock, fsync, mkdirat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::Fault;
use crate::beneath;
use crate::error::{Error, Result};
use crate::lock::Locked;

/// An open directory and its name in errors.
#[derive(Debug)]
pub(crate) struct Area {
    fd: OwnedFd,
    path: PathBuf,
}

impl Area {
    pub(crate) fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Area { fd, path }
    }

    /// The directory `name` of it, made where it is missing.
    pub(crate) fn make(&self, name: &str) -> Result<Area> {
        match mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.enter(name),
            Err(errno) => Err(self.failed("mkdir", name)(errno)),
        }
    }

    pub(crate) fn enter(&self, name: &str) -> Result<Area> {
        let fd =
            beneath::open(&self.fd, name, OFlags::DIRECTORY).map_err(self.failed("open", name))?;
        Ok(Area::new(fd, self.path.join(name)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For `map_err` after `op` on `name`.
    pub(crate) fn failed(&self, op: &'static str, name: &str) -> impl FnOnce(Errno) -> Error {
        let path = self.path.join(name);
        move |errno| Error::sys(op, &path)(errno)
    }

    pub(crate) fn has(&self, name: &str) -> Result<bool> {
        match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.failed("stat", name)(errno)),
        }
    }

    /// All names, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let failed = |errno| self.failed("read directory", "")(errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let name = CString::from(entry.map_err(failed)?.file_name());
            // Nothing of the store has another name than it gives.
            if let (false, Ok(name)) = (name.as_bytes().starts_with(b"."), name.into_string()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// A small file as a whole; None where there is none.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match beneath::open(&self.fd, name, flags) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.failed("open", name)(errno)),
        };
        let path = self.path.join(name);
        if !file
            .metadata()
            .map_err(Error::sys("stat", &path))?
            .is_file()
        {
            let why = "it is no regular file".to_owned();
            return Err(Fault::Malformed { path, why }.into());
        }
        let mut bytes = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::sys("read", &path))?;
        if bytes.len() as u64 > limit {
            return Err(Fault::TooLarge { path, limit }.into());
        }
        Ok(Some(bytes))
    }

    /// Makes a file with this content.
    pub(crate) fn create(&self, name: &str, bytes: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd =
            beneath::create(&self.fd, name, flags, mode).map_err(self.failed("create", name))?;
        let mut file = File::from(fd);
        let path = self.path.join(name);
        file.write_all(bytes).map_err(Error::sys("write", &path))?;
        Ok(file.into())
    }

    /// The same, on disk when the call returns; its name is there once [`sync`](Area::sync) was called.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.create(name, bytes)?;
        fsync(file).map_err(self.failed("fsync", name))
    }

    /// Waits until the names in it are on disk.
    pub(crate) fn sync(&self) -> Result<()> {
        fsync(&self.fd).map_err(self.failed("fsync", ""))
    }

    pub(crate) fn rename(&self, name: &str, to: &Area, new: &str) -> Result<()> {
        renameat(&self.fd, name, &to.fd, new).map_err(to.failed("rename to", new))
    }

    /// Removes a file; gone already is success.
    pub(crate) fn unlink(&self, name: &str) -> Result<()> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("unlink", name)(errno)),
        }
    }

    /// Opens `name`, a file or directory, and takes its lock, if nobody has it. None too where it is gone.
    pub(crate) fn try_lock(&self, name: &str) -> Result<Option<Locked>> {
        let file = match beneath::open(&self.fd, name, OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.failed("open", name)(errno)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Locked(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(self.failed("lock", name)(errno)),
        }
    }

    /// Takes the lock that is the file `name`, made where it is missing; waits for whoever has it.
    pub(crate) fn lock(&self, name: &str, operation: FlockOperation) -> Result<Locked> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let mode = Mode::RUSR | Mode::WUSR;
        loop {
            let file = beneath::create(&self.fd, name, flags, mode)
                .map_err(self.failed("open lock", name))?;
            self.wait(name, &file, operation)?;
            let file = Locked(file);
            // Removed meanwhile? Then the next one makes another, and would not wait for this.
            let held = rustix::fs::fstat(&file.0).map_err(self.failed("stat", name))?;
            let named = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
            if named.is_ok_and(|named| named.st_ino == held.st_ino) {
                return Ok(file);
            }
        }
    }

    fn wait(&self, name: &str, file: &OwnedFd, operation: FlockOperation) -> Result<()> {
        loop {
            match flock(file, operation) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("lock", name)(errno)),
            }
        }
    }
}

impl AsFd for Area {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A name that no other process or thread gives: who and when, for those who look; files are made only where there is none.
pub(crate) fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{}-{count}", std::process::id(), now.as_nanos())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::fs::{CWD, openat};

    use super::*;

    #[test]
    fn a_lock_that_is_removed_while_waited_for_is_taken_anew() {
        let path = std::env::temp_dir().join(unique());
        std::fs::create_dir(&path).unwrap();
        let fd = openat(
            CWD,
            &path,
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        let area = Area::new(fd, path.clone());
        let exclusive = FlockOperation::LockExclusive;
        let held = area.lock("lock", exclusive).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| area.lock("lock", exclusive).unwrap());
            // Until it waits, as the kernel tells.
            while !waits() {
                thread::yield_now();
            }
            area.unlink("lock").unwrap();
            drop(held);
            let _taken = waiting.join().unwrap();
            assert!(area.has("lock").unwrap());
            assert!(area.try_lock("lock").unwrap().is_none());
        });
        std::fs::remove_dir_all(path).unwrap();
    }

    /// Whether a thread of this process waits for a flock: `1: -> FLOCK ADVISORY WRITE 123 ...`.
    fn waits() -> bool {
        let own = format!(" {} ", std::process::id());
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks
            .lines()
            .any(|line| line.contains("->") && line.contains(&own))
    }
}
