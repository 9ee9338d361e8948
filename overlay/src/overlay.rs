//! What is to be mounted: layers, and what is on top of them.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{StatVfsMountFlags, fstatvfs};

use crate::error::{Error, Inner, Result};
use crate::idmap::Idmap;
use crate::lock::{self, UpperLock};
use crate::mount::{Made, MountedOverlay, OverlayMount};
use crate::options::{Attributes, Fsync, Options, RedirectDir, Switch, Verity, Xino};
use crate::support::Support;
use crate::upper::{Directories, Upper};
use crate::{classic, directory, fallback, native, upper, volatile};

/// The most layers overlayfs stacks: `OVL_MAX_STACK` of the kernel. An upper does not count.
pub(crate) const MAX_LAYERS: usize = 500;

/// Layers to stack and what is on top of them: a description, nothing is mounted yet.
///
/// Without [`upperdir`](Overlay::upperdir) and [`scratch`](Overlay::scratch) it is read-only as a filesystem, which nobody can
/// change by its mount. That holds for a single layer too: it is stacked over an empty directory. One description can be
/// mounted any number of times, except with an upperdir: it is locked for one mount at a time, since two mounts that share one
/// are undefined behaviour to overlayfs, which does not refuse them. See [`UpperLock`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "nothing is mounted before `detached` or `mount`"]
pub struct Overlay {
    layers: Vec<PathBuf>,
    data: Vec<PathBuf>,
    idmaps: Vec<Idmap>,
    upper: Option<Upper>,
    read_only: bool,
    options: Options,
    attributes: Attributes,
    copy: Option<PathBuf>,
    /// Nothing but empty layers, so many of them only for data, to see what the kernel takes.
    trial: Option<usize>,
}

impl Overlay {
    /// The size of a [`scratch`](Overlay::scratch) upper, in bytes: 1 GiB.
    pub const SCRATCH_SIZE: u64 = 1 << 30;

    /// Stacks `layers`, the top one first. They are opened when it is mounted, relative ones below the working
    /// directory; a symlink is followed. Names may hold any bytes, in any length that can be opened.
    pub fn builder(layers: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Overlay {
            layers: layers.into_iter().map(Into::into).collect(),
            data: Vec::new(),
            idmaps: Vec::new(),
            upper: None,
            read_only: false,
            options: Options::default(),
            attributes: Attributes::default(),
            copy: None,
            trial: None,
        }
    }

    /// An overlay of nothing, with `data` layers that only hold data.
    pub(crate) fn trial(data: usize) -> Self {
        Overlay {
            trial: Some(data),
            ..Overlay::builder(Vec::<PathBuf>::new())
        }
    }

    /// What this process can have of overlayfs on this kernel, by mounting overlays of nothing that are attached nowhere.
    /// It is found out once, which takes a few milliseconds, and remembered for the whole process.
    #[must_use]
    pub fn probe() -> Support {
        Support::probed()
    }

    /// Makes an upper that a volatile mount left usable again: syncs its filesystem by syncfs(2), then removes the mark
    /// `work/incompat/volatile`. Without a mark nothing is done.
    ///
    /// Only the caller knows whether what was written is all there: if the machine crashed or lost power since that mount,
    /// files may be empty or torn, and the upper is better thrown away.
    ///
    /// # Errors
    /// `Busy` while an overlay uses it; `NotFound` or `InvalidInput` (`ENOTDIR`) for the directories; `PermissionDenied`
    /// without the right to write to them; `Os` where syncing fails, and then the mark stays.
    pub fn clean_volatile(upper: impl AsRef<Path>, work: impl AsRef<Path>) -> Result<()> {
        volatile::clean(upper.as_ref(), work.as_ref())
    }

    /// Layers that are seen only through files above that name them (`metacopy` with a redirect), the first one first, as
    /// by `datadir+`. They count towards the 500. Turns [`metacopy`](Overlay::metacopy) on, except with `userxattr`. Linux 6.5.
    pub fn data_layers(mut self, layers: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.data = layers.into_iter().map(Into::into).collect();
        self
    }

