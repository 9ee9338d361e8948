//! Settings under `/proc/sys/net`, which shows the network namespace of the thread that looks a path up.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;

/// Whether a link is to have IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipv6 {
    On,
    Off,
}

/// IPv6 of a link, before it goes up; router advertisements are taken by none.
pub(crate) fn ipv6(name: &IfName, wanted: Ipv6) -> Result<()> {
    match wanted {
        Ipv6::On => ipv6_on(name),
        Ipv6::Off => ipv6_off(name),
    }
}

/// IPv6 with the addresses given alone, and a link-local one that works at once.
fn ipv6_on(name: &IfName) -> Result<()> {
    let base = format!("/proc/sys/net/ipv6/conf/{name}");
    for (key, value) in [
        ("accept_ra", "0"),
        ("autoconf", "0"),
        ("accept_dad", "0"),
        ("disable_ipv6", "0"),
    ] {
        write(&format!("{base}/{key}"), value)?;
    }
    Ok(())
}

/// No IPv6 on the link, and no router advertisement taken should someone switch IPv6 on.
///
/// A link without `/proc/sys/net/ipv6` has no IPv6: the kernel lacks it, or the MTU is below 1280.
fn ipv6_off(name: &IfName) -> Result<()> {
    let base = format!("/proc/sys/net/ipv6/conf/{name}");
    let done = write(&format!("{base}/accept_ra"), "0")
        .and_then(|()| write(&format!("{base}/disable_ipv6"), "1"));
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound && only_ipv4(name) => Ok(()),
        done => done,
    }
}

/// Whether the link shows under `/proc/sys/net`, but not as one with IPv6.
fn only_ipv4(name: &IfName) -> bool {
    let shows = |family| Path::new(&format!("/proc/sys/net/{family}/conf/{name}")).exists();
    shows("ipv4") && !shows("ipv6")
}

pub(crate) fn forwarding(name: &IfName) -> Result<()> {
    write(&format!("/proc/sys/net/ipv4/conf/{name}/forwarding"), "1")
}

pub(crate) fn forwarding6(name: &IfName) -> Result<()> {
    write(&format!("/proc/sys/net/ipv6/conf/{name}/forwarding"), "1")
}

pub(crate) fn route_localnet(name: &IfName) -> Result<()> {
    write(
        &format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"),
        "1",
    )
}

pub(crate) fn ip_forward() -> Result<()> {
    write("/proc/sys/net/ipv4/ip_forward", "1")
}

/// A `/proc/sys` that refuses the write is no failure where it has the value already.
fn write(path: &str, value: &str) -> Result<()> {
    let Err(error) = put(path, value) else {
        return Ok(());
    };
    if fs::read_to_string(path).is_ok_and(|now| now.trim_end() == value) {
        return Ok(());
    }
    Err(Error::sys(format!("write {value} to {path}"), error))
}

fn put(path: &str, value: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}
