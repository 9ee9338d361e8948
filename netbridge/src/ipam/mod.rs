//! Subnets and addresses: which are free, who has which, and a store of it that several processes share.
//!
//! - [`Pools`] has the subnets that a network may get, [`Occupied`] what the host uses, and [`Pools::find`] puts the two
//!   together.
//! - [`Subnet`] says which addresses of a network are handed out; [`Addresses`] hands them out, in memory.
//! - [`Ipam`] does both for many networks, with an owner for each address, in memory or in a directory.
//!
//! Nothing here changes anything in the kernel: the only thing asked of it is what it has, by [`Occupied::of_caller`]. No
//! privilege is needed but that of the directory. Each part can be used without the others.

mod addresses;
mod directory;
mod hash;
mod name;
mod network;
mod occupied;
mod outline;
mod pools;
#[cfg(test)]
pub(crate) mod random;
mod span;
mod store;
mod subnet;
mod text;

pub use addresses::Addresses;
pub(crate) use hash::{hash, start_of};
pub use network::{Lease, LeaseRequest, Network};
pub use occupied::Occupied;
pub use pools::{Pool, Pools};
pub use span::Family;
pub use store::{Ipam, NetworkSpec};
pub use subnet::Subnet;
