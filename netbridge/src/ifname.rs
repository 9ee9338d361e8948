//! Names of links.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The name of a link: 1 to 15 bytes, and only what the kernel takes for one.
///
/// No `/`, `:`, NUL or white space, not `.` or `..`: a name is also a directory of `/proc/sys/net`.
///
/// ```
/// use cofferdam_netbridge::IfName;
///
/// let name: IfName = "eth0".parse()?;
/// assert_eq!(name.as_str(), "eth0");
/// assert!("a/b".parse::<IfName>().is_err());
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "IFNAMSIZ")]
pub struct IfName(String);

impl IfName {
    /// The longest name, in bytes: `IFNAMSIZ` without its NUL.
    pub const MAX: usize = 15;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name this crate puts together of literals and hex digits.
    pub(crate) fn derived(name: String) -> Self {
        debug_assert!(fault(&name).is_none(), "{name}");
        IfName(name)
    }
}

impl FromStr for IfName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match fault(name) {
            None => Ok(IfName(name.to_owned())),
            Some(why) => Err(Error::invalid(format_args!("interface name {name:?}"), why)),
        }
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for IfName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > IfName::MAX {
        return Some("it is longer than 15 bytes");
    }
    if name == "." || name == ".." {
        return Some("it names a directory");
    }
    // 0xa0 is white space to the kernel's isspace(), which reads Latin-1.
    let bad = |byte: u8| matches!(byte, b'/' | b':' | 0 | b' ' | b'\t'..=b'\r' | 0xa0);
    if name.bytes().any(bad) {
        return Some("it has a slash, a colon, a NUL or white space");
    }
    // do_setlink and friends take a name with % for a pattern.
    name.contains('%')
        .then_some("it has a %, which the kernel takes for a pattern")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_takes_are_taken() {
        for name in ["a", "eth0", "br-0123456789ab", "v.1", "...", "ünet"] {
            assert_eq!(name.parse::<IfName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn names_the_kernel_refuses_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "a\0",
            "a\n",
            "a\t",
            "a\u{b}",
            "0123456789abcdef",
            "eth%d",
            "\u{e0}",
        ] {
            let error = name.parse::<IfName>().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidInput, "{name:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
