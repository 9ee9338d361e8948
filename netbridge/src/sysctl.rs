//! Settings under `/proc/sys/net`, which shows the network namespace of the thread that looks a path up.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::interface_sysctl::InterfaceSysctl;

/// Whether a link is to have IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipv6 {
    On,
    Off,
}

/// IPv6 of a link, before it goes up; router advertisements are taken by none.
pub(crate) fn ipv6(name: &IfName, wanted: Ipv6) -> Result<()> {
    no_redirects(name)?;
    match wanted {
        Ipv6::On => ipv6_on(name),
        Ipv6::Off => ipv6_off(name),
    }
}

/// IPv6 with the addresses given alone, and a link-local one that works at once.
fn ipv6_on(name: &IfName) -> Result<()> {
    let base = format!("/proc/sys/net/ipv6/conf/{name}");
    for (key, value) in DEAF
        .into_iter()
        .chain([("accept_dad", "0"), ("disable_ipv6", "0")])
    {
        write(&format!("{base}/{key}"), value)?;
    }
    Ok(())
}

/// What a link does not let others tell it.
const DEAF: [(&str, &str); 3] = [
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("accept_redirects", "0"),
];

/// No IPv6 on the link. Should someone switch it on for all links, it still makes no address of its own and believes no
/// router.
fn ipv6_off(name: &IfName) -> Result<()> {
    let off = [("addr_gen_mode", "1"), ("disable_ipv6", "1")];
    set_ipv6(name, DEAF.into_iter().chain(off))
}

/// A link that others send on whom nobody here knows: it believes no router and no redirect.
pub(crate) fn deaf(name: &IfName) -> Result<()> {
    no_redirects(name)?;
    set_ipv6(name, DEAF)
}

/// A link without `/proc/sys/net/ipv6` has no IPv6: the kernel lacks it, or the MTU is below 1280.
fn set_ipv6(
    name: &IfName,
    settings: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> Result<()> {
    let base = format!("/proc/sys/net/ipv6/conf/{name}");
    let mut settings = settings.into_iter();
    let done = settings.try_for_each(|(key, value)| write(&format!("{base}/{key}"), value));
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound && only_ipv4(name) => Ok(()),
        done => done,
    }
}

/// No link believes a neighbour about a better way.
pub(crate) fn no_redirects(name: &IfName) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{name}/accept_redirects");
    write(&path, "0")
}

/// A host with no address on the link takes nothing from it and answers nothing: by `rp_filter` no sender is believed who is
/// not reached by it, whichever of the two modes `all` makes of it, and by `arp_ignore` it has no address.
pub(crate) fn no_part_of(name: &IfName) -> Result<()> {
    let base = format!("/proc/sys/net/ipv4/conf/{name}");
    write(&format!("{base}/rp_filter"), "1")?;
    write(&format!("{base}/arp_ignore"), "8")
}

/// What has the kernel tell the neighbours when the hardware address is set, and those of IPv4 when the link goes up.
pub(crate) fn announce(name: &IfName, ipv4: bool, ipv6: bool) -> Result<Vec<Later>> {
    let arp = ipv4.then(|| format!("/proc/sys/net/ipv4/conf/{name}/arp_notify"));
    let ndisc = ipv6.then(|| format!("/proc/sys/net/ipv6/conf/{name}/ndisc_notify"));
    let paths = arp.into_iter().chain(ndisc);
    paths.map(|path| Later::open(path, "1")).collect()
}

/// A setting that is written later: by any thread, as the file stays that of the network namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Later {
    /// None where the file cannot be written to, and has the value.
    file: Option<File>,
    path: String,
    value: &'static str,
}

impl Later {
    fn open(path: String, value: &'static str) -> Result<Self> {
        let file = match File::options().write(true).open(&path) {
            Ok(file) => Some(file),
            Err(_error) if has(&path, value) => None,
            Err(error) => return Err(Error::sys(format!("write {value} to {path}"), error)),
        };
        Ok(Later { file, path, value })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn write(&self) -> Result<()> {
        let Some(mut file) = self.file.as_ref() else {
            return Ok(());
        };
        file.write_all(self.value.as_bytes())
            .map_err(|error| Error::sys(format!("write {} to {}", self.value, self.path), error))
    }
}

/// A setting of the link that somebody asked for.
pub(crate) fn set(name: &IfName, sysctl: &InterfaceSysctl) -> Result<()> {
    write(&sysctl.path(name), sysctl.value())
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
    if has(path, value) {
        return Ok(());
    }
    Err(Error::sys(format!("write {value} to {path}"), error))
}

fn has(path: &str, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|now| now.trim_end() == value)
}

fn put(path: &str, value: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}
