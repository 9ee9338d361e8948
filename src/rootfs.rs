//! What a container has for a root directory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use cofferdam_namespaces::RootFs;
use cofferdam_overlay::{Diff, Image, ImageConfig, LayerRef, Overlay, OverlayMount};
use cofferdam_overlay::{ScratchUpper, UpperLock};

use crate::error::{Result, Subject};

/// The root directory of a container: a directory, or layers with something on top that is written to.
///
/// ```no_run
/// use cofferdam::overlay::{ImageSource, LayerStore};
/// use cofferdam::{Container, Rootfs};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = LayerStore::open("/var/lib/app/layers")?;
/// let image = store.import(&ImageSource::layout("/srv/redis"))?;
/// let db = Container::builder().rootfs(Rootfs::image(image)).start()?; // runs what the image says
/// let layer = db.commit(&store)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Rootfs {
    source: Source,
    read_only: bool,
}

#[derive(Clone, Debug)]
enum Source {
    Directory(PathBuf),
    Layers(Box<Layers>),
}

#[derive(Clone, Debug)]
struct Layers {
    overlay: Overlay,
    directories: Vec<PathBuf>,
    /// The upper the caller named.
    upper: Option<PathBuf>,
    base: Base,
}

/// What of a store the layers are: it is not collected as long as this lives.
#[derive(Clone, Debug)]
pub(crate) enum Base {
    None,
    Layer(Arc<LayerRef>),
    Image(Arc<Image>),
}

impl Base {
    pub(crate) fn layer(&self) -> Option<&LayerRef> {
        match self {
            Base::None => None,
            Base::Layer(layer) => Some(layer),
            Base::Image(image) => image.layer(),
        }
    }

    pub(crate) fn config(&self) -> Option<&ImageConfig> {
        match self {
            Base::Image(image) => Some(image.config()),
            Base::None | Base::Layer(_) => None,
        }
    }
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
        let directories = layers.into_iter().map(Into::into).collect();
        Self::stacked(directories, Base::None)
    }

    /// A layer of a [`LayerStore`](cofferdam_overlay::LayerStore) and those below it, else as [`layers`](Self::layers).
    #[must_use]
    pub fn layer(layer: impl Into<Arc<LayerRef>>) -> Self {
        let layer = layer.into();
        Self::stacked(layer.directories(), Base::Layer(layer))
    }

    /// An image of a [`LayerStore`](cofferdam_overlay::LayerStore), else as [`layers`](Self::layers). What the image says of program,
    /// arguments, environment, working directory and user holds where the builder says nothing: a
    /// [`command`](crate::ContainerBuilder::command) takes the place of entrypoint and command, [`args`](crate::ContainerBuilder::args)
    /// alone that of the command. Its working directory has to exist.
    #[must_use]
    pub fn image(image: impl Into<Arc<Image>>) -> Self {
        let image = image.into();
        Self::stacked(image.directories(), Base::Image(image))
    }

    fn stacked(directories: Vec<PathBuf>, base: Base) -> Self {
        Rootfs {
            source: Source::Layers(Box::new(Layers {
                overlay: Overlay::builder(&directories).scratch(),
                directories,
                upper: None,
                base,
            })),
            read_only: false,
        }
    }

    /// At most so many bytes can be written to the throw-away upper of layers; 1 GiB unless set. Takes the place of
    /// [`upperdir`](Self::upperdir); says nothing to a directory.
    #[must_use]
    pub fn scratch_size(self, bytes: u64) -> Self {
        self.upper(None, |overlay| overlay.scratch_size(bytes))
    }

    /// What the container writes stays in the directory `upper`, and is there when it starts again. `work` is an empty
    /// directory beside it that overlayfs needs. One container at a time: the second start is `Busy`. Says nothing to a
    /// directory, which is written to itself.
    #[must_use]
    pub fn upperdir(self, upper: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Self {
        let upper = upper.into();
        self.upper(Some(upper.clone()), |overlay| overlay.upperdir(upper, work))
    }

    fn upper(mut self, upper: Option<PathBuf>, set: impl FnOnce(Overlay) -> Overlay) -> Self {
        if let Source::Layers(layers) = &mut self.source {
            layers.overlay = set(layers.overlay.clone());
            layers.upper = upper;
        }
        self
    }

    /// Nothing can be written but to volumes and other mounts.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// What the image says is to be run.
    pub(crate) fn config(&self) -> Option<&ImageConfig> {
        match &self.source {
            Source::Directory(_) => None,
            Source::Layers(layers) => layers.base.config(),
        }
    }

    /// The root for one start.
    pub(crate) fn open(&self, subject: &Subject) -> Result<Opened> {
        let root = match &self.source {
            Source::Directory(path) => Root::Directory(path.clone()),
            Source::Layers(layers) => {
                let mount = layers.overlay.detached();
                let mount = mount.map_err(subject.failed("mount the layers"))?;
                Root::Layers(Box::new((mount, Layers::clone(layers))))
            }
        };
        Ok(Opened {
            root,
            read_only: self.read_only,
        })
    }
}

/// A root that is there, before the container starts.
#[derive(Debug)]
pub(crate) struct Opened {
    root: Root,
    read_only: bool,
}

#[derive(Debug)]
enum Root {
    Directory(PathBuf),
    Layers(Box<(OverlayMount, Layers)>),
}

impl Opened {
    /// To look into it.
    pub(crate) fn fd(&self) -> io::Result<OwnedFd> {
        match &self.root {
            Root::Directory(path) => File::open(path).map(OwnedFd::from),
            Root::Layers(layers) => layers.0.as_fd().try_clone_to_owned(),
        }
    }

    /// What is started in, and what it writes to if that is not the directory itself.
    pub(crate) fn into_root(self) -> (RootFs, Option<Written>) {
        let (root, written) = match self.root {
            Root::Directory(path) => (RootFs::directory(path), None),
            Root::Layers(both) => {
                let (mut mount, layers) = *both;
                let written = Written::of(&mut mount, layers);
                (RootFs::mount(mount.into_fd()), written)
            }
        };
        let root = if self.read_only {
            root.read_only()
        } else {
            root
        };
        (root, written)
    }
}

/// Where a container's writes are.
#[derive(Debug)]
pub(crate) struct Written {
    upper: Upper,
    directories: Vec<PathBuf>,
    pub(crate) base: Base,
}

#[derive(Debug)]
enum Upper {
    Scratch(ScratchUpper),
    /// With what keeps it for this container alone.
    Named(
        PathBuf,
        #[expect(dead_code, reason = "held, not read")] Option<UpperLock>,
    ),
}

impl Written {
    fn of(mount: &mut OverlayMount, layers: Layers) -> Option<Self> {
        let upper = match layers.upper {
            Some(path) => Upper::Named(path, mount.take_lock()),
            None => Upper::Scratch(mount.take_upper()?),
        };
        Some(Written {
            upper,
            directories: layers.directories,
            base: layers.base,
        })
    }

    pub(crate) fn path(&self) -> PathBuf {
        match &self.upper {
            Upper::Scratch(upper) => upper.path(),
            Upper::Named(path, _) => path.clone(),
        }
    }

    pub(crate) fn diff(&self) -> Diff {
        Diff::of(self.path()).lower(&self.directories)
    }
}
