//! What is to be mounted: layers, and what is on top of them.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, fstatvfs};

use crate::error::{Error, Inner, Result};
use crate::mount::{Applied, MountedOverlay, OverlayMount};
use crate::upper::Upper;
use crate::{classic, directory, native};

/// The most layers overlayfs stacks: `OVL_MAX_STACK` of the kernel. An upper does not count.
pub(crate) const MAX_LAYERS: usize = 500;

/// Layers to stack and what is on top of them: a description, nothing is mounted yet.
///
/// Without [`upperdir`](Overlay::upperdir) and [`scratch`](Overlay::scratch) it is read-only as a filesystem, which nobody can
/// change by its mount. That holds for a single layer too: it is stacked over an empty directory. One description can be
/// mounted any number of times, except with an upperdir: two mounts that share one are undefined behaviour to overlayfs,
/// which does not refuse them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "nothing is mounted before `detached` or `mount`"]
pub struct Overlay {
    layers: Vec<PathBuf>,
    upper: Option<Upper>,
    read_only: bool,
}

impl Overlay {
    /// The size of a [`scratch`](Overlay::scratch) upper, in bytes: 1 GiB.
    pub const SCRATCH_SIZE: u64 = 1 << 30;

    /// Stacks `layers`, the top one first. They are opened when it is mounted, relative ones below the working
    /// directory; a symlink is followed. Names may hold any bytes, in any length that can be opened.
    pub fn builder(layers: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Overlay {
            layers: layers.into_iter().map(Into::into).collect(),
            upper: None,
            read_only: false,
        }
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
    /// layers, more than 500, a scratch upper of 0 bytes, upper and work on different mounts, or a stack that the
    /// kernel refuses (a filesystem it cannot stack, an overlay of overlays of overlays). `PermissionDenied`: no
    /// `CAP_SYS_ADMIN`, or a layer with locked mounts below it in a user namespace. `Unsupported`: a kernel without
    /// overlayfs. `Os`: anything else, and `EROFS` where it was to be writable but the kernel could not use the workdir.
    pub fn detached(&self) -> Result<OverlayMount> {
        self.mounted_by(native::mount)
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

    pub(crate) fn layers(&self) -> &[PathBuf] {
        &self.layers
    }

    /// What an error calls the whole.
    pub(crate) fn name(&self) -> PathBuf {
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

    /// overlayfs refuses a single layer without an upper: an empty one is put below it.
    pub(crate) fn needs_an_empty_layer(&self) -> bool {
        self.layers.len() == 1 && self.upper().is_none()
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only || self.upper.is_none()
    }

    /// Tries `first`, which says None where the kernel is too old for it, then mount(2).
    fn mounted_by(&self, first: fn(&Overlay) -> Result<Option<OwnedFd>>) -> Result<OverlayMount> {
        self.check()?;
        let made = match first(self)? {
            Some(fd) => OverlayMount::new(fd, Applied::Native),
            None => OverlayMount::new(classic::mount(self)?, Applied::Classic),
        };
        self.check_writable(&made)?;
        Ok(made)
    }

    fn check(&self) -> Result<()> {
        if self.layers.is_empty() {
            return Err(Inner::NoLayers.into());
        }
        if self.layers.len() > MAX_LAYERS {
            let count = self.layers.len();
            return Err(Inner::TooManyLayers { count }.into());
        }
        if self.upper == Some(Upper::Scratch { size: 0 }) {
            return Err(Inner::ScratchSize.into());
        }
        Ok(())
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
                .is_ok_and(|made| made.applied() == Applied::Native)
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
        assert!(one().needs_an_empty_layer());
        assert!(one().scratch().read_only().needs_an_empty_layer());
        assert!(!one().scratch().needs_an_empty_layer());
        assert!(
            !one()
                .upperdir("/u", "/w")
                .read_only()
                .needs_an_empty_layer()
        );
        assert!(!Overlay::builder(["/a", "/b"]).needs_an_empty_layer());
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
