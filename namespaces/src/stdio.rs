//! Where a program's standard streams lead.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::pipe::PipeFlags;

use crate::error::{Error, Result};

/// Where one standard stream of a program leads.
#[derive(Clone, Debug, Default)]
pub struct Stdio(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    #[default]
    Null,
    Inherit,
    Piped,
    Fd(Arc<OwnedFd>),
}

impl Stdio {
    /// `/dev/null`. The default: a library's program does not take its embedder's terminal.
    #[must_use]
    pub fn null() -> Self {
        Stdio(Kind::Null)
    }

    /// The caller's own stream.
    #[must_use]
    pub fn inherit() -> Self {
        Stdio(Kind::Inherit)
    }

    /// A pipe(2), whose other end is in the [`Spawned`](crate::Spawned).
    #[must_use]
    pub fn piped() -> Self {
        Stdio(Kind::Piped)
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.0, Kind::Null)
    }

    /// Opens the three of a program, all that are null as one fd.
    pub(crate) fn open([stdin, stdout, stderr]: &[Stdio; 3]) -> Result<[Stream; 3]> {
        let mut null = None;
        Ok([
            stdin.stream(0, &mut null)?,
            stdout.stream(1, &mut null)?,
            stderr.stream(2, &mut null)?,
        ])
    }

    fn stream(&self, number: i32, null: &mut Option<Arc<OwnedFd>>) -> Result<Stream> {
        let (inside, outside) = match &self.0 {
            Kind::Null => (dev_null(null)?, None),
            Kind::Inherit => (Arc::new(own(number)?), None),
            Kind::Fd(fd) => (Arc::clone(fd), None),
            Kind::Piped => {
                let (read, write) =
                    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Error::sys("pipe2"))?;
                let (inside, outside) = if number == 0 {
                    (read, write)
                } else {
                    (write, read)
                };
                (Arc::new(inside), Some(File::from(outside)))
            }
        };
        Ok(Stream { inside, outside })
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Stdio(Kind::Fd(Arc::new(fd)))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        Self::from(OwnedFd::from(file))
    }
}

/// A stream as opened for one start.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) inside: Arc<OwnedFd>,
    pub(crate) outside: Option<File>,
}

/// `/dev/null`, opened at the first call.
fn dev_null(opened: &mut Option<Arc<OwnedFd>>) -> Result<Arc<OwnedFd>> {
    if let Some(fd) = opened {
        return Ok(Arc::clone(fd));
    }
    let path = Path::new("/dev/null");
    let file = OpenOptions::new().read(true).write(true).open(path);
    let fd = Arc::new(OwnedFd::from(file.map_err(Error::path("open", path))?));
    Ok(Arc::clone(opened.insert(fd)))
}

/// A duplicate of the caller's stream 0, 1 or 2.
fn own(stream: i32) -> Result<OwnedFd> {
    use std::os::fd::AsFd;
    let duplicate = match stream {
        0 => std::io::stdin().as_fd().try_clone_to_owned(),
        1 => std::io::stdout().as_fd().try_clone_to_owned(),
        _ => std::io::stderr().as_fd().try_clone_to_owned(),
    };
    duplicate.map_err(Error::sys("duplicate a standard stream"))
}
