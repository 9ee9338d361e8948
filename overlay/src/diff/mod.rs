//! What an upper directory changes of the layers below it.

mod changes;
mod commit;
mod ids;
mod lowers;
mod metadata;
mod options;
mod problem;
mod tar;
mod walk;
mod write;
mod xattrs;

pub use changes::{Change, ChangeKind, Changes};
pub use commit::{Committed, Usage};
pub use ids::IdRange;
pub use metadata::{FileKind, Metadata};
pub use options::Diff;
pub use write::{Omitted, OmittedPart, Written};

pub(crate) use commit::usage_of_layer;
pub(crate) use problem::Problem;
