//! A layer in use.

use std::path::PathBuf;
use std::sync::Arc;

use super::Fault;
use super::layout::{Layout, TREE};
use super::lease::{Held, Lease};
use super::record::Record;
use crate::diff::Usage;
use crate::digest::Digest;
use crate::error::Result;

/// A layer of a store, with those below it, which stay as long as this value: no process collects them. Dropping it removes its
/// lease, a file; of a killed process that file is found by its lock, which is free then. A process forked without execve(2)
/// has part in the lease: it lasts until the first of the two drops the value, or the last of them ends.
#[derive(Debug)]
#[must_use = "dropping the LayerRef gives the layer up to be collected"]
pub struct LayerRef {
    layout: Arc<Layout>,
    /// This layer's, then those below.
    records: Vec<Record>,
    lease: Lease,
}

impl LayerRef {
    /// To be called with the store's lock held.
    pub(crate) fn take(layout: &Arc<Layout>, chain: Digest, image: Option<Digest>) -> Result<Self> {
        let records = chain_of(layout, chain)?;
        let held = Held {
            layer: Some(chain),
            image,
        };
        Ok(LayerRef {
            layout: Arc::clone(layout),
            records,
            lease: Lease::take(layout, held)?,
        })
    }

    /// Names this layer on those below it.
    #[must_use]
    pub fn chain_id(&self) -> Digest {
        self.records[0].chain()
    }

    /// The sha256 of the layer's tar.
    #[must_use]
    pub fn diff_id(&self) -> Digest {
        self.records[0].diff_id
    }

    /// The diff ids of this layer and those below it, the lowest first, as in an image's config.
    #[must_use]
    pub fn diff_ids(&self) -> Vec<Digest> {
        self.records
            .iter()
            .rev()
            .map(|record| record.diff_id)
            .collect()
    }

    /// What this layer takes, without those below it.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.records[0].usage
    }

    /// The directories to be stacked, the top one first: for [`Overlay::builder`](crate::Overlay::builder). Nobody may write to
    /// them. Layers below one that hides all are left out.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let end = self.records.iter().position(|record| record.opaque_root);
        let shown = end.map_or(self.records.len(), |end| end + 1);
        self.records[..shown]
            .iter()
            .map(|record| {
                self.layout
                    .layers
                    .path()
                    .join(record.chain().hex())
                    .join(TREE)
            })
            .collect()
    }

    /// Gives the layer up to be collected, as dropping it does, and tells how that went.
    ///
    /// # Errors
    /// As unlink(2) of the lease says; then the next [`LayerStore::collect`](crate::LayerStore::collect) removes it.
    pub fn release(self) -> Result<()> {
        self.lease.release()
    }

    /// Keeps the layer by a name, for [`LayerStore::kept`](crate::LayerStore::kept), until
    /// [`LayerStore::forget`](crate::LayerStore::forget). It is on disk when the call returns.
    ///
    /// # Errors
    /// `AlreadyExists` where something is kept by that name, `InvalidInput` for other characters than letters, digits and
    /// `._-:@/`.
    pub fn persist(self, name: &str) -> Result<()> {
        let held = Held {
            layer: Some(self.chain_id()),
            image: None,
        };
        held.pin(&self.layout, name)
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }
}

/// The records of a layer and those below it.
pub(crate) fn chain_of(layout: &Layout, chain: Digest) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut next = Some(chain);
    while let Some(chain) = next {
        if !layout.layers.has(&chain.hex())? {
            let path = layout.root.path().to_owned();
            return Err(Fault::NoLayer { path, chain }.into());
        }
        let area = layout.layers.enter(&chain.hex())?;
        let record = Record::read(&area)?;
        // A chain id is a digest of its parent's: none comes round to itself.
        if record.chain() != chain {
            return Err(super::record::malformed(
                area.path(),
                "it is another layer's record",
            ));
        }
        next = record.parent;
        records.push(record);
    }
    Ok(records)
}
