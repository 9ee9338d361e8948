//! What containers have mounted on their roots: directories of the host, named volumes, memory.

use std::io;
use std::path::{Path, PathBuf};

use cofferdam_namespaces::{IdMap, Mount};
use cofferdam_overlay::{VolumeRef, VolumeStore};

use crate::builder::ContainerBuilder;
use crate::error::{Result, Subject};
use crate::rootfs::Opened;

/// A directory of named volumes, which outlive containers. A cheap handle, for any thread.
///
/// ```no_run
/// use cofferdam::{Container, Rootfs, Volumes};
///
/// # fn main() -> cofferdam::Result<()> {
/// let volumes = Volumes::open("/var/lib/app/volumes")?;
/// let db = Container::builder()
///     .rootfs(Rootfs::layers(["/srv/debian"]))
///     .volume(volumes.volume("db")?, "/var/lib/redis") // made and filled at the first start
///     .command("/usr/bin/redis-server")
///     .start()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Volumes {
    store: VolumeStore,
    path: PathBuf,
}

impl Volumes {
    /// Opens the directory of volumes at `path`; makes it, with mode 0700, where there is none.
    ///
    /// # Errors
    /// `InvalidInput` for a directory with something else in it, `PermissionDenied` for one that other users may enter, and what
    /// the kernel says.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let subject = Subject::volumes(&path);
        let store = VolumeStore::open(&path).map_err(subject.failed("open"))?;
        Ok(Volumes { store, path })
    }

    /// The volume of this name. It is made by the first container that starts with it, and filled with what that one's root has
    /// in its place, with owners and modes.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not 1 to 128 letters, digits and `._-`, beginning with a letter or digit.
    pub fn volume(&self, name: impl Into<String>) -> Result<Volume> {
        let name = name.into();
        let path = self.store.path(&name);
        let path = path.map_err(self.subject().failed("name a volume"))?;
        Ok(Volume::of(Source::Named(Named {
            store: self.store.clone(),
            name,
            path,
            target: PathBuf::new(),
            fill: true,
        })))
    }

    /// The names of all volumes, sorted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn names(&self) -> Result<Vec<String>> {
        self.store.names().map_err(self.subject().failed("list"))
    }

    /// Removes a volume with all that is in it.
    ///
    /// # Errors
    /// `NotFound`; `Busy` while a container of any living process uses it; what the kernel says.
    pub fn remove(&self, name: &str) -> Result<()> {
        let removed = self.store.remove(name);
        removed.map_err(self.subject().failed("remove a volume"))
    }

    fn subject(&self) -> Subject {
        Subject::volumes(&self.path)
    }
}

/// Something that a container has [mounted](ContainerBuilder::volume) on its root: any path is a bind mount of it,
/// [`Volumes::volume`] gives named ones.
///
/// The source of a bind mount is resolved on the host, once, symbolic links included, unless [`nofollow`](Self::nofollow). The
/// place it is mounted on is resolved inside of the root: no link in there leads out.
///
/// ```no_run
/// use cofferdam::{Container, Rootfs, Volume};
///
/// let app = Container::builder()
///     .rootfs(Rootfs::layers(["/srv/debian"]))
///     .volume("/srv/data", "/data") // as Volume::bind("/srv/data")
///     .volume(Volume::bind("/srv/static").read_only().nosuid().nodev(), "/static")
///     .volume(Volume::tmpfs(16 << 20).noexec(), "/var/cache");
/// ```
#[derive(Clone, Debug)]
#[must_use = "a Volume does nothing until a container starts with it"]
pub struct Volume {
    source: Source,
    options: Vec<fn(Mount) -> Mount>,
    mode: Option<u32>,
    map: Option<IdMap>,
}

#[derive(Clone, Debug)]
enum Source {
    Bind(PathBuf),
    Tmpfs(u64),
    Named(Named),
}

/// A named volume of one container.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    store: VolumeStore,
    name: String,
    path: PathBuf,
    target: PathBuf,
    fill: bool,
}

impl Volume {
    /// A file or directory of the host, with all that is mounted below it.
    pub fn bind(source: impl Into<PathBuf>) -> Self {
        Self::of(Source::Bind(source.into()))
    }

