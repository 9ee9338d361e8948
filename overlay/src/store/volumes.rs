//! Directories by name that outlive the containers that write to them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    FlockOperation, Mode, OFlags, ResolveFlags, fchmod, flock, fstat, openat2, syncfs,
};
use rustix::io::Errno;

use super::Fault;
use super::area::{Area, unique};
use super::layout::open_root;
use super::remove::remove;
use crate::directory::by_fd;
use crate::error::{Error, ErrorKind, Result};
use crate::flatten::{Flatten, into_directory};
use crate::lock::Locked;
use crate::marks::Marks;

/// A directory of volumes: directories that are found by a name, made and filled when they are first used, and used by any
/// number of containers and processes at a time.
///
/// A volume appears by one rename(2) when all of it is there, so that nobody sees one half filled, and a process that is
/// killed leaves none. Two that use a new one at once get the same: the second waits until the first has filled it.
///
/// ```no_run
/// use std::fs::File;
/// use std::path::Path;
///
/// use cofferdam_overlay::VolumeStore;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = VolumeStore::open("/var/lib/app/volumes")?;
/// let root = File::open("/srv/debian")?;
/// let data = store.filled("db", &root, Path::new("/var/lib/postgresql"))?;
/// println!("{}", data.path().display()); // to be mounted on /var/lib/postgresql
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct VolumeStore {
    places: Arc<Places>,
}

/// | name | what |
/// |---|---|
/// | `volumes/<name>/data` | a whole volume |
/// | `volumes/<name>/lock` | held exclusively to make and to remove it, shared to use it |
/// | `removed/<unique>` | what is being filled or removed: garbage, once nobody has its lock |
#[derive(Debug)]
struct Places {
    root: Area,
    volumes: Area,
    removed: Area,
}

/// A volume in use: nobody can [remove](VolumeStore::remove) it as long as this value lives. That of a killed process ends
/// with it, and with those it forked without execve(2).
#[derive(Debug)]
#[must_use = "dropping the VolumeRef lets others remove the volume"]
pub struct VolumeRef {
    #[expect(dead_code, reason = "held, not read")]
    lock: Locked,
    path: PathBuf,
}

