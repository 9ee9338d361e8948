//! The store of several processes: a directory with a file for each network.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, fstat, fsync, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::network::Network;
use super::outline::{Outline, Outlines, Version};
use super::store::{Store, absent};
use super::text;
use crate::error::{Error, ErrorKind, Result};

const LOCK: &str = "lock";
/// Where a file is written before it has its name. One is enough: who writes has the lock.
const FRESH: &str = "fresh";
const SUFFIX: &str = ".net";

/// How long the lock is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Some 200,000 leases with the longest owners. A file that is larger is none of ours.
const LARGEST: usize = 64 << 20;

const FILE: Mode = Mode::from_raw_mode(0o600);

#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    outlines: Mutex<Outlines>,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let what = |call| format!("{call} {}", path.display());
        match mkdirat(CWD, path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::sys(what("mkdir"), errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| Error::sys(what("open"), errno))?;
        let path = path.to_owned();
        let outlines = Mutex::default();
        Ok(Directory { fd, path, outlines })
    }

    /// Waits for the lock. Each call has an fd of its own for it: threads of this process wait for each other, too.
    pub(super) fn lock(&self) -> Result<Locked<'_>> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(50);
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(Locked {
                    directory: self,
                    lock,
                });
            }
            if Instant::now() >= deadline {
                let why = format!("another has had it for {} s", PATIENCE.as_secs());
                return Err(Error::plain(ErrorKind::Busy, self.what("lock", LOCK), why));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    /// `None` where another has it, or the file was replaced in the meantime: then two could have "the" lock.
    fn try_lock(&self) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let failed = |call| move |errno: Errno| self.failed(call, LOCK, errno);
        let lock = openat(&self.fd, LOCK, flags, FILE).map_err(failed("open"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
            locked => locked.map_err(failed("flock"))?,
        }
        let held = fstat(&lock).map_err(failed("stat"))?;
        let named = match statat(&self.fd, LOCK, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            named => named.map_err(failed("stat"))?,
        };
        let same = (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino);
        Ok(same.then_some(lock))
    }

    fn read(&self, file: &str) -> Result<Option<String>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = match openat(&self.fd, file, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(|errno| self.failed("open", file, errno))?,
        };
        let mut text = Vec::new();
        let most = LARGEST as u64 + 1;
        let read = File::from(opened).take(most).read_to_end(&mut text);
        read.map_err(|error| Error::sys(self.what("read", file), error))?;
        if text.len() > LARGEST {
            return Err(self.malformed(file, "it is larger than 64 MiB"));
        }
        let text = String::from_utf8(text);
        text.map(Some)
            .map_err(|_error| self.malformed(file, "it is not text"))
    }

    /// Either the file of before stays or the new one takes its place, whole.
    fn replace(&self, file: &str, text: &str) -> Result<()> {
        if text.len() > LARGEST {
            let why = "it would be larger than 64 MiB";
            let what = self.what("write", file);
            return Err(Error::plain(ErrorKind::Exhausted, what, why));
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fresh = openat(&self.fd, FRESH, flags, FILE)
            .map_err(|errno| self.failed("open", FRESH, errno))?;
        let mut fresh = File::from(fresh);
        fresh
            .write_all(text.as_bytes())
            .and_then(|()| fresh.sync_all())
            .map_err(|error| Error::sys(self.what("write", FRESH), error))?;
        renameat(&self.fd, FRESH, &self.fd, file)
            .map_err(|errno| self.failed("rename to", file, errno))?;
        self.sync()
    }

    fn unlink(&self, file: &str) -> Result<bool> {
        match unlinkat(&self.fd, file, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(false),
            unlinked => {
                unlinked.map_err(|errno| self.failed("unlink", file, errno))?;
                self.sync().map(|()| true)
            }
        }
    }

    fn sync(&self) -> Result<()> {
        fsync(&self.fd).map_err(|errno| self.failed("fsync", ".", errno))
    }

    /// The names of the networks, in order.
    fn names(&self) -> Result<Vec<String>> {
        let failed = |errno| self.failed("list", ".", errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().ok();
            names.extend(name.and_then(|n| n.strip_suffix(SUFFIX)).map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn network(&self, name: &str) -> Result<Option<Network>> {
        let file = format!("{name}{SUFFIX}");
        let Some(text) = self.read(&file)? else {
            return Ok(None);
        };
        let network = text::parse(&text).map_err(|why| self.malformed(&file, &why))?;
        if network.name() != name {
            return Err(self.malformed(&file, &format!("it is of network {}", network.name())));
        }
        Ok(Some(network))
    }

    /// `None` where there is no such file.
    fn outline(&self, name: &str) -> Result<Option<Outline>> {
        let file = format!("{name}{SUFFIX}");
        let version = match statat(&self.fd, file.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => Version::of(&stat.map_err(|errno| self.failed("stat", &file, errno))?),
        };
        let outlines = || self.outlines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outline) = outlines().find(name, &version) {
            return Ok(Some(outline.clone()));
        }
        let now = SystemTime::now(); // before it is read
        let outline = self.network(name)?.as_ref().map(Outline::of);
        if let Some(outline) = &outline {
            outlines().put(version, outline, now);
        }
        Ok(outline)
    }

    fn forget_all_but(&self, names: &[String]) {
        let mut outlines = self.outlines.lock().unwrap_or_else(PoisonError::into_inner);
        outlines.keep(names);
    }

    fn malformed(&self, file: &str, why: &str) -> Error {
        Error::plain(ErrorKind::Malformed, self.what("read", file), why)
    }

    fn failed(&self, call: &str, file: &str, errno: Errno) -> Error {
        Error::sys(self.what(call, file), errno)
    }

    fn what(&self, call: &str, file: &str) -> String {
        format!("{call} {}", self.path.join(file).display())
    }
}

/// The directory while nobody else may use it.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    directory: &'a Directory,
    lock: OwnedFd,
}

impl Store for Locked<'_> {
    fn read(&mut self, name: &str) -> Result<Network> {
        self.directory.network(name)?.ok_or_else(|| absent(name))
    }

    fn outlines(&mut self) -> Result<Vec<Outline>> {
        let names = self.names()?;
        self.directory.forget_all_but(&names);
        let outline = |name: &String| self.directory.outline(name)?.ok_or_else(|| absent(name));
        names.iter().map(outline).collect()
    }

    fn write(&mut self, network: &Network) -> Result<()> {
        let file = format!("{}{SUFFIX}", network.name());
        self.directory.replace(&file, &text::render(network))
    }

    fn remove(&mut self, name: &str) -> Result<bool> {
        self.directory.unlink(&format!("{name}{SUFFIX}"))
    }

    fn names(&mut self) -> Result<Vec<String>> {
        self.directory.names()
    }
}

impl Drop for Locked<'_> {
    /// A child that another thread forked may have a copy of the fd until it executes: closing ours would not do.
    fn drop(&mut self) {
        let _unlocked = flock(&self.lock, FlockOperation::Unlock).is_ok();
    }
}
