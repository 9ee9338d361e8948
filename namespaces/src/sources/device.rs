//! Devices of the host's, and those that are made after them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::bind::{change, clone_from, open_path, stat};
use super::{Node, Tree};
use crate::error::{Error, Result};
use crate::mount::{Attributes, Bind, Device, DeviceMount, Links, STANDARD, Source};

pub(super) fn standard_devices() -> Result<Vec<Tree<OwnedFd>>> {
    STANDARD.into_iter().map(standard_device).collect()
}

pub(super) fn standard_device((name, device): (&str, Device)) -> Result<Tree<OwnedFd>> {
    host_device(&Path::new("/dev").join(name), Some(device))
}

/// What is to be made of a device.
pub(super) fn node(path: &Path, wanted: &DeviceMount) -> Result<Node> {
    let (device, mode, owner) = match wanted.device {
        Some(device) => (device, 0o600, (0, 0)),
        None => {
            let stat = stat(
                open_path("open the device", path, Links::Refuse)?.as_fd(),
                path,
            )?;
            let device = Device::of(&stat).ok_or_else(|| not_a_device(path))?;
            let mode = u32::from(stat.stx_mode) & 0o7777;
            (device, mode, (stat.stx_uid, stat.stx_gid))
        }
    };
    Ok(Node {
        device,
        mode: wanted.mode.unwrap_or(mode),
        owner: wanted.owner.unwrap_or(owner),
    })
}

/// The host's device at `path`, checked on the file that is mounted (CVE-2025-31133).
pub(super) fn host_device(path: &Path, wanted: Option<Device>) -> Result<Tree<OwnedFd>> {
    const STEP: &str = "open the device";
    let file = open_path(STEP, path, Links::Refuse)?;
    let stat = stat(file.as_fd(), path)?;
    let device = Device::of(&stat).ok_or_else(|| not_a_device(path))?;
    if wanted.is_some_and(|wanted| wanted != device) {
        return Err(Error::invalid(
            "device",
            path,
            "is another device on the host",
        ));
    }
    let mut bind = Bind::new(Source::Path(path.to_owned()));
    bind.links = Links::Refuse;
    let tree = clone_from(STEP, &bind, file.as_fd(), &stat)?;
    if let Tree::Detached(fd) = &tree {
        change(fd.as_fd(), path, &bind.changes(Attributes::default()))?;
    }
    Ok(tree)
}

fn not_a_device(path: &Path) -> Error {
    Error::invalid("device", path, "is no device on the host")
}
