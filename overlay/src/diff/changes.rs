//! Changes one by one.

use std::iter::FusedIterator;
use std::path::PathBuf;

use super::metadata::Metadata;
use super::walk::{Entry, Standing, Step, Walk};
use crate::error::Result;

/// One name that an upper directory changes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Below the root of the overlay, without a leading slash; empty for the root itself.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
    /// How it is now; None of what was deleted.
    pub metadata: Option<Metadata>,
    /// It is a directory, and what the layers have in it is deleted: what is in it now follows.
    pub opaque: bool,
}

/// What happened to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// The layers have nothing of this name.
    Added,
    /// It replaces what the layers have of this name, or changes its content, metadata or xattrs.
    Modified,
    /// The layers have it, with all that is in it, and the overlay has not.
    Deleted,
}

/// The changes of an upper directory, by [`Diff::changes`](crate::Diff::changes). It ends after an error.
#[derive(Debug)]
#[must_use = "nothing is read before it is iterated"]
pub struct Changes {
    walk: Option<Walk>,
}

impl Changes {
    pub(crate) fn new(walk: Walk) -> Self {
        Changes { walk: Some(walk) }
    }
}

impl Iterator for Changes {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Result<Change>> {
        let change = next(self.walk.as_mut()?).transpose();
        if !matches!(change, Some(Ok(_))) {
            self.walk = None;
        }
        change
    }
}

impl FusedIterator for Changes {}

fn next(walk: &mut Walk) -> Result<Option<Change>> {
    while let Some(step) = walk.next()? {
        let change = match step {
            Step::Enter(entry) | Step::File(entry) => change(walk, &entry),
            Step::Whiteout => Some(Change {
                path: walk.path().to_owned(),
                kind: ChangeKind::Deleted,
                metadata: None,
                opaque: false,
            }),
            Step::Leave => None,
        };
        if change.is_some() {
            return Ok(change);
        }
    }
    Ok(None)
}

fn change(walk: &Walk, entry: &Entry) -> Option<Change> {
    let kind = match entry.standing {
        // There is always a root.
        Standing::Added if walk.path().as_os_str().is_empty() => return None,
        Standing::Added => ChangeKind::Added,
        Standing::Modified => ChangeKind::Modified,
        Standing::Unchanged => return None,
    };
    Some(Change {
        path: walk.path().to_owned(),
        kind,
        metadata: Some(entry.metadata),
        opaque: entry.opaque,
    })
}
