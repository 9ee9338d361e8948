//! Stub.
pub(crate) fn rows(_quick: bool) {}
