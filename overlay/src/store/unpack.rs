//! The one place that knows how a layer's tar becomes a directory.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::apply::Apply;
use crate::digest::Digest;
use crate::error::Result;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Unpacked {
    pub(crate) diff_id: Digest,
    pub(crate) opaque_root: bool,
}

pub(crate) fn unpack(
    target: OwnedFd,
    lowers: Vec<PathBuf>,
    blob: Option<Digest>,
    diff_id: Option<Digest>,
    reader: impl Read + Send,
) -> Result<Unpacked> {
    let mut apply = Apply::at(target).lower(lowers);
    if let Some(blob) = blob {
        apply = apply.blob(blob);
    }
    if let Some(diff_id) = diff_id {
        apply = apply.diff_id(diff_id);
    }
    let applied = apply.tar(reader)?;
    Ok(Unpacked {
        diff_id: applied.diff_id,
        opaque_root: applied.opaque_root,
    })
}