    /// The files of all layers have owners by the ids of the user namespace behind `namespace`, as by `MOUNT_ATTR_IDMAP`: what
    /// the layer says is id 0 is shown as what that namespace's 0 is. Not those of data-only layers and of the upper.
    /// Linux 5.19, and a filesystem that can; needs `CAP_SYS_ADMIN` in the initial user namespace.
    pub fn idmap(mut self, namespace: impl Into<OwnedFd>) -> Self {
        self.idmaps.push(Idmap {
            layer: None,
            namespace: Arc::new(namespace.into()),
        });
        self
    }

    /// As [`idmap`](Overlay::idmap) for one layer, counted from 0 at the top; it goes before one for all.
    pub fn idmap_layer(mut self, layer: usize, namespace: impl Into<OwnedFd>) -> Self {
        self.idmaps.push(Idmap {
            layer: Some(layer),
            namespace: Arc::new(namespace.into()),
        });
        self
    }

    /// Nothing is synced to the upper's disk: copying up a small file is several times faster, and unmounting does not wait.
    /// On for a scratch upper unless switched off, off for an [`upperdir`](Overlay::upperdir) unless switched on.
    ///
    /// An upperdir is then `Unsynced` at its next mount, until [`clean_volatile`](Overlay::clean_volatile). Linux 5.10.
    pub fn volatile(mut self, volatile: Switch) -> Self {
        self.options.volatile = Some(volatile);
        self
    }

    /// overlayfs keeps its marks in `user.overlay.*` xattrs and not in `trusted.overlay.*`. In a user namespace it does so
    /// without being asked. Linux 5.11.
    pub fn userxattr(mut self) -> Self {
        self.options.userxattr = true;
        self
    }

    /// A change of owner or mode copies up metadata alone: microseconds for a file of any size. The upper is then no
    /// layer that stands alone. Turns redirect_dir on. Linux 4.19.
    pub fn metacopy(mut self, metacopy: Switch) -> Self {
        self.options.metacopy = Some(metacopy);
        self
    }

    /// What happens where directories of layers are renamed. Linux 4.10.
    pub fn redirect_dir(mut self, mode: RedirectDir) -> Self {
        self.options.redirect_dir = Some(mode);
        self
    }

    /// Hard links stay together when one is copied up. The upper then belongs to exactly these layers. Linux 4.13.
    pub fn index(mut self, index: Switch) -> Self {
        self.options.index = Some(index);
        self
    }

    /// How inode numbers of different filesystems are told apart. Linux 4.17.
    pub fn xino(mut self, xino: Xino) -> Self {
        self.options.xino = Some(xino);
        self
    }

    /// Whether contents of [`data_layers`](Overlay::data_layers) are checked by fs-verity. Linux 6.6.
    pub fn verity(mut self, verity: Verity) -> Self {
        self.options.verity = Some(verity);
        self
    }

    /// When copied-up files reach the disk. Linux 6.18.
    pub fn fsync(mut self, fsync: Fsync) -> Self {
        self.options.fsync = Some(fsync);
        self
    }

    /// Set-user-ID bits and file capabilities have no effect on this mount.
    pub fn nosuid(mut self) -> Self {
        self.attributes.nosuid = true;
        self
    }

    /// Device nodes cannot be opened on this mount.
    pub fn nodev(mut self) -> Self {
        self.attributes.nodev = true;
        self
    }

    /// No program can be executed on this mount.
    pub fn noexec(mut self) -> Self {
        self.attributes.noexec = true;
        self
    }

    /// Reading does not change access times.
    pub fn noatime(mut self) -> Self {
        self.attributes.noatime = true;
        self
    }

