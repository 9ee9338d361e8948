//! Whether a store holds what it says.

use std::io;

use super::layer::{LayerRef, chain_of};
use super::layers::LayerStore;
use super::layout::TREE;
use crate::diff::{Diff, Usage};
use crate::digest::Digest;
use crate::error::Result;

/// Something that is wrong with a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The layer's chain id.
    pub chain_id: Digest,
    /// What is wrong.
    pub flaw: Flaw,
}

/// What is wrong with a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// Its record, or that of a layer below, is missing or cannot be read: why.
    Record(String),
    /// Its tree cannot be walked: why.
    Tree(String),
    /// It takes another amount than it did.
    Usage {
        /// What it took.
        recorded: Usage,
        /// What it takes.
        found: Usage,
    },
    /// Its tar has another sha256 than it had.
    Content {
        /// Its diff id.
        recorded: Digest,
        /// What it is now.
        found: Digest,
    },
}

impl LayerStore {
    /// Checks every layer: its record, that those below it are there, the sizes and number of its files; and of layers made by
    /// [`commit`](LayerStore::commit), whose tar is written again, all content and metadata. Of applied layers, whose tar somebody
    /// else wrote, a change of content that keeps sizes is not found.
    ///
    /// # Errors
    /// As the kernel says of the store's own directories: what is wrong with layers is told, not an error.
    pub fn check(&self) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for name in self.layout.layers.names()? {
            let Ok(chain_id) = format!("sha256:{name}").parse() else {
                continue;
            };
            if let Some(flaw) = self.flaw(chain_id)? {
                findings.push(Finding { chain_id, flaw });
            }
        }
        Ok(findings)
    }

    fn flaw(&self, chain: Digest) -> Result<Option<Flaw>> {
        let taken = {
            let _shared = self.layout.shared()?;
            // Collected since it was listed.
            if !self.layout.layers.has(&chain.hex())? {
                return Ok(None);
            }
            match chain_of(&self.layout, chain) {
                Ok(_) => LayerRef::take(&self.layout, chain, None)?,
                Err(error) => return Ok(Some(Flaw::Record(error.to_string()))),
            }
        };
        match content_flaw(&taken) {
            Ok(flaw) => Ok(flaw),
            Err(error) => Ok(Some(Flaw::Tree(error.to_string()))),
        }
    }
}

fn content_flaw(layer: &LayerRef) -> Result<Option<Flaw>> {
    let record = layer.records()[0];
    let diff = again(layer);
    let found = diff.usage()?;
    if found != record.usage {
        let recorded = record.usage;
        return Ok(Some(Flaw::Usage { recorded, found }));
    }
    if !record.rewritable {
        return Ok(None);
    }
    let (recorded, found) = (record.diff_id, diff.write_tar(io::sink())?.diff_id);
    Ok((recorded != found).then_some(Flaw::Content { recorded, found }))
}

/// What the layer changes of those below it.
pub(super) fn again(layer: &LayerRef) -> Diff {
    let tree = layer
        .layout()
        .layers
        .path()
        .join(layer.chain_id().hex())
        .join(TREE);
    let lowers = layer.directories().split_off(1);
    let form = &layer.layout().form;
    form.comparing(Diff::of(tree).lower(lowers))
}
