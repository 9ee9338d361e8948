//! Layers that are being made.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock, syncfs};

use super::area::{Area, unique};
use super::layout::{Layout, RECORD, TREE};
use super::record::Record;
use super::remove::remove;
use crate::digest::Digest;
use crate::error::Result;

/// A directory of `staging` with this process' lock on it. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Staged {
    layout: Arc<Layout>,
    name: String,
    area: Area,
    tree: Area,
    armed: bool,
}

impl Staged {
    pub(crate) fn new(layout: &Arc<Layout>) -> Result<Self> {
        // Between its making and its locking nothing is collected.
        let _shared = layout.shared()?;
        let name = unique();
        let area = layout.staging.make(&name)?;
        flock(&area, FlockOperation::NonBlockingLockExclusive)
            .map_err(layout.staging.failed("lock", &name))?;
        let tree = area.make(TREE)?;
        Ok(Staged {
            layout: Arc::clone(layout),
            name,
            area,
            tree,
            armed: true,
        })
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.tree.path().to_owned()
    }

    pub(crate) fn tree_fd(&self) -> Result<OwnedFd> {
        self.tree
            .as_fd()
            .try_clone_to_owned()
            .map_err(crate::Error::sys("dup", self.tree.path()))
    }

    /// Puts all of it on disk, which may take seconds.
    pub(crate) fn seal(&self, record: &Record) -> Result<()> {
        self.area.create(RECORD, record.render().as_bytes())?;
        syncfs(&self.area).map_err(self.layout.staging.failed("syncfs", &self.name))
    }

    /// Makes what was [sealed](Staged::seal) a layer of the store, by its name.
    pub(crate) fn publish(mut self, chain: Digest) -> Result<()> {
        let layers = &self.layout.layers;
        self.layout
            .staging
            .rename(&self.name, layers, &chain.hex())?;
        self.armed = false;
        layers.sync()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.armed {
            let _unused = remove(&self.layout.staging, &self.name).is_ok();
        }
        // A process that was forked may have a copy: closing it would leave the layer locked.
        let _unused = flock(&self.area, FlockOperation::NonBlockingUnlock).is_ok();
    }
}