    /// Where the kernel refuses the overlay, because it has no overlayfs, may not be asked, lacks an option, or cannot stack
    /// such filesystems or so many layers, the layers are copied into `directory` as [`flatten`](crate::flatten) does, and that is
    /// mounted instead: [`OverlayMount::applied`] then is [`Applied::Copied`](crate::Applied::Copied). Without the right to mount
    /// anything, the fd is that of the directory, and cannot be attached; the marks of layers must then be those of
    /// [`userxattr`](Overlay::userxattr), since others are not seen.
    ///
    /// The directory must be empty or not be there, each time. It stays, with what is written, for the caller to remove: an
    /// upperdir is copied as the top layer and left as it is, and the size of a scratch upper is no limit. An error of the
    /// layers themselves, or an upper in use, is an error as always; idmapped and data-only layers cannot be copied.
    pub fn copy_fallback(mut self, directory: impl Into<PathBuf>) -> Self {
        self.copy = Some(directory.into());
        self
    }

    /// Writes go to the directory `upper`, and stay there. `work` must be an otherwise unused directory on the same
    /// mount: overlayfs makes, and at each mount empties, `work/work`.
    pub fn upperdir(mut self, upper: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Self {
        self.upper = Some(Upper::Directories {
            upper: upper.into(),
            work: work.into(),
        });
        self
    }

    /// Writes go to a tmpfs of [`SCRATCH_SIZE`](Overlay::SCRATCH_SIZE) that is visible nowhere and gone with the mount.
    pub fn scratch(self) -> Self {
        self.scratch_size(Overlay::SCRATCH_SIZE)
    }

    /// Writes go to a tmpfs of at most `bytes`, rounded up to pages, that is visible nowhere and gone with the mount.
    /// More fails with `ENOSPC`, as does an inode more than one a page (at least 1024 are allowed).
    ///
    /// Its root directory has mode and owner of the top layer's; an owner that has no id in the caller's user
    /// namespace is replaced by the caller.
    pub fn scratch_size(mut self, bytes: u64) -> Self {
        self.upper = Some(Upper::Scratch { size: bytes });
        self
    }

    /// Writes fail with `EROFS`. What an [`upperdir`](Overlay::upperdir) holds is seen; a scratch upper, which would
    /// stay empty, is not made.
    ///
    /// The filesystem is read-only, not just the mount. With an upperdir it can be remounted writable as a whole, by whoever has
    /// `CAP_SYS_ADMIN` in the user namespace it was mounted in; without one the kernel refuses that.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Mounts it attached to no directory, as by fsmount(2): it is in no mount table and is gone with the last fd.
    ///
    /// # Errors
    /// `NotFound` or `InvalidInput` (`ENOTDIR`) name the layer that is missing or not a directory. `InvalidInput`: no
    /// layers, more than 500, a scratch upper of 0 bytes, upper and work on different mounts or inside each other or a layer, a
    /// read-only filesystem for an upper, or a stack that the kernel refuses (a filesystem it cannot stack, an overlay of overlays
    /// of overlays). `Busy`: the upperdir or workdir is in use by another overlay, still so after an eighth of a second.
    /// `Unsynced`: it is of a volatile mount.
    /// `PermissionDenied`: no `CAP_SYS_ADMIN`, or a layer with locked mounts below it in a user namespace. `Unsupported`: a kernel
    /// without overlayfs or without an option that was asked for, or one that took the option but does not do it. `Os`: anything
    /// else, and `EROFS` where it was to be writable but the kernel could not use the workdir.
    pub fn detached(&self) -> Result<OverlayMount> {
        match (self.mounted_by(native::mount), &self.copy) {
            (Err(refused), Some(directory)) => fallback::copy(self, directory, refused),
            (done, _) => done,
        }
    }

    /// Mounts it at the directory `target`, as by move_mount(2). It propagates as the mount that `target` is on says.
    ///
    /// # Errors
    /// As [`detached`](Overlay::detached) and [`OverlayMount::attach`].
    pub fn mount(&self, target: impl AsRef<Path>) -> Result<MountedOverlay> {
        let target = target.as_ref();
        let place = directory::open_as("open target", target)?;
        self.detached()?.attach_to(place.as_fd(), target)
    }

    pub(crate) fn data(&self) -> &[PathBuf] {
        &self.data
    }

    pub(crate) fn attributes(&self) -> Attributes {
        self.attributes
    }

    pub(crate) fn has_idmaps(&self) -> bool {
        !self.idmaps.is_empty()
    }

    pub(crate) fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// The user namespace whose ids this layer is to have.
    pub(crate) fn idmap_of(&self, layer: usize) -> Option<BorrowedFd<'_>> {
        let of = |which: Option<usize>| self.idmaps.iter().rev().find(|map| map.layer == which);
        let found = of(Some(layer)).or_else(|| of(None))?;
        Some(found.namespace.as_fd())
    }

