//! Names of kernel objects, checked when made.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Inner, Result};

/// The name of our table, such that nft's text can spell it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableName(String);

impl TableName {
    /// `NFT_TABLE_MAXNAMELEN` counts the closing zero.
    const MAX: usize = 255;

    pub(crate) fn new(name: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let reason = if name.is_empty() {
            "empty"
        } else if name.len() > Self::MAX {
            "longer than 255 bytes"
        } else if !name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
            "does not start with a letter or an underscore"
        } else if !name.bytes().all(allowed) {
            "has other than ASCII letters, digits, '_', '.' and '-'"
        } else {
            return Ok(TableName(name.to_owned()));
        };
        Err(wrong("table name", name, reason))
    }
}

impl TableName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a link, as dev_valid_name() in the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IfName(String);

impl IfName {
    const MAX: usize = libc::IFNAMSIZ - 1;

    pub(crate) fn new(name: &str) -> Result<Self> {
        let reason = if name.is_empty() {
            "empty"
        } else if name.len() > Self::MAX {
            "longer than 15 bytes"
        } else if name == "." || name == ".." {
            "not a name"
        } else if !name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/:\"*".contains(&byte))
        {
            "has a slash, colon, quote, asterisk, space, or other than printable ASCII"
        } else {
            return Ok(IfName(name.to_owned()));
        };
        Err(wrong("interface name", name, reason))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whose a network or a published port is: a container's id, a name, whatever its maker finds it by again.
///
/// It is kept in the kernel as the element's comment, so that `nft list` shows it and [`Portmap::list`](crate::Portmap::list)
/// reads it back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(String);

impl Owner {
    /// nft's limit of a comment, without the closing zero.
    const MAX: usize = 127;

    /// An owner of that name: 1 to 127 printable ASCII bytes without space, quote and backslash.
    ///
    /// # Errors
    /// `InvalidInput` for any other.
    pub fn new(name: &str) -> Result<Self> {
        let reason = if name.is_empty() {
            "empty"
        } else if name.len() > Self::MAX {
            "longer than 127 bytes"
        } else if !name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
        {
            "has a space, quote, backslash, or other than printable ASCII"
        } else {
            return Ok(Owner(name.to_owned()));
        };
        Err(wrong("owner", name, reason))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Owner {
    type Err = Error;

    /// As [`Owner::new`].
    fn from_str(name: &str) -> Result<Self> {
        Owner::new(name)
    }
}

/// An interface name filled up with zeros, cut where it would not leave one.
pub(crate) fn padded(name: &str) -> [u8; libc::IFNAMSIZ] {
    let mut bytes = [0; libc::IFNAMSIZ];
    for (byte, from) in bytes.iter_mut().zip(name.bytes().take(IfName::MAX)) {
        *byte = from;
    }
    bytes
}

fn wrong(what: &'static str, value: &str, reason: &'static str) -> Error {
    let value = value.to_owned();
    Inner::Input {
        what,
        value,
        reason,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn names_the_kernel_or_nft_would_not_take_are_refused() {
        let long = "x".repeat(256);
        for name in ["", "1st", "a b", "a/b", "a\nb", "é", "-a", &long] {
            let error = TableName::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\0b",
            "br*",
            "a\"b",
            "é",
            "sixteen-bytes-ab",
        ] {
            let error = IfName::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
        }
        for name in ["", "a b", "a\"b", "a\\b", "a\0", "é", &"x".repeat(128)] {
            let error = Owner::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
        }
        assert!(Owner::new(&"x".repeat(127)).is_ok());
        assert!(IfName::new("fifteen-bytes-a").is_ok());
        assert!(TableName::new("cofferdam-1.app_2").is_ok());
    }

    #[test]
    fn an_interface_name_is_filled_up_with_zeros() {
        assert_eq!(&padded("br0"), b"br0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }
}
