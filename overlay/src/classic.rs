//! The mount by mount(2), for kernels whose fsopen(2) takes no directories as fds.
//!
//! mount(2) needs a place in a mount table, and takes one page of options. So a thread that is thrown away gets a mount
//! namespace of its own, works in `/proc/thread-self/fd`, where the name of each opened directory is a number, and hands
//! out a detached copy of the mount. The namespace ends with the thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use sys_mount::{Mount, MountFlags};

use crate::directory::MOUNT;
use crate::effective::Effective;
use crate::error::{Error, Inner, Result};
use crate::lock::UpperLock;
use crate::mount::{Applied, Made, ScratchUpper};
use crate::options::Asked;
use crate::overlay::Overlay;
use crate::upper::{Directories, Upper};
use crate::{directory, elsewhere, idmap, lock, scratch};

/// What mount(2) reads of its options: more is cut off without an error.
const PAGE: usize = 4095;
/// Where the overlay is mounted, in the scratch tmpfs.
const TARGET: &str = "merged";
/// The layer below a single one, there too.
const EMPTY: &str = "empty";
/// Upper, workdir and target of the overlay that tells whether an upper is in use.
const TRIAL: [&str; 3] = ["trial-upper", "trial-work", "trial"];

pub(crate) fn mount(overlay: &Overlay) -> Result<Made> {
    elsewhere::run(&overlay.name(), || in_namespace_of_its_own(overlay))
        .map_err(|refused| directory::diagnose(overlay, refused))
}

fn in_namespace_of_its_own(overlay: &Overlay) -> Result<Made> {
    // Opened here, since overlayfs takes directories of this namespace's mounts only, and all of them before something is
    // mounted over `/`: a path that climbs to it would end there.
    let mut layers = open_all("open layer", overlay.layers())?;
    let mut data = open_all("open data layer", overlay.data())?;
    let named = match overlay.upper() {
        Some(Upper::Directories { upper, work }) => Some(Directories::open(upper, work)?),
        _ => None,
    };
    let tmpfs = ScratchMount::make(overlay.upper())?;
    tmpfs.idmap(overlay, &mut layers)?;
    tmpfs.add_empty_layers(overlay, &mut layers, &mut data)?;
    let upper = match (overlay.upper(), layers.first()) {
        (Some(Upper::Scratch { .. }), Some(top)) => {
            Some(scratch::populate(tmpfs.root.as_fd(), top.as_fd())?)
        }
        _ => named,
    };
    let userxattr = overlay.needs_userxattr()?;
    let lock = match &upper {
        Some(opened) => tmpfs.claim(overlay, opened, userxattr)?,
        None => None,
    };
    let options = Options {
        layers: &layers,
        data: &data,
        upper: upper.as_ref(),
        volatile: overlay.is_volatile(),
        userxattr,
        asked: &overlay.options(userxattr).asked(),
    };
    let (fd, effective) = tmpfs.mount_overlay(overlay, &options.render()?)?;
    check_layers(overlay, &options, &effective)?;
    Ok(Made {
        fd,
        applied: Applied::Classic,
        effective: Some(effective),
        lock,
        upper: upper
            .filter(|_| overlay.upper().is_some_and(Upper::is_scratch))
            .map(|opened| ScratchUpper {
                directory: opened.upper,
                tmpfs: None,
            }),
    })
}

fn open_all(what: &'static str, layers: &[PathBuf]) -> Result<Vec<OwnedFd>> {
    let open = |path: &PathBuf| directory::open_as(what, path);
    layers.iter().map(open).collect()
}

