//! How a handle is to be, and what it takes to open one.

use std::sync::{Arc, Mutex};

use super::{Portmap, Shared};
use crate::conntrack::Conntrack;
use crate::ephemeral::Turn;
use crate::error::{ErrorKind, Failure, Result};
use crate::kernel::{Kernel, Ownership};
use crate::name::TableName;
use crate::netns::NetNs;
use crate::reservation::Reserve;
use crate::socket::Socket;

/// Says how a [`Portmap`] is to be.
#[derive(Clone, Debug)]
#[must_use = "a PortmapBuilder does nothing until open"]
pub struct PortmapBuilder {
    table_name: String,
    ownership: Ownership,
    reserve: Reserve,
}

impl PortmapBuilder {
    pub(super) fn of(table_name: &str) -> Self {
        PortmapBuilder {
            table_name: table_name.to_owned(),
            ownership: Ownership::default(),
            reserve: Reserve::default(),
        }
    }

    /// Who else may change the table.
    pub fn ownership(mut self, ownership: Ownership) -> Self {
        self.ownership = ownership;
        self
    }

    /// What is done about processes of the host that have a published port or may want it.
    pub fn reserve(mut self, reserve: Reserve) -> Self {
        self.reserve = reserve;
        self
    }

    /// Opens the table in the calling thread's network namespace, and makes nothing yet.
    ///
    /// # Errors
    /// As [`Portmap::open`].
    pub fn open(self) -> Result<Portmap> {
        let table = TableName::new(&self.table_name)?;
        let open = || {
            let netns = NetNs::of_this_thread()?;
            let mut socket = Socket::open()?;
            socket.generation().map_err(no_nftables)?;
            Ok((netns, socket, Conntrack::open()?))
        };
        let (netns, socket, conntrack) = open()
            .map_err(|failure: Failure| failure.during(format_args!("open table inet {table}")))?;
        let kernel = Mutex::new(Kernel::new(socket, table.clone(), self.ownership));
        Ok(Portmap {
            shared: Arc::new(Shared {
                table,
                netns,
                reserve: self.reserve,
                turn: Turn::default(),
                kernel,
                conntrack: Mutex::new(conntrack),
            }),
        })
    }
}

/// What a kernel without nf_tables says to a message for it.
fn no_nftables(failure: Failure) -> Failure {
    match failure.errno() {
        Some(libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => failure
            .of_kind(ErrorKind::Unsupported)
            .with_note("the kernel has no nf_tables, or may not load it; a Proxy publishes without"),
        Some(libc::EPERM) => failure.with_note(
            "CAP_NET_ADMIN in the user namespace that owns the network namespace is missing; a Proxy publishes without",
        ),
        _ => failure,
    }
}
