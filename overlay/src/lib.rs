//! Stacks directories with overlayfs into a mount that is a file descriptor, in no mount table and gone when it closes; and makes,
//! compares and keeps the layers that it stacks.
//!
//! ```no_run
//! use std::fs;
//! use std::os::fd::{AsFd, AsRawFd};
//!
//! use cofferdam_overlay::Overlay;
//!
//! # fn main() -> cofferdam_overlay::Result<()> {
//! let root = Overlay::builder(["/srv/app", "/srv/debian"]) // the top layer first
//!     .scratch() // writes go to a tmpfs that ends with the mount
//!     .detached()?;
//!
//! let motd = format!("/proc/self/fd/{}/etc/motd", root.as_fd().as_raw_fd());
//! let _written = fs::write(motd, "not in a layer\n");
//!
//! let mut mounted = root.attach("/mnt")?; // or hand `root.into_fd()` to whoever enters it
//! mounted.unmount()?;
//! # Ok(())
//! # }
//! ```
//!
//! | for | there is |
//! |---|---|
//! | mounts of layers, read-only or with an upper | [`Overlay`] |
//! | OCI and Docker layers, tars, made directories | [`Apply`] |
//! | what an upper changes: one by one, as a tar, as a layer's directory | [`Diff`] |
//! | layers that are there once for many processes, by the names of images | [`LayerStore`], [`LayerStoreBuilder`] |
//! | images from and to disk (feature `images`, on by default) | [`LayerStore::import`](LayerStore#method.import), [`LayerStore::image`](LayerStore#method.image) |
//! | deep stacks made one layer | [`flatten`] |
//! | directories by name that outlive containers, filled on first use | [`VolumeStore`] |
//!
//! # Privileges
//!
//! To mount, `CAP_SYS_ADMIN` in the user namespace that owns the caller's mount namespace: root, or root of a user namespace. In a
//! user namespace overlayfs keeps its marks in `user.overlay.*` xattrs (`userxattr`), and a layer with mounts below it
//! that the namespace may not uncover, such as its `/`, is refused. To apply, compare and keep layers mounts nothing: it takes
//! the capabilities that their owners, devices and marks do, as [`Apply`] and [`Diff`] say. `/proc` must be mounted.
//!
//! # Kernel support
//!
//! [`OverlayMount::applied`] tells which was used:
//!
//! | kernel | way |
//! |---|---|
//! | 6.15 | [`Applied::Native`]: fsopen(2), each directory as an fd |
//! | 5.10 | [`Applied::Classic`]: mount(2) in the mount namespace of a thread that ends with it; a layer must be attached in the caller's mount namespace |
//!
//! It is found out by trying, at each mount; [`Overlay::probe`] tells what else can be had. An option that the kernel does not know is
//! `Unsupported` and names the first that does; one that it takes and then leaves out is an error too, and what follows from
//! others is told by [`OverlayMount::effective`]. The classic way takes an fd a layer for as long as it lasts, and a process whose
//! root directory is that of a mount. User namespaces need 5.11, and there a [`scratch`](Overlay::scratch) upper needs 6.6,
//! where tmpfs learnt `user.*` xattrs: before, it is refused as `Unsupported`, since overlayfs would fail with `EIO` where a
//! directory of a layer is removed and made again. An [`upperdir`](Overlay::upperdir) on ext4, xfs or btrfs works there.
//!
//! # What it changes on the host
//!
//! Nothing for a detached mount of layers, or with a scratch upper; its contents are memory of whoever writes them. With an
//! [`upperdir`](Overlay::upperdir) that directory gets what is written, and the workdir a directory `work`.
//! [`Overlay::mount`] and [`OverlayMount::attach`] add a mount to the caller's mount namespace. An upperdir and its workdir are
//! locked by flock(2) as long as they are mounted: see [`UpperLock`]. A volatile mount leaves a mark in the workdir until
//! [`Overlay::clean_volatile`]. [`Apply`], [`Diff::commit`], [`Overlay::copy_fallback`] and [`flatten`] fill a directory, which
//! stays. A [`LayerStore`] is one directory, and writes nowhere else.
//!
//! # Cleanup
//!
//! An [`OverlayMount`] ends with its fd, also when the process is killed. A [`MountedOverlay`] is unmounted when dropped;
//! of a killed process it stays until unmounted, or until its mount namespace ends. An upper is free for the next mount as
//! soon as the last file in its overlay is closed, and as no mount namespace has a copy of it.
//! A [`LayerStore`] removes what killed processes left in it when it is next opened, and layers that nobody uses by
//! [`LayerStore::collect`].
#![cfg_attr(docsrs, feature(doc_cfg))]

mod apply;
mod beneath;
mod classic;
mod contents;
mod context;
mod diff;
mod digest;
mod directory;
mod effective;
mod elsewhere;
mod error;
mod fallback;
mod flatten;
mod idmap;
mod lock;
mod marks;
mod mount;
mod native;
mod options;
mod overlay;
mod roots;
mod scratch;
mod store;
mod support;
mod sys;
mod upper;
mod volatile;

pub use apply::{
    AppliedLayer, Apply, Compression, Devices, Durability, Limits, Progress, RawWhiteouts,
    SkippedEntry, SkippedPart, Unmapped,
};
pub use diff::{
    Change, ChangeKind, Changes, Committed, Diff, FileKind, IdRange, Metadata, Omitted,
    OmittedPart, Usage, Written,
};
pub use digest::Digest;
pub use effective::Effective;
pub use error::{Error, ErrorKind, Result};
pub use flatten::{Flatten, Flattened, flatten};
pub use lock::UpperLock;
pub use marks::Marks;
pub use mount::{Applied, MountedOverlay, OverlayMount, ScratchUpper};
pub use options::{Fsync, RedirectDir, Switch, Verity, Xino};
pub use overlay::Overlay;
pub use store::{
    Collected, Expected, Finding, Flaw, LayerRef, LayerStore, LayerStoreBuilder, VolumeRef,
    VolumeStore, chain_id,
};
#[cfg(feature = "images")]
pub use store::{Compress, History, Image, ImageConfig, ImageSource, Platform};
pub use support::Support;

#[cfg(all(doctest, feature = "images"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
extern crate self as cofferdam_overlay;
#[cfg(test)]
#[path = "../tests/table/mod.rs"]
mod table;
