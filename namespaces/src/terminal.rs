//! Pseudoterminals.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::error::{Error, Result};

/// The caller's end of a program's terminal: what is written is typed, what is read was printed.
///
/// Reading ends, with 0 bytes, once no process has the other end open. Dropping it hangs the terminal up: its session
/// leader gets `SIGHUP`.
#[derive(Debug)]
pub struct Terminal(File);

impl Terminal {
    pub(crate) fn new(master: OwnedFd) -> Self {
        Terminal(master.into())
    }

    /// Tells the terminal, and by `SIGWINCH` the programs on it, its size.
    ///
    /// # Errors
    /// None that is known of, as `TIOCSWINSZ` is of the caller's own fd.
    #[doc(alias = "TIOCSWINSZ")]
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        set_size(self.as_fd(), rows, columns)
    }

    /// Another handle of the same end, to read on one thread and write on another.
    ///
    /// # Errors
    /// `Os` (`EMFILE`) if there are too many fds.
    pub fn try_clone(&self) -> Result<Self> {
        let file = self.0.try_clone().map_err(Error::sys("dup a terminal"))?;
        Ok(Terminal(file))
    }
}

impl Read for &Terminal {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match (&self.0).read(bytes) {
            // What Linux says when the last one on the other end has gone.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            other => other,
        }
    }
}

impl Read for Terminal {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self).read(bytes)
    }
}

impl Write for &Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Terminal> for OwnedFd {
    fn from(terminal: Terminal) -> Self {
        terminal.0.into()
    }
}

/// Both ends of a new one: the caller's, and the program's.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

impl Pair {
    /// One of the caller's devpts.
    pub(crate) fn open(size: (u16, u16)) -> Result<Self> {
        let path = Path::new("/dev/ptmx");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = rustix::fs::openat(CWD, path, flags, Mode::empty());
        Self::of(master.map_err(Error::path("open", path))?, size)
    }

    /// One of the devpts that process `pid` has at `/dev/pts`, which is hostile: nothing but a ptmx of a devpts is opened, and no
    /// link is followed (CVE-2025-52565).
    pub(crate) fn open_in(pid: u32, size: (u16, u16)) -> Result<Self> {
        const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
        let root = format!("/proc/{pid}/root");
        let path = format!("{root}/dev/pts/ptmx");
        let path = Path::new(&path);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &root, flags | OFlags::DIRECTORY, Mode::empty())
            .map_err(Error::path("open", path))?;
        let resolve =
            ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let found = rustix::fs::openat2(root, "dev/pts/ptmx", flags, Mode::empty(), resolve)
            .map_err(Error::path("open", path))?;
        let stat = rustix::fs::fstat(&found).map_err(Error::path("stat", path))?;
        let filesystem = rustix::fs::fstatfs(&found).map_err(Error::path("statfs", path))?;
        let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == libc::makedev(5, 2)
            && filesystem.f_type as u64 == DEVPTS_SUPER_MAGIC;
        if !is_ptmx {
            let reason = "is not the ptmx of a devpts";
            return Err(Error::invalid("terminal", path, reason));
        }
        let master = crate::sys::reopen(found.as_fd()).map_err(Error::path("open", path))?;
        Self::of(master, size)
    }

    /// By `TIOCGPTPEER`, which looks up no path.
    fn of(master: OwnedFd, (rows, columns): (u16, u16)) -> Result<Self> {
        rustix::pty::unlockpt(&master).map_err(Error::sys("unlock a terminal"))?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)
            .map_err(Error::sys("open the other end of a terminal"))?;
        set_size(master.as_fd(), rows, columns)?;
        Ok(Pair { master, slave })
    }
}

fn set_size(fd: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(fd, size).map_err(Error::sys("resize a terminal"))
}
