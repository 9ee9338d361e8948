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

    /// One program's fd, and for a read from the caller's side, the other end.
    pub(crate) fn open(&self, stream: i32) -> Result<Stream> {
        let same = |fd| {
            Ok(Stream {
                inside: fd,
                outside: None,
            })
        };
        match &self.0 {
            Kind::Null => {
                let null = Path::new("/dev/null");
                let file = OpenOptions::new()
                    .read(stream == 0)
                    .write(stream != 0)
                    .open(null);
                same(file.map_err(Error::path("open", null))?.into())
            }
            Kind::Inherit => same(own(stream)?),
            Kind::Fd(fd) => same(fd.try_clone().map_err(Error::sys("duplicate a stream"))?),
            Kind::Piped => {
                let (read, write) =
                    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Error::sys("pipe2"))?;
                let (inside, outside) = if stream == 0 {
                    (read, write)
                } else {
                    (write, read)
                };
                Ok(Stream {
                    inside,
                    outside: Some(File::from(outside)),
                })
            }
        }
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
    pub(crate) inside: OwnedFd,
    pub(crate) outside: Option<File>,
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
