//! What a container has for a root directory.

use std::path::PathBuf;

use cofferdam_namespaces::RootFs;
use cofferdam_overlay::Overlay;

use crate::error::{Result, Subject};

/// The root directory of a container.
#[derive(Clone, Debug)]
pub struct Rootfs {
    source: Source,
    read_only: bool,
}

#[derive(Clone, Debug)]
enum Source {
    Directory(PathBuf),
    Layers(Overlay),
}

impl Rootfs {
    /// A directory of the host, shared with it: what the container writes stays there. See
    /// [`layers`](Self::layers) for one that is left as it is.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Rootfs {
            source: Source::Directory(path.into()),
            read_only: false,
        }
    }

    /// Directories on top of each other, the top one first, under a throw-away upper in memory: the container can
    /// write, the layers stay as they are, and what was written ends with the container.
    #[must_use]
    pub fn layers(layers: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Rootfs {
            source: Source::Layers(Overlay::builder(layers).scratch()),
            read_only: false,
        }
    }

    /// At most so many bytes can be written to the throw-away upper of [`layers`](Self::layers); 1 GiB unless set.
    #[must_use]
    pub fn scratch_size(mut self, bytes: u64) -> Self {
        if let Source::Layers(overlay) = self.source {
            self.source = Source::Layers(overlay.scratch_size(bytes));
        }
        self
    }

    /// Nothing can be written but to volumes and other mounts.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The root for one start.
    pub(crate) fn open(&self, subject: &Subject) -> Result<RootFs> {
        let root = match &self.source {
            Source::Directory(path) => RootFs::directory(path),
            Source::Layers(overlay) => {
                let mount = overlay
                    .detached()
                    .map_err(subject.failed("mount the layers"))?;
                RootFs::mount(mount.into_fd())
            }
        };
        Ok(if self.read_only {
            root.read_only()
        } else {
            root
        })
    }
}