    /// An empty filesystem in memory of at most so many bytes, mode 1777 unless [set](Self::mode).
    pub fn tmpfs(bytes: u64) -> Self {
        Self::of(Source::Tmpfs(bytes))
    }

    fn of(source: Source) -> Self {
        Volume {
            source,
            options: Vec::new(),
            mode: None,
            map: None,
        }
    }

    /// A new named volume is empty, whatever the root has in its place.
    pub fn empty(mut self) -> Self {
        if let Source::Named(named) = &mut self.source {
            named.fill = false;
        }
        self
    }

    /// Permission bits of a tmpfs's root. The others have their own: an error of the start.
    pub fn mode(mut self, bits: u32) -> Self {
        self.mode = Some(bits);
        self
    }

    /// Nothing can be written to it, nor to what is mounted below it.
    pub fn read_only(self) -> Self {
        self.option(Mount::read_only)
    }

    /// Set-user-ID bits and file capabilities do not count in it.
    pub fn nosuid(self) -> Self {
        self.option(Mount::nosuid)
    }

    /// Devices in it cannot be opened.
    pub fn nodev(self) -> Self {
        self.option(Mount::nodev)
    }

    /// Programs in it cannot be executed.
    pub fn noexec(self) -> Self {
        self.option(Mount::noexec)
    }

    /// A bind mount whose source no symbolic link may lead to: for sources that others can write to.
    pub fn nofollow(self) -> Self {
        self.option(Mount::nofollow)
    }

    /// Without what is mounted below it on the host.
    pub fn no_recurse(self) -> Self {
        self.option(Mount::no_recurse)
    }

    /// What the host mounts below it later on shows up inside: [`Mount::slave`].
    pub fn slave(self) -> Self {
        self.option(Mount::slave)
    }

    /// And what is mounted inside shows up on the host: [`Mount::shared`].
    pub fn shared(self) -> Self {
        self.option(Mount::shared)
    }

    /// Its files have the owners inside that they have outside: [`Mount::idmapped`].
    pub fn idmapped(mut self, map: IdMap) -> Self {
        self.map = Some(map);
        self
    }

    fn option(mut self, option: fn(Mount) -> Mount) -> Self {
        self.options.push(option);
        self
    }

    /// The mount, and what has to be there before.
    fn at(self, target: PathBuf) -> (Mount, Option<Named>) {
        let (mount, named) = match self.source {
            Source::Bind(source) => (Mount::bind(source, target), None),
            Source::Tmpfs(bytes) => (Mount::tmpfs(target, bytes), None),
            Source::Named(mut named) => {
                named.target = target.clone();
                (Mount::bind(&named.path, target), Some(named))
            }
        };
        let mount = self
            .options
            .into_iter()
            .fold(mount, |mount, set| set(mount));
        let mount = self.mode.into_iter().fold(mount, Mount::mode);
        (self.map.into_iter().fold(mount, Mount::idmapped), named)
    }
}

impl Named {
    /// Makes it, and fills it from `root`, if it is new.
    pub(crate) fn acquire(&self, subject: &Subject, root: &Opened) -> Result<VolumeRef> {
        if !self.fill {
            let volume = self.store.volume(&self.name);
            return volume.map_err(subject.failed("make a volume"));
        }
        let root = root.fd();
        let root = root.map_err(subject.failed::<io::Error>("open the root to fill a volume"))?;
        let volume = self.store.filled(&self.name, root, &self.target);
        volume.map_err(subject.failed("fill a volume"))
    }
}

impl From<&Volume> for Volume {
    fn from(volume: &Volume) -> Self {
        volume.clone()
    }
}

macro_rules! bind {
    ($($path:ty),*) => { $(
        /// A bind mount of it.
        impl From<$path> for Volume {
            fn from(source: $path) -> Self {
                Volume::bind(source)
            }
        }
    )* };
}
bind!(&str, String, &Path, PathBuf, &PathBuf);

/// # Volumes
impl ContainerBuilder {
    /// A file or directory of the host, or any other [`Volume`], seen at `target` inside. Needs a root.
    pub fn volume(mut self, volume: impl Into<Volume>, target: impl Into<PathBuf>) -> Self {
        let (mount, named) = volume.into().at(target.into());
        self.named.extend(named);
        self.mount(mount)
    }
}
