//! A thread with a mount namespace of its own, which ends with its work.

use std::path::Path;
use std::{panic, thread};

use rustix::mount::{MountPropagationFlags, mount_change};

use crate::error::{Error, Result};
use crate::sys;

/// Runs `work` there; `name` is what it is for, in errors. Mounts made there reach no other namespace.
pub(crate) fn run<T: Send>(name: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("overlay-mount".to_owned())
            .spawn_scoped(scope, || {
                leave_mount_namespace()?;
                work()
            })
            .map_err(Error::sys("spawn a thread for", name))?
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

fn leave_mount_namespace() -> Result<()> {
    let root = Path::new("/");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    sys::unshare_mounts().map_err(Error::sys("unshare the mounts of", root))?;
    mount_change(root, private).map_err(Error::sys("make private", root))
}