    pub(crate) fn is_volatile(&self) -> bool {
        let scratch = self.upper().is_some_and(Upper::is_scratch);
        match self.options.volatile {
            Some(asked) => asked == Switch::On && self.upper().is_some(),
            None => scratch,
        }
    }

    pub(crate) fn needs_userxattr(&self) -> Result<bool> {
        Ok(self.options.userxattr || directory::in_user_namespace()?)
    }

    /// What is given to the kernel as `key=value`.
    pub(crate) fn options(&self, userxattr: bool) -> Options {
        let mut options = self.options;
        let data = !self.data.is_empty() || self.trial.is_some_and(|data| data > 0);
        if data && !userxattr && options.metacopy.is_none() {
            options.metacopy = Some(Switch::On);
        }
        options
    }

    /// Takes an upperdir for this mount alone.
    pub(crate) fn claim(&self, opened: &Directories) -> Result<Option<UpperLock>> {
        let Some(Upper::Directories { upper, work }) = self.upper() else {
            return Ok(None);
        };
        opened.check_places(upper, work)?;
        let lock = UpperLock::take(opened, upper, work)?;
        upper::check_filesystem(lock.upper(), upper, self.read_only)?;
        volatile::check(opened, upper, work)?;
        Ok(Some(lock))
    }

    /// Whether an overlay uses the upper without this lock. In a user namespace the kernel cannot tell.
    pub(crate) fn ask_kernel(&self, opened: &Directories, lock: &UpperLock) -> Result<()> {
        let upper = self.upper().map_or(Path::new(""), |upper| upper.names().0);
        if !lock.was_mounted() || directory::in_user_namespace()? {
            return Ok(());
        }
        lock::ask_kernel(opened, upper)
    }

    pub(crate) fn layers(&self) -> &[PathBuf] {
        &self.layers
    }

    /// What an error calls the whole.
    pub(crate) fn name(&self) -> PathBuf {
        if self.is_trial() {
            return PathBuf::from("overlay of nothing");
        }
        let mut name = OsString::from("overlay of ");
        name.push(self.layers.first().map_or(Path::new(""), PathBuf::as_path));
        match self.layers.len() {
            0 | 1 => {}
            count => name.push(format!(" and {} more", count - 1)),
        }
        name.into()
    }

    /// What is to be on top, but not a scratch upper that nothing could be written to.
    pub(crate) fn upper(&self) -> Option<&Upper> {
        match &self.upper {
            Some(Upper::Scratch { .. }) if self.read_only => None,
            upper => upper.as_ref(),
        }
    }

