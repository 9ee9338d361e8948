//! Names of links.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The name of a link: 1 to 15 printable ASCII characters, and only what the kernel and packet filters take for one.
///
/// No `/` or `:`, not `.` or `..`: a name is also a directory of `/proc/sys/net`. For the same reason not `all` and
/// `default`, whose settings there are those of every link. No `%`, which the kernel takes for a
/// pattern, nor `*` and `"`, which nft does.
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
    let bad = |byte: u8| !byte.is_ascii_graphic() || b"/:\"*".contains(&byte);
    if name.bytes().any(bad) {
        return Some(
            "it has a slash, colon, quote, asterisk, space, or other than printable ASCII",
        );
    }
    if name == "all" || name == "default" {
        return Some("it stands for all links in /proc/sys/net");
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
        for name in ["a", "eth0", "br-0123456789ab", "v.1", "...", "n1_x@y"] {
            assert_eq!(name.parse::<IfName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn names_the_kernel_or_nft_would_not_take_are_refused() {
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
            "ünet",
            "\u{a0}",
            "a\"b",
            "a*",
            "a\u{1}",
            "a\u{7f}",
        ] {
            let error = name.parse::<IfName>().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidInput, "{name:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
