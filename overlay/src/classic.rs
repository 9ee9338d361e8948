//! The mount by mount(2), for kernels whose fsopen(2) takes no directories as fds.
//!
//! mount(2) needs a place in a mount table, and takes one page of options. So a thread that is thrown away gets a mount
//! namespace of its own, works in `/proc/thread-self/fd`, where the name of each opened directory is a number, and hands
//! out a detached copy of the mount. The namespace ends with the thread.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::{io, panic, thread};

use rustix::mount::{
    MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount_change, open_tree, unmount,
};
use sys_mount::{Mount, MountFlags};

use crate::directory::MOUNT;
use crate::error::{Error, Inner, Result};
use crate::overlay::Overlay;
use crate::upper::{Directories, Upper};
use crate::{directory, scratch, sys};

/// What mount(2) reads of its options: more is cut off without an error.
const PAGE: usize = 4095;
/// Where the overlay is mounted, in the scratch tmpfs.
const TARGET: &str = "merged";
/// The layer below a single one, there too.
const EMPTY: &str = "empty";

pub(crate) fn mount(overlay: &Overlay) -> Result<OwnedFd> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("overlay-mount".to_owned())
            .spawn_scoped(scope, || in_namespace_of_its_own(overlay))
            .map_err(Error::sys("spawn a thread for", &overlay.name()))?
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
    .map_err(|refused| directory::diagnose(overlay, refused))
}

fn in_namespace_of_its_own(overlay: &Overlay) -> Result<OwnedFd> {
    leave_mount_namespace()?;
    // Opened here, since overlayfs takes directories of this namespace's mounts only, and all of them before something is
    // mounted over `/`: a path that climbs to it would end there.
    let mut layers = overlay
        .layers()
        .iter()
        .map(|path| directory::open_as("open layer", path))
        .collect::<Result<Vec<_>>>()?;
    let named = match overlay.upper() {
        Some(Upper::Directories { upper, work }) => Some(Directories::open(upper, work)?),
        _ => None,
    };
    let tmpfs = ScratchMount::make(overlay.upper())?;
    let upper = match (overlay.upper(), layers.first()) {
        (Some(Upper::Scratch { .. }), Some(top)) => {
            Some(scratch::populate(tmpfs.root.as_fd(), top.as_fd())?)
        }
        _ => named,
    };
    if overlay.needs_an_empty_layer() {
        scratch::make(&tmpfs.root, EMPTY)?;
        layers.push(scratch::open(&tmpfs.root, EMPTY)?);
    }
    let userxattr = directory::in_user_namespace()?;
    if let (Some(asked), Some(opened), true) = (overlay.upper(), &upper, userxattr) {
        asked.check_user_xattrs(opened.upper.as_fd())?;
    }
    let options = Options {
        layers: &layers,
        upper: upper.as_ref(),
        volatile: overlay.upper().is_some_and(Upper::is_scratch),
        userxattr,
    };
    tmpfs.mount_overlay(overlay, &options.render()?)
}

fn leave_mount_namespace() -> Result<()> {
    let root = Path::new("/");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    sys::unshare_mounts().map_err(Error::sys("unshare the mounts of", root))?;
    mount_change(root, private).map_err(Error::sys("make private", root))
}

/// A tmpfs over the namespace's `/`: it holds the overlay's target, and a scratch upper or an empty layer.
#[derive(Debug)]
struct ScratchMount {
    root: OwnedFd,
}

impl ScratchMount {
    fn make(upper: Option<&Upper>) -> Result<Self> {
        let size = match upper {
            Some(Upper::Scratch { size }) => *size,
            _ => 1 << 16,
        };
        let options = scratch::options(size).map(|(key, value)| format!("{key}={value}"));
        Mount::builder()
            .fstype("tmpfs")
            .data(&options.join(","))
            .mount("tmpfs", "/")
            .map_err(Error::sys("mount tmpfs for", Path::new(scratch::NAME)))?;
        // The root directory of this thread stays the one below; `..` of it is what is mounted there.
        let root = directory::open_as("open the tmpfs over", Path::new("/.."))?;
        scratch::make(&root, TARGET)?;
        Ok(ScratchMount { root })
    }

    /// Mounts it on the target and makes the detached copy. The original is taken away at once: the namespace ends
    /// some time after the thread was joined, and would hold an upper in use until then.
    fn mount_overlay(&self, overlay: &Overlay, options: &str) -> Result<OwnedFd> {
        let name = overlay.name();
        let fds = Path::new("/proc/thread-self/fd");
        let target = scratch::open(&self.root, TARGET)?;
        rustix::process::chdir(fds).map_err(Error::sys("chdir", fds))?;
        mount_on(target.as_fd(), overlay.is_read_only(), options)
            .map_err(Error::sys(MOUNT, &name))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = open_tree(&self.root, TARGET, flags).map_err(Error::sys("open_tree", &name))?;
        let target = format!("{}/{TARGET}", self.root.as_raw_fd());
        unmount(target, UnmountFlags::DETACH).map_err(Error::sys("umount", &name))?;
        Ok(copy)
    }
}

fn mount_on(target: BorrowedFd<'_>, read_only: bool, options: &str) -> io::Result<()> {
    let flags = if read_only {
        MountFlags::RDONLY
    } else {
        MountFlags::empty()
    };
    let target = target.as_raw_fd().to_string();
    Mount::builder()
        .fstype("overlay")
        .flags(flags)
        .data(options)
        .mount("overlay", target)
        .map(|_mount| ())
}

/// The options of mount(2), with the numbers of fds for names.
#[derive(Debug)]
struct Options<'a, Fd> {
    layers: &'a [Fd],
    upper: Option<&'a Directories>,
    volatile: bool,
    userxattr: bool,
}

impl<Fd: AsRawFd> Options<'_, Fd> {
    fn render(&self) -> Result<String> {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| layer.as_raw_fd().to_string())
            .collect();
        let mut options = format!("lowerdir={}", layers.join(":"));
        if let Some(Directories { upper, work, .. }) = self.upper {
            let (upper, work) = (upper.as_raw_fd(), work.as_raw_fd());
            options += &format!(",upperdir={upper},workdir={work}");
        }
        if self.volatile {
            options += ",volatile";
        }
        if self.userxattr {
            options += ",userxattr";
        }
        if options.len() > PAGE {
            let (length, limit) = (options.len(), PAGE);
            return Err(Inner::OptionsTooLong { length, limit }.into());
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn options(layers: &[i32]) -> Options<'_, i32> {
        Options {
            layers,
            upper: None,
            volatile: false,
            userxattr: false,
        }
    }

    #[test]
    fn layers_are_named_by_their_fds() {
        assert_eq!(options(&[7, 3, 12]).render().unwrap(), "lowerdir=7:3:12");
        let rootless = Options {
            volatile: true,
            userxattr: true,
            ..options(&[7])
        };
        assert_eq!(rootless.render().unwrap(), "lowerdir=7,volatile,userxattr");
    }

    #[test]
    fn options_longer_than_a_page_are_refused_before_the_kernel_cuts_them() {
        let high = vec![1_000_000; 500];
        assert_eq!(options(&high).render().unwrap().len(), 4008);
        let higher = vec![10_000_000; 500];
        let error = options(&higher).render().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(
            error.to_string(),
            "mount overlay by mount(2): 4508 bytes of options, but the kernel takes 4095"
        );
    }
}