    /// How many empty layers are put below the stack, and among its data. overlayfs refuses a single layer without an upper.
    pub(crate) fn empty_layers(&self) -> (usize, usize) {
        match self.trial {
            Some(data) => (2, data),
            None if self.layers.len() == 1 && self.upper().is_none() => (1, 0),
            None => (0, 0),
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only || self.upper.is_none()
    }

    /// Tries `first`, which says None where the kernel is too old for it, then mount(2).
    fn mounted_by(&self, first: fn(&Overlay) -> Result<Option<Made>>) -> Result<OverlayMount> {
        self.check()?;
        let once = || match first(self)? {
            Some(made) => Ok(made),
            None => classic::mount(self),
        };
        let made = OverlayMount::new(lock::patiently(once)?);
        self.check_writable(&made)?;
        self.check_options(&made)?;
        Ok(made)
    }

    fn check(&self) -> Result<()> {
        if self.layers.is_empty() && !self.is_trial() {
            return Err(Inner::NoLayers.into());
        }
        let count = self.layers.len() + self.data.len();
        if count > MAX_LAYERS {
            return Err(Inner::TooManyLayers { count }.into());
        }
        if self.upper == Some(Upper::Scratch { size: 0 }) {
            return Err(Inner::ScratchSize.into());
        }
        Ok(())
    }

    /// The kernel takes some options and then drops them, with a word to its log at most.
    fn check_options(&self, made: &OverlayMount) -> Result<()> {
        let options = self.options(self.options.userxattr);
        if options.asked().is_empty() {
            return Ok(());
        }
        let Some(dropped) = made.effective()?.refused(&options) else {
            return Ok(());
        };
        Err(Inner::Dropped {
            option: dropped.key,
            value: dropped.value,
            path: self.name(),
        }
        .into())
    }

    /// Where overlayfs cannot make `work/work` it mounts read-only and says so to nobody but the kernel's log.
    fn check_writable(&self, made: &OverlayMount) -> Result<()> {
        let Some(upper) = self.upper().filter(|_| !self.is_read_only()) else {
            return Ok(());
        };
        let (_, work) = upper.names();
        let state =
            fstatvfs(made.as_fd()).map_err(Error::sys("statvfs overlay of workdir", work))?;
        if state.f_flag.contains(StatVfsMountFlags::RDONLY) {
            let work = work.to_owned();
            return Err(Inner::CameUpReadOnly { work }.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, table};

    /// As [`Overlay::detached`] where the kernel has only mount(2).
    fn detached(overlay: &Overlay) -> Result<OverlayMount> {
        let made = overlay.mounted_by(|_| Ok(None));
        assert!(
            !made
                .as_ref()
                .is_ok_and(|made| made.applied() == crate::Applied::Native)
        );
        made
    }

    table::tests!(detached);

    #[test]
    fn a_scratch_upper_is_not_made_where_nothing_can_be_written() {
        let overlay = Overlay::builder(["/a", "/b"]).scratch().read_only();
        assert_eq!(overlay.upper(), None);
        assert!(overlay.is_read_only());
    }

    #[test]
    fn only_a_single_layer_without_an_upper_needs_an_empty_one() {
        let one = || Overlay::builder(["/a"]);
        assert_eq!(one().empty_layers(), (1, 0));
        assert_eq!(one().scratch().read_only().empty_layers(), (1, 0));
        assert_eq!(one().scratch().empty_layers(), (0, 0));
        let kept = one().upperdir("/u", "/w").read_only();
        assert_eq!(kept.empty_layers(), (0, 0));
        assert_eq!(Overlay::builder(["/a", "/b"]).empty_layers(), (0, 0));
    }

    #[test]
    fn without_an_upper_it_is_read_only() {
        assert!(Overlay::builder(["/a", "/b"]).is_read_only());
        assert!(!Overlay::builder(["/a", "/b"]).scratch().is_read_only());
    }

    #[test]
    fn what_cannot_be_mounted_is_refused_before_anything_is_opened() {
        let kind = |overlay: Overlay| overlay.detached().unwrap_err().kind();
        let none: [&str; 0] = [];
        assert_eq!(kind(Overlay::builder(none)), ErrorKind::InvalidInput);
        let endless = Overlay::builder(["/gone"]).scratch_size(0);
        assert_eq!(kind(endless), ErrorKind::InvalidInput);
        let error = Overlay::builder(vec!["/gone"; 501]).detached().unwrap_err();
        assert_eq!(
            error.to_string(),
            "mount overlay of 501 layers: overlayfs takes at most 500"
        );
    }
}
