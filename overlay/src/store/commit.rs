//! Uppers that become layers of a store.

use std::io;
use std::path::Path;

use super::layer::LayerRef;
use super::layers::LayerStore;
use super::record::Record;
use super::staged::Staged;
use crate::diff::{Diff, usage_of_layer};
use crate::error::Result;

impl LayerStore {
    /// Copies what `upper` changes of the stack of `parent` into a layer of the store, as [`Diff::commit`] does. The same changes
    /// are the same layer. The overlay should be unmounted, or at rest.
    ///
    /// # Errors
    /// As [`Diff::commit`] and [`Diff::write_tar`], `LimitExceeded` for more than 64 GiB in files, holes included, and `InvalidInput` for a parent of another store; the store is as before then.
    pub fn commit(&self, parent: Option<&LayerRef>, upper: impl AsRef<Path>) -> Result<LayerRef> {
        self.commit_by(parent, upper.as_ref(), |diff, target| {
            diff.commit(target).map(|_committed| ())
        })
    }

    /// The same, but moves files where they are on the store's filesystem, as [`Diff::commit_moving`] does: the upper is used up,
    /// also after an error.
    ///
    /// # Errors
    /// As [`commit`](LayerStore::commit).
    pub fn commit_moving(
        &self,
        parent: Option<&LayerRef>,
        upper: impl AsRef<Path>,
    ) -> Result<LayerRef> {
        self.commit_by(parent, upper.as_ref(), |diff, target| {
            diff.commit_moving(target).map(|_committed| ())
        })
    }

    fn commit_by(
        &self,
        parent: Option<&LayerRef>,
        upper: &Path,
        how: impl FnOnce(&Diff, &Path) -> Result<()>,
    ) -> Result<LayerRef> {
        let below = self.own(parent)?;
        let lowers = parent.map(LayerRef::directories).unwrap_or_default();
        let staged = Staged::new(&self.layout)?;
        let form = &self.layout.form;
        let upper = form.comparing(Diff::of(upper).lower(&lowers));
        how(&upper, &staged.tree())?;
        // Of the copy: what it is named by is what it holds.
        let made = form.comparing(Diff::of(staged.tree()).lower(&lowers));
        let record = Record {
            diff_id: made.write_tar(io::sink())?.diff_id,
            parent: below,
            usage: usage_of_layer(&form.comparing(Diff::of(staged.tree())))?,
            opaque_root: false,
            rewritable: true,
        };
        self.publish_first(staged, &record)
    }
}
