//! What becomes of each entry of a layer: the rows of the table in `Apply`'s documentation, and GNU tar as the judge of
//! what a file is.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

#[path = "../archive/mod.rs"]
mod archive;
mod judge;
mod rootless;
mod round;
mod rows;
mod streams;
