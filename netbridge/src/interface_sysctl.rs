//! Settings of one interface under `/proc/sys/net`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::ifname::IfName;

/// What stands for the name of the interface, which is not known before it is made.
const PLACEHOLDER: &str = "IFNAME";

/// The longest value, in bytes.
const LONGEST: usize = 128;

/// A setting of an interface: `net.ipv4.conf.IFNAME.rp_filter=2`. The word `IFNAME` stands for the interface's name.
///
/// Only settings of one interface can be said: `net.ipv4.conf`, `net.ipv4.neigh`, `net.ipv6.conf` and `net.ipv6.neigh`.
///
/// ```
/// use cofferdam_netbridge::InterfaceSysctl;
///
/// let strict: InterfaceSysctl = "net.ipv4.conf.IFNAME.rp_filter=1".parse()?;
/// assert_eq!(strict, InterfaceSysctl::ipv4("rp_filter", 1)?);
/// assert_eq!(strict.path(&"eth0".parse()?), "/proc/sys/net/ipv4/conf/eth0/rp_filter");
///
/// assert!("net.ipv4.ip_forward=1".parse::<InterfaceSysctl>().is_err());
/// assert!("net.ipv4.conf.IFNAME.../../../kernel=1".parse::<InterfaceSysctl>().is_err());
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceSysctl {
    tree: Tree,
    key: String,
    value: String,
}

/// A directory that has one directory for each interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Tree {
    Ipv4Conf,
    Ipv4Neigh,
    Ipv6Conf,
    Ipv6Neigh,
}

impl Tree {
    const ALL: [Tree; 4] = [
        Tree::Ipv4Conf,
        Tree::Ipv4Neigh,
        Tree::Ipv6Conf,
        Tree::Ipv6Neigh,
    ];

    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Tree::Ipv4Conf => ("ipv4", "conf"),
            Tree::Ipv4Neigh => ("ipv4", "neigh"),
            Tree::Ipv6Conf => ("ipv6", "conf"),
            Tree::Ipv6Neigh => ("ipv6", "neigh"),
        }
    }
}

impl InterfaceSysctl {
    /// A setting by its name with `IFNAME` in it, such as `net.ipv6.neigh.IFNAME.retrans_time_ms`.
    ///
    /// # Errors
    /// `InvalidInput` where it is no setting of an interface, or the value is empty, longer than 128 bytes or not
    /// printable ASCII.
    pub fn new(name: &str, value: impl fmt::Display) -> Result<Self> {
        let (tree, key) = split(name).ok_or_else(|| {
            let why = "it is not net.{ipv4,ipv6}.{conf,neigh}.IFNAME.<setting>";
            Error::invalid(format_args!("interface sysctl {name:?}"), why)
        })?;
        InterfaceSysctl::of(tree, key, value)
    }

    /// `net.ipv4.conf.IFNAME.<key>`.
    ///
    /// # Errors
    /// As [`new`](InterfaceSysctl::new).
    pub fn ipv4(key: &str, value: impl fmt::Display) -> Result<Self> {
        InterfaceSysctl::of(Tree::Ipv4Conf, key, value)
    }

    /// `net.ipv6.conf.IFNAME.<key>`.
    ///
    /// # Errors
    /// As [`new`](InterfaceSysctl::new).
    pub fn ipv6(key: &str, value: impl fmt::Display) -> Result<Self> {
        InterfaceSysctl::of(Tree::Ipv6Conf, key, value)
    }

    /// `net.ipv4.conf.IFNAME.rp_filter`: whether packets are dropped whose sender is reached by another interface. The
    /// kernel goes by the larger of this and `net.ipv4.conf.all.rp_filter`, of which 2 is the looser.
    pub fn rp_filter(mode: ReversePath) -> Self {
        InterfaceSysctl::fixed(Tree::Ipv4Conf, "rp_filter", mode as u8)
    }

    /// `net.ipv4.conf.IFNAME.proxy_arp`: whether ARP requests for addresses behind this host are answered.
    pub fn proxy_arp(on: bool) -> Self {
        InterfaceSysctl::fixed(Tree::Ipv4Conf, "proxy_arp", u8::from(on))
    }

    /// `net.ipv4.conf.IFNAME.log_martians`: whether packets with impossible addresses are logged by the kernel.
    pub fn log_martians(on: bool) -> Self {
        InterfaceSysctl::fixed(Tree::Ipv4Conf, "log_martians", u8::from(on))
    }

