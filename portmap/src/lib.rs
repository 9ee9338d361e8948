//! Published ports as nf_tables map elements, at constant cost.

mod element;
mod error;
mod layout;
mod name;
mod portmap;
mod reservation;
mod ruleset;
mod socket;
mod spec;
mod sys;
mod wire;

pub use crate::error::{Error, ErrorKind, Result};
pub use crate::portmap::{NetworkGuard, Portmap, Published};
pub use crate::ruleset::Ruleset;
pub use crate::spec::{PortSpec, Protocol};
pub use ipnetwork;
