//! What is where in a store.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::{fmt, fs, io};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, fchmod, fstat, openat};
use rustix::process::geteuid;

use super::Fault;
use super::area::Area;
use super::form::Form;
use crate::error::{Error, Result};
use crate::lock::Locked;

/// What a store's `version` says: the layout, and what form its layers have. Marks of a user namespace are none to overlays
/// outside of it, and the other way round: what is deleted would be seen again.
fn version(form: &Form) -> String {
    format!("cofferdam layers 1, {}", form.render())
}

/// More than any form has.
const LONGEST_VERSION: u64 = 32 << 10;

/// The tree of a layer, in its directory.
pub(crate) const TREE: &str = "tree";
/// What is known of a layer, in its directory.
pub(crate) const RECORD: &str = "record";

/// The open directories of a store.
///
/// | name | what | who may change it |
/// |---|---|---|
/// | `version` | the layout, and where marks are | made last of all, with its name |
/// | `lock` | held shared to find and to lease, exclusively to collect | |
/// | `layers/<chain>/` | `tree` and `record` of a whole layer | renamed there from `staging`, and back to be removed |
/// | `staging/<unique>` | what is being made or removed | whoever holds its lock; it is garbage where nobody does |
/// | `leases/<unique>` | what a process uses | the same |
/// | `locks/<chain>` | held by who makes that layer | |
/// | `pins/<name>` | what stays without a process | |
/// | `images/<digest>` | configs | |
pub(crate) struct Layout {
    pub(crate) root: Area,
    pub(crate) layers: Area,
    pub(crate) staging: Area,
    pub(crate) leases: Area,
    pub(crate) locks: Area,
    pub(crate) pins: Area,
    pub(crate) images: Area,
    pub(crate) form: Form,
}

impl fmt::Debug for Layout {
    /// Which store: every layer and image shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Layout").field(&self.root.path()).finish()
    }
}

impl Layout {
    /// Opens the store at `path`, or makes one there.
    pub(crate) fn open(path: &Path, form: Form) -> Result<Self> {
        let root = open_root(path)?;
        // Before anything is made in what may be something else.
        check_version(&root, &form)?;
        // Two that make one at once: the second finds it made.
        let _making = root.lock("lock", FlockOperation::LockExclusive)?;
        check_version(&root, &form)?;
        let layout = Layout {
            layers: root.make("layers")?,
            staging: root.make("staging")?,
            leases: root.make("leases")?,
            locks: root.make("locks")?,
            pins: root.make("pins")?,
            images: root.make("images")?,
            root,
            form,
        };
        layout.write_version()?;
        Ok(layout)
    }

    /// Whether both are of the same store.
    pub(crate) fn is(&self, other: &Layout) -> Result<bool> {
        let place = |layout: &Layout| {
            let found = fstat(&layout.root).map_err(layout.root.failed("stat", ""))?;
            Ok::<_, Error>((found.st_dev, found.st_ino))
        };
        Ok(place(self)? == place(other)?)
    }

    /// While it is held, nothing is collected.
    pub(crate) fn shared(&self) -> Result<Locked> {
        self.root.lock("lock", FlockOperation::LockShared)
    }

    /// While it is held, nobody finds, leases or begins anything.
    pub(crate) fn exclusive(&self) -> Result<Locked> {
        self.root.lock("lock", FlockOperation::LockExclusive)
    }

    fn write_version(&self) -> Result<()> {
        if self.root.has("version")? {
            return Ok(());
        }
        // A half-written one was left in staging at most.
        let name = super::area::unique();
        self.staging.write(&name, version(&self.form).as_bytes())?;
        self.staging.rename(&name, &self.root, "version")?;
        self.root.sync()
    }
}

pub(super) fn open_root(path: &Path) -> Result<Area> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::sys("mkdir", path)(error)),
    }
    let path = fs::canonicalize(path).map_err(Error::sys("open store", path))?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(CWD, &path, flags, Mode::empty()).map_err(Error::sys("open store", &path))?;
    let found = fstat(&fd).map_err(Error::sys("stat", &path))?;
    if found.st_uid != geteuid().as_raw() {
        let owner = found.st_uid;
        return Err(Fault::Foreign { path, owner }.into());
    }
    let root = Area::new(fd, path.clone());
    // What layers hold, setuid programs among them, is not for other users of the host.
    if root.names()?.is_empty() {
        fchmod(&root, Mode::RWXU).map_err(root.failed("chmod", ""))?;
    }
    let mode = fstat(&root).map_err(root.failed("stat", ""))?.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Fault::OpenToOthers { path, mode }.into());
    }
    Ok(root)
}

fn check_version(root: &Area, form: &Form) -> Result<()> {
    let path = root.path().to_owned();
    let Some(found) = root.read("version", LONGEST_VERSION)? else {
        let ours = [
            "images", "layers", "leases", "lock", "locks", "pins", "staging",
        ];
        return match root
            .names()?
            .iter()
            .all(|name| ours.contains(&name.as_str()))
        {
            true => Ok(()),
            false => Err(Fault::NoStore { path }.into()),
        };
    };
    let expected = version(form);
    if found == expected.as_bytes() {
        return Ok(());
    }
    let found = String::from_utf8_lossy(&found).into_owned();
    Err(Fault::Version {
        path,
        found,
        expected,
    }
    .into())
}
