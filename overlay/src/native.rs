//! The mount by fsopen(2) with every directory as an fd: Linux 6.15.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::context::{Context, Refusal};
use crate::error::{Error, Inner, Result};
use crate::lock::UpperLock;
use crate::mount::{Applied, Made};
use crate::options::Attributes;
use crate::overlay::Overlay;
use crate::upper::{Directories, Upper};
use crate::{directory, idmap, scratch};

/// None where the kernel has no fsopen(2) or takes no `O_PATH` fds.
pub(crate) fn mount(overlay: &Overlay) -> Result<Option<Made>> {
    let context = match Context::open("overlay") {
        Err(refusal) if refusal.errno == Errno::NOSYS => return Ok(None),
        opened => opened.map_err(|refusal| refusal.on(Path::new("overlay")))?,
    };
    let Some(mut open_until_created) = stack(&context, overlay)? else {
        return Ok(None);
    };
    if !put_below(&context, overlay, &mut open_until_created)? {
        return Ok(None);
    }
    set_data(&context, overlay.data())?;
    let userxattr = overlay.needs_userxattr()?;
    let on_top = match (overlay.upper(), open_until_created.first()) {
        (Some(upper), Some(top)) => Some(put_on_top(
            &context,
            overlay,
            upper,
            top.as_fd(),
            userxattr,
        )?),
        _ => None,
    };
    set_options(&context, overlay, userxattr)?;
    let fd = create(context, overlay)
        .map_err(|refusal| directory::diagnose(overlay, refusal.on(&overlay.name())))?;
    let (upper, lock) = on_top.map_or((None, None), |(opened, lock)| (opened.scratch(), lock));
    Ok(Some(Made {
        fd,
        applied: Applied::Native,
        effective: None,
        upper,
        lock,
    }))
}

/// Hands each layer to the kernel, which keeps a reference: only the fds of the top one, and of mounts made here, stay
/// open.
fn stack(context: &Context, overlay: &Overlay) -> Result<Option<Vec<OwnedFd>>> {
    let mut kept = Vec::new();
    for (n, path) in overlay.layers().iter().enumerate() {
        let layer = directory::open_as("open layer", path)?;
        let mapped = match overlay.idmap_of(n) {
            Some(namespace) => Some(idmap::mapped(path, layer.as_fd(), namespace)?),
            None => None,
        };
        let given = mapped.as_ref().unwrap_or(&layer);
        match context.fd("lowerdir+", given.as_fd()) {
            Err(refusal) if n == 0 && refusal.takes_no_path_fds() => return Ok(None),
            done => done.map_err(|refusal| refusal.on(path))?,
        }
        if kept.is_empty() {
            kept.push(layer);
        }
        kept.extend(mapped);
    }
    Ok(Some(kept))
}

fn set_data(context: &Context, layers: &[PathBuf]) -> Result<()> {
    for path in layers {
        let layer = directory::open_as("open data layer", path)?;
        let done = context.fd("datadir+", layer.as_fd());
        done.map_err(|refusal| refusal.on(path))?;
    }
    Ok(())
}

fn set_options(context: &Context, overlay: &Overlay, userxattr: bool) -> Result<()> {
    let failed = |refusal: Refusal| refusal.on(&overlay.name());
    context.string("source", "overlay").map_err(failed)?;
    let flags = [
        ("volatile", overlay.is_volatile()),
        ("userxattr", userxattr),
        // Of the superblock: the mount's own flag alone could be cleared again.
        ("ro", overlay.is_read_only()),
    ];
    for (key, _) in flags.into_iter().filter(|(_, given)| *given) {
        context.flag(key).map_err(failed)?;
    }
    for asked in overlay.options(userxattr).asked() {
        match context.string(asked.key, asked.value) {
            Err(refusal) if refusal.is_unknown_key() => {
                return Err(Error::from(Inner::Unsupported {
                    feature: asked.key,
                    path: overlay.name(),
                    since: asked.since,
                    errno: Some(refusal.errno.into()),
                }));
            }
            done => done.map_err(failed)?,
        }
    }
    Ok(())
}

/// False where the kernel takes no `O_PATH` fds, which a layer above would have told.
fn put_below(context: &Context, overlay: &Overlay, kept: &mut Vec<OwnedFd>) -> Result<bool> {
    let (below, data) = overlay.empty_layers();
    let keys = std::iter::repeat_n("lowerdir+", below).chain(std::iter::repeat_n("datadir+", data));
    for key in keys {
        let (empty, name) = (scratch::empty()?, Path::new(scratch::EMPTY));
        match context.fd(key, empty.as_fd()) {
            Err(refusal) if refusal.takes_no_path_fds() => return Ok(false),
            done => done.map_err(|refusal| refusal.on(name))?,
        }
        kept.push(empty);
    }
    Ok(true)
}

fn put_on_top(
    context: &Context,
    overlay: &Overlay,
    upper: &Upper,
    top: BorrowedFd<'_>,
    userxattr: bool,
) -> Result<(Directories, Option<UpperLock>)> {
    let opened = match upper {
        Upper::Scratch { size } => scratch::mount(*size, top)?,
        Upper::Directories { upper, work } => Directories::open(upper, work)?,
    };
    if userxattr {
        upper.check_user_xattrs(opened.upper.as_fd())?;
    }
    let lock = overlay.claim(&opened)?;
    if let Some(lock) = &lock {
        overlay.ask_kernel(&opened, lock)?;
    }
    let set = |key, directory: &OwnedFd, name| {
        let done = context.fd(key, directory.as_fd());
        done.map_err(|refusal| refusal.on(name))
    };
    let (upper_name, work_name) = upper.names();
    set("upperdir", &opened.upper, upper_name)?;
    set("workdir", &opened.work, work_name)?;
    Ok((opened, lock))
}

/// Ends the context too: while open it would keep an upper in use after the mount is gone.
fn create(context: Context, overlay: &Overlay) -> Result<OwnedFd, Refusal> {
    context.create()?;
    context.mount(attributes(overlay.attributes(), overlay.is_read_only()))
}

pub(crate) fn attributes(asked: Attributes, read_only: bool) -> MountAttrFlags {
    [
        (read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (asked.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (asked.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (asked.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (asked.noatime, MountAttrFlags::MOUNT_ATTR_NOATIME),
    ]
    .into_iter()
    .filter_map(|(is_set, flag)| is_set.then_some(flag))
    .collect()
}
