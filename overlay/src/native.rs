//! The mount by fsopen(2) with every directory as an fd: Linux 6.15.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::context::{Context, Refusal};
use crate::error::Result;
use crate::overlay::{Overlay, Upper};
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
    let _until_created = put_on_top(&context, overlay.upper(), &top)?;
    let userxattr = directory::in_user_namespace()?;
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

/// Returns the mount of a scratch upper: closing its fd detaches it, so it must be open until overlayfs has its own copy.
fn put_on_top(context: &Context, upper: Option<&Upper>, top: &OwnedFd) -> Result<Option<OwnedFd>> {
    let set = |key, directory: &OwnedFd, path: &Path| {
        context
            .fd(key, directory.as_fd())
            .map_err(|refusal| refusal.on(path))
    };
    match upper {
        None => Ok(None),
        Some(Upper::Directories { upper, work }) => {
            let directory = directory::open_as("open upperdir", upper)?;
            set("upperdir", &directory, upper)?;
            let directory = directory::open_as("open workdir", work)?;
            set("workdir", &directory, work)?;
            Ok(None)
        }
        Some(Upper::Scratch { size }) => {
            let tmpfs = scratch::mount(*size)?;
            let made = scratch::populate(tmpfs.as_fd(), top.as_fd())?;
            let name = Path::new(scratch::NAME);
            set("upperdir", &made.upper, name)?;
            set("workdir", &made.work, name)?;
            context
                .flag("volatile")
                .map_err(|refusal| refusal.on(name))?;
            Ok(Some(tmpfs))
        }
    }
}

/// Ends the context too: while open it would keep an upper in use after the mount is gone.
fn create(context: Context, userxattr: bool, read_only: bool) -> Result<OwnedFd, Refusal> {
    context.string("source", "overlay")?;
    if userxattr {
        context.flag("userxattr")?;
    }
    context.create()?;
    context.mount(if read_only {
        MountAttrFlags::MOUNT_ATTR_RDONLY
    } else {
        MountAttrFlags::empty()
    })
}