    /// The file.
    #[must_use]
    pub fn path(&self, interface: &IfName) -> String {
        let (family, tree) = self.tree.parts();
        format!("/proc/sys/net/{family}/{tree}/{interface}/{}", self.key)
    }

    /// What is written to it.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    fn of(tree: Tree, key: &str, value: impl fmt::Display) -> Result<Self> {
        let value = value.to_string();
        let (family, conf) = tree.parts();
        let what = || format!("interface sysctl net.{family}.{conf}.IFNAME.{key:?}={value:?}");
        // A key with a dot or a slash could lead anywhere.
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if key.is_empty() || key.len() > 64 || !key.bytes().all(letter) {
            let why = "a setting has a name of lower-case letters, digits and underscores";
            return Err(Error::invalid(what(), why));
        }
        let printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        if value.is_empty() || value.len() > LONGEST || !value.bytes().all(printable) {
            let why = "a value is 1 to 128 printable ASCII characters";
            return Err(Error::invalid(what(), why));
        }
        let key = key.to_owned();
        Ok(InterfaceSysctl { tree, key, value })
    }

    fn fixed(tree: Tree, key: &str, value: u8) -> Self {
        InterfaceSysctl {
            tree,
            key: key.to_owned(),
            value: value.to_string(),
        }
    }
}

impl FromStr for InterfaceSysctl {
    type Err = Error;

    /// Takes `<name>=<value>`.
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((name, value)) => InterfaceSysctl::new(name.trim(), value.trim()),
            None => {
                let what = format!("interface sysctl {text:?}");
                Err(Error::invalid(what, "it is not <name>=<value>"))
            }
        }
    }
}

impl fmt::Display for InterfaceSysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, tree) = self.tree.parts();
        let InterfaceSysctl { key, value, .. } = self;
        write!(f, "net.{family}.{tree}.{PLACEHOLDER}.{key}={value}")
    }
}

/// What `rp_filter` may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// Every sender is believed.
    Off = 0,
    /// The sender must be reached by the interface the packet came in by.
    Strict = 1,
    /// The sender must be reached by some interface.
    Loose = 2,
}

fn split(name: &str) -> Option<(Tree, &str)> {
    Tree::ALL.into_iter().find_map(|tree| {
        let (family, conf) = tree.parts();
        let key = name.strip_prefix(&format!("net.{family}.{conf}.{PLACEHOLDER}."))?;
        Some((tree, key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_was_said() {
        for text in [
            "net.ipv4.conf.IFNAME.rp_filter=2",
            "net.ipv6.conf.IFNAME.stable_secret=2001:db8::1",
            "net.ipv4.neigh.IFNAME.gc_stale_time=30",
            "net.ipv6.neigh.IFNAME.base_reachable_time_ms=30000",
        ] {
            let sysctl: InterfaceSysctl = text.parse().unwrap();
            assert_eq!(sysctl.to_string(), text);
        }
        let loose = InterfaceSysctl::rp_filter(ReversePath::Loose);
        assert_eq!(loose.to_string(), "net.ipv4.conf.IFNAME.rp_filter=2");
    }

    #[test]
    fn nothing_but_a_setting_of_the_interface_can_be_said() {
        for text in [
            "",
            "=1",
            "net.ipv4.conf.IFNAME.rp_filter",
            "net.ipv4.conf.IFNAME.rp_filter=",
            "net.ipv4.conf.IFNAME.rp_filter=1\n2",
            "net.ipv4.conf.all.rp_filter=1",
            "net.ipv4.conf.eth0.rp_filter=1",
            "net.ipv4.ip_forward=1",
            "net.core.IFNAME.x=1",
            "net.ipv4.conf.IFNAME.=1",
            "net.ipv4.conf.IFNAME...=1",
            "net.ipv4.conf.IFNAME.a/b=1",
            "net.ipv4.conf.IFNAME.../../../../kernel/panic=1",
            "net.ipv4.conf.IFNAME.a.b=1",
            "net/ipv4/conf/IFNAME/rp_filter=1",
            "kernel.core_pattern=|/x",
            "net.ipv4.conf.IFNAME.\u{e9}=1",
        ] {
            let error = text.parse::<InterfaceSysctl>().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidInput, "{text:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert!(InterfaceSysctl::ipv4("rp_filter", "9".repeat(129)).is_err());
        assert!(InterfaceSysctl::ipv4(&"a".repeat(65), 1).is_err());
    }
}