impl VolumeRef {
    /// The volume's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl VolumeStore {
    /// Opens the directory of volumes at `path`, or makes it, with mode 0700, for what is in volumes is not for other users of
    /// the host. What killed processes left is removed.
    ///
    /// # Errors
    /// `InvalidInput` for a directory that has something else in it, `PermissionDenied` for one that belongs to another user or
    /// that others may enter, and what the kernel says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let root = open_root(path.as_ref())?;
        if root.names()?.iter().any(|name| !OURS.contains(&&**name)) {
            let path = root.path().to_owned();
            return Err(Fault::NoVolumes { path }.into());
        }
        let [volumes, removed] = OURS.map(|name| root.make(name));
        let places = Places {
            volumes: volumes?,
            removed: removed?,
            root,
        };
        places.sweep()?;
        let places = Arc::new(places);
        Ok(VolumeStore { places })
    }

    /// Where the volume of this name is, or will be.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot be one: 1 to 128 letters, digits and `._-`, the first a letter or digit.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        check(name)?;
        Ok(self.places.volumes.path().join(name).join(DATA))
    }

    /// Uses the volume of this name, which is made, empty, mode 0755, the caller's, where there is none.
    ///
    /// # Errors
    /// As [`path`](Self::path), and what the kernel says.
    pub fn volume(&self, name: &str) -> Result<VolumeRef> {
        self.acquire(name, None)
    }

    /// The same, and where there is none it is made like the directory `path` of `root`: with owner, mode, xattrs and times, and a
    /// copy of all that is in it. Symbolic links in `path` stay inside of `root`. Where it is no directory, the volume is
    /// empty.
    ///
    /// # Errors
    /// As [`volume`](Self::volume) and [`flatten`](crate::flatten); then there is none.
    pub fn filled(&self, name: &str, root: impl AsFd, path: &Path) -> Result<VolumeRef> {
        self.acquire(name, Some((root.as_fd(), path)))
    }

    /// The names of all volumes, sorted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn names(&self) -> Result<Vec<String>> {
        let volumes = &self.places.volumes;
        let mut names = volumes.names()?;
        let mut failed = Ok(());
        names.retain(|name| match volumes.has(&format!("{name}/{DATA}")) {
            Ok(there) => there,
            Err(error) => {
                failed = Err(error);
                false
            }
        });
        failed.map(|()| names)
    }

    /// Removes a volume with all that is in it.
    ///
    /// # Errors
    /// `NotFound`, `Busy` while it is in use, and what the kernel says: then it is gone by its name, and
    /// [`open`](Self::open) removes the rest.
    pub fn remove(&self, name: &str) -> Result<()> {
        check(name)?;
        let volumes = &self.places.volumes;
        let path = volumes.path().to_owned();
        let name = name.to_owned();
        if !volumes.has(&format!("{name}/{DATA}"))? {
            return Err(Fault::NoVolume { path, name }.into());
        }
        let volume = volumes.enter(&name)?;
        let Some(_lock) = volume.try_lock(LOCK)? else {
            return Err(Fault::VolumeInUse { path, name }.into());
        };
        if !is_still(volumes, &name, &volume)? {
            return Err(Fault::NoVolume { path, name }.into());
        }
        self.places.throw_away(volumes, &name)
    }

    fn acquire(&self, name: &str, like: Option<(BorrowedFd<'_>, &Path)>) -> Result<VolumeRef> {
        let path = self.path(name)?;
        for _ in 0..TRIES {
            if let Some(lock) = self.try_acquire(name, like)? {
                return Ok(VolumeRef { lock, path });
            }
        }
        let path = self.places.volumes.path().to_owned();
        let name = name.to_owned();
        Err(Fault::NoVolume { path, name }.into())
    }

    /// None where it was removed meanwhile.
    fn try_acquire(
        &self,
        name: &str,
        like: Option<(BorrowedFd<'_>, &Path)>,
    ) -> Result<Option<Locked>> {
        let volumes = &self.places.volumes;
        let Some(volume) = unless_gone(volumes.make(name))? else {
            return Ok(None);
        };
        if !volume.has(DATA)? {
            let making = volume.lock(LOCK, FlockOperation::LockExclusive);
            let Some(_making) = unless_gone(making)? else {
                return Ok(None);
            };
            if is_still(volumes, name, &volume)? && !volume.has(DATA)? {
                self.places.fill(&volume, like)?;
            }
        }
        let lock = unless_gone(volume.lock(LOCK, FlockOperation::LockShared))?;
        let there = is_still(volumes, name, &volume)? && volume.has(DATA)?;
        Ok(lock.filter(|_| there))
    }
}

/// How often a volume is made that others remove at once.
const TRIES: usize = 1000;
const OURS: [&str; 2] = ["volumes", "removed"];
const DATA: &str = "data";
const LOCK: &str = "lock";

impl Places {
    /// Makes the data of `volume`, whose lock is held, aside, and moves it there.
    fn fill(&self, volume: &Area, like: Option<(BorrowedFd<'_>, &Path)>) -> Result<()> {
        let name = unique();
        let aside = self.removed.make(&name)?;
        flock(&aside, FlockOperation::NonBlockingLockExclusive)
            .map_err(self.removed.failed("lock", &name))?;
        let made = self.fill_aside(&aside, like);
        let moved = made.and_then(|()| {
            aside.rename(DATA, volume, DATA)?;
            volume.sync()
        });
        // The first error is the one to tell.
        let removed = remove(&self.removed, &name);
        moved.and(removed)
    }

    fn fill_aside(&self, aside: &Area, like: Option<(BorrowedFd<'_>, &Path)>) -> Result<()> {
        let model = match like {
            Some((root, path)) => directory_in(root, path)?,
            None => None,
        };
        let data = aside.make(DATA)?;
        let Some(model) = model else {
            let mode = Mode::from_raw_mode(0o755);
            return fchmod(&data, mode).map_err(aside.failed("chmod", DATA));
        };
        let model = PathBuf::from(by_fd(&model));
        into_directory(&[model], data.path(), Flatten::Copy, Marks::detect()?)?;
        syncfs(&data).map_err(aside.failed("syncfs", DATA))
    }

    /// Takes away the name at once, then what was there.
    fn throw_away(&self, from: &Area, name: &str) -> Result<()> {
        let aside = unique();
        from.rename(name, &self.removed, &aside)?;
        from.sync()?;
        remove(&self.removed, &aside)
    }

    /// Removes what killed processes were filling and removing.
    fn sweep(&self) -> Result<()> {
        let _alone = self.root.lock(".sweep", FlockOperation::LockExclusive)?;
        for name in self.removed.names()? {
            // Whoever fills it holds its lock.
            if let Some(_lock) = self.removed.try_lock(&name)? {
                remove(&self.removed, &name)?;
            }
        }
        Ok(())
    }
}

fn unless_gone<T>(done: Result<T>) -> Result<Option<T>> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

/// Whether `name` is still this directory.
fn is_still(volumes: &Area, name: &str, volume: &Area) -> Result<bool> {
    let Some(found) = unless_gone(volumes.enter(name))? else {
        return Ok(false);
    };
    let place = |area: &Area| {
        let stat = fstat(area).map_err(area.failed("stat", ""))?;
        Ok::<_, Error>((stat.st_dev, stat.st_ino))
    };
    Ok(place(&found)? == place(volume)?)
}

/// The directory that a program whose root directory is `root` has at `path`. None where it has none.
fn directory_in(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(Error::sys("open in the root", path)(errno)),
    }
}

fn check(name: &str) -> Result<()> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let first = name.bytes().next();
    if name.len() <= 128
        && name.bytes().all(valid)
        && first.is_some_and(|byte| byte.is_ascii_alphanumeric())
    {
        return Ok(());
    }
    let name = name.to_owned();
    Err(Fault::BadVolumeName { name }.into())
}
