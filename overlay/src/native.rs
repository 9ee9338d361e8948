//! The mount by fsopen(2) with every directory as an fd: Linux 6.15.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::context::{Context, Refusal};
use crate::error::Result;
use crate::overlay::Overlay;
use crate::upper::{Directories, Upper};
use crate::{directory, scratch};

/// None where the kernel has no fsopen(2) or takes no `O_PATH` fds.
pub(crate) fn mount(overlay: &Overlay) -> Result<Option<OwnedFd>> {
    let context = match Context::open("overlay") {
        Err(refusal) if refusal.errno == Errno::NOSYS => return Ok(None),
        opened => opened.map_err(|refusal| refusal.on(Path::new("overlay")))?,
    };
    let Some(top) = stack(&context, overlay.layers())? else {
        return Ok(None);
    };
    let _empty_until_created = overlay
        .needs_an_empty_layer()
        .then(|| put_below(&context))
        .transpose()?;
    let userxattr = directory::in_user_namespace()?;
    let _upper_until_created = overlay
        .upper()
        .map(|upper| put_on_top(&context, upper, top.as_fd(), userxattr))
        .transpose()?;
    create(context, userxattr, overlay.is_read_only())
        .map(Some)
        .map_err(|refusal| directory::diagnose(overlay, refusal.on(&overlay.name())))
}

/// Hands each layer to the kernel, which keeps a reference: only the fd of the top one stays open.
fn stack(context: &Context, layers: &[PathBuf]) -> Result<Option<OwnedFd>> {
    let mut top = None;
    for path in layers {
        let layer = directory::open_as("open layer", path)?;
        match context.fd("lowerdir+", layer.as_fd()) {
            Err(refusal) if top.is_none() && refusal.takes_no_path_fds() => return Ok(None),
            done => done.map_err(|refusal| refusal.on(path))?,
        }
        top.get_or_insert(layer);
    }
    Ok(top)
}

fn put_below(context: &Context) -> Result<OwnedFd> {
    let (empty, name) = (scratch::empty()?, Path::new(scratch::EMPTY));
    let done = context.fd("lowerdir+", empty.as_fd());
    done.map_err(|refusal| refusal.on(name))?;
    Ok(empty)
}

fn put_on_top(
    context: &Context,
    upper: &Upper,
    top: BorrowedFd<'_>,
    userxattr: bool,
) -> Result<Directories> {
    let opened = match upper {
        Upper::Scratch { size } => scratch::mount(*size, top)?,
        Upper::Directories { upper, work } => Directories::open(upper, work)?,
    };
    if userxattr {
        upper.check_user_xattrs(opened.upper.as_fd())?;
    }
    let set = |key, directory: &OwnedFd, name| {
        let done = context.fd(key, directory.as_fd());
        done.map_err(|refusal| refusal.on(name))
    };
    let (upper_name, work_name) = upper.names();
    set("upperdir", &opened.upper, upper_name)?;
    set("workdir", &opened.work, work_name)?;
    if upper.is_scratch() {
        let done = context.flag("volatile");
        done.map_err(|refusal| refusal.on(upper_name))?;
    }
    Ok(opened)
}

/// Ends the context too: while open it would keep an upper in use after the mount is gone.
fn create(context: Context, userxattr: bool, read_only: bool) -> Result<OwnedFd, Refusal> {
    context.string("source", "overlay")?;
    if userxattr {
        context.flag("userxattr")?;
    }
    if read_only {
        // Of the superblock: the mount's own flag alone could be cleared again.
        context.flag("ro")?;
    }
    context.create()?;
    context.mount(if read_only {
        MountAttrFlags::MOUNT_ATTR_RDONLY
    } else {
        MountAttrFlags::empty()
    })
}
