//! How a layer's tar becomes one of the store.

use std::io::Read;
use std::path::PathBuf;

use super::layer::LayerRef;
use super::layers::{Expected, LayerStore};
use super::record::Record;
use super::staged::Staged;
use crate::apply::{AppliedLayer, Apply};
use crate::diff::{Diff, usage_of_layer};
use crate::digest::Digest;
use crate::error::Result;

/// What a layer is made on.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    pub(super) chain: Option<Digest>,
    /// The top one first.
    pub(super) directories: Vec<PathBuf>,
}

impl LayerStore {
    /// Makes the layer that is named `known`, where that is known already, unless it is there. `parent` may wait for another to be
    /// made.
    pub(super) fn make(
        &self,
        known: Option<Digest>,
        parent: &dyn Fn() -> Result<Parent>,
        reader: impl Read + Send,
        expected: Expected,
    ) -> Result<LayerRef> {
        let making = known.map(|chain| self.making(chain)).transpose()?;
        if let Some(found) = known.map(|chain| self.find(chain)).transpose()?.flatten() {
            return Ok(found);
        }
        let staged = Staged::new(&self.layout)?;
        let unpacked = self.unpack(&staged, parent, reader, expected)?;
        let parent = parent()?;
        let made = self.layout.form.comparing(Diff::of(staged.tree()));
        let record = Record {
            diff_id: unpacked.diff_id,
            parent: parent.chain,
            usage: usage_of_layer(&made)?,
            opaque_root: unpacked.opaque_root,
            rewritable: false,
        };
        match making {
            Some(_making) => self.publish(staged, &record),
            None => self.publish_first(staged, &record),
        }
    }

    fn unpack(
        &self,
        staged: &Staged,
        parent: &dyn Fn() -> Result<Parent>,
        reader: impl Read + Send,
        expected: Expected,
    ) -> Result<AppliedLayer> {
        let mut apply = Apply::at(staged.tree_fd()?).limits(self.limits.clone());
        if let Some(blob) = expected.blob {
            apply = apply.blob(blob);
        }
        if let Some(diff_id) = expected.diff_id {
            apply = apply.diff_id(diff_id);
        }
        let below = || parent().map(|parent| parent.directories);
        self.layout.form.unpacking(apply).tar_on(reader, &below)
    }
}