/// What is longer than a page the kernel cuts off, and mounts the rest.
fn check_layers(overlay: &Overlay, given: &Options<'_, OwnedFd>, found: &Effective) -> Result<()> {
    let (layers, data) = (given.layers.len(), given.data.len());
    if (layers, data, given.upper.is_some()) == (found.layers, found.data_layers, found.upper) {
        return Ok(());
    }
    Err(Error::from(Inner::LayersLost {
        path: overlay.name(),
        asked: layers + data,
        mounted: found.layers + found.data_layers,
    }))
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
        let fds = Path::new("/proc/thread-self/fd");
        rustix::process::chdir(fds).map_err(Error::sys("chdir", fds))?;
        Ok(ScratchMount { root })
    }

    /// Mounts it on the target and makes the detached copy. The original is taken away at once: the namespace ends
    /// some time after the thread was joined, and would hold an upper in use until then.
    fn mount_overlay(&self, overlay: &Overlay, options: &str) -> Result<(OwnedFd, Effective)> {
        let name = overlay.name();
        let target = scratch::open(&self.root, TARGET)?;
        mount_on(target.as_fd(), flags(overlay), options).map_err(Error::sys(MOUNT, &name))?;
        let mounted = scratch::open(&self.root, TARGET)?;
        let effective = Effective::of_attached(mounted.as_fd(), &name)?;
        drop(mounted);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = open_tree(&self.root, TARGET, flags).map_err(Error::sys("open_tree", &name))?;
        let target = format!("{}/{TARGET}", self.root.as_raw_fd());
        unmount(target, UnmountFlags::DETACH).map_err(Error::sys("umount", &name))?;
        Ok((copy, effective))
    }

    /// Puts a mount with other ids in the place of each layer that asks for it: attached, since overlayfs takes no other.
    fn idmap(&self, overlay: &Overlay, layers: &mut [OwnedFd]) -> Result<()> {
        let to = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        for (n, (path, layer)) in overlay.layers().iter().zip(layers).enumerate() {
            let Some(namespace) = overlay.idmap_of(n) else {
                continue;
            };
            let mapped = idmap::mapped(path, layer.as_fd(), namespace)?;
            let name = format!("layer{n}");
            scratch::make(&self.root, &name)?;
            move_mount(&mapped, "", &self.root, &name, to)
                .map_err(Error::sys("move_mount of layer", path))?;
            *layer = scratch::open(&self.root, &name)?;
        }
        Ok(())
    }

    fn add_empty_layers(
        &self,
        overlay: &Overlay,
        layers: &mut Vec<OwnedFd>,
        data: &mut Vec<OwnedFd>,
    ) -> Result<()> {
        let (below, among_data) = overlay.empty_layers();
        for n in 0..below + among_data {
            let name = format!("{EMPTY}{n}");
            scratch::make(&self.root, &name)?;
            let to = if n < below { &mut *layers } else { &mut *data };
            to.push(scratch::open(&self.root, &name)?);
        }
        Ok(())
    }

    /// Checks an upper, and takes it for this mount alone if it is to stay.
    fn claim(
        &self,
        overlay: &Overlay,
        opened: &Directories,
        userxattr: bool,
    ) -> Result<Option<UpperLock>> {
        if let (Some(asked), true) = (overlay.upper(), userxattr) {
            asked.check_user_xattrs(opened.upper.as_fd())?;
        }
        let lock = overlay.claim(opened)?;
        if let (Some(_), Some(Upper::Directories { upper, .. })) = (&lock, overlay.upper()) {
            self.ask_kernel(opened, upper)?;
        }
        Ok(lock)
    }

    /// As [`lock::ask_kernel`], by mount(2).
    fn ask_kernel(&self, opened: &Directories, upper: &Path) -> Result<()> {
        // Without asking whether it was mounted before: older kernels leave no mark of that.
        if directory::in_user_namespace()? {
            return Ok(());
        }
        for name in TRIAL {
            scratch::make(&self.root, name)?;
        }
        let [own, work, target] = TRIAL.map(|name| scratch::open(&self.root, name));
        let (own, work, target) = (own?, work?, target?);
        let [lower, below, own, work] = [&opened.upper, &opened.work, &own, &work]
            .map(|directory| directory.as_raw_fd().to_string());
        let options =
            format!("lowerdir={lower}:{below},upperdir={own},workdir={work},index=on,volatile");
        match mount_on(target.as_fd(), MountFlags::empty(), &options) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                Err(lock::busy(upper, Errno::BUSY))
            }
            Err(_) => Ok(()),
            Ok(()) => {
                let target = format!("{}/{}", self.root.as_raw_fd(), TRIAL[2]);
                unmount(target, UnmountFlags::DETACH).map_err(Error::sys("umount", upper))
            }
        }
    }
}

fn mount_on(target: BorrowedFd<'_>, flags: MountFlags, options: &str) -> io::Result<()> {
    let target = target.as_raw_fd().to_string();
    Mount::builder()
        .fstype("overlay")
        .flags(flags)
        .data(options)
        .mount("overlay", target)
        .map(|_mount| ())
}

fn flags(overlay: &Overlay) -> MountFlags {
    let asked = overlay.attributes();
    [
        (overlay.is_read_only(), MountFlags::RDONLY),
        (asked.nosuid, MountFlags::NOSUID),
        (asked.nodev, MountFlags::NODEV),
        (asked.noexec, MountFlags::NOEXEC),
        (asked.noatime, MountFlags::NOATIME),
    ]
    .into_iter()
    .filter_map(|(is_set, flag)| is_set.then_some(flag))
    .collect()
}

/// The options of mount(2), with the numbers of fds for names.
#[derive(Debug)]
struct Options<'a, Fd> {
    layers: &'a [Fd],
    data: &'a [Fd],
    upper: Option<&'a Directories>,
    volatile: bool,
    userxattr: bool,
    asked: &'a [Asked],
}

impl<Fd: AsRawFd> Options<'_, Fd> {
    fn render(&self) -> Result<String> {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| layer.as_raw_fd().to_string())
            .collect();
        let mut options = format!("lowerdir={}", layers.join(":"));
        for layer in self.data {
            options += &format!("::{}", layer.as_raw_fd());
        }
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
        for asked in self.asked {
            options += &format!(",{}={}", asked.key, asked.value);
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
            data: &[],
            upper: None,
            volatile: false,
            userxattr: false,
            asked: &[],
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
        let data = Options {
            data: &[5, 6],
            ..options(&[7, 3])
        };
        assert_eq!(data.render().unwrap(), "lowerdir=7:3::5::6");
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
