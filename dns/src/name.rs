//! A host name that cannot be wrong.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, Result};

/// The longest name, in bytes of text: 255 on the wire, less the first length byte and the root.
const TEXT_MAX: usize = 253;
/// The longest label in bytes.
const LABEL_MAX: usize = 63;

/// A host name: labels of letters, digits, `-` and `_`, at most 63 bytes each and 253 in all.
///
/// Case is kept for those who read it and ignored when names are compared, as DNS does. A trailing dot is dropped.
///
/// ```
/// use cofferdam_dns::Name;
///
/// let name: Name = "Web-1.example.com.".parse()?;
/// assert_eq!(name.as_str(), "Web-1.example.com");
/// assert_eq!(name, "web-1.EXAMPLE.com".parse()?);
/// assert!("no spaces\nnameserver 10.0.0.66".parse::<Name>().is_err());
/// # Ok::<_, cofferdam_dns::Error>(())
/// ```
#[derive(Clone)]
pub struct Name(Box<str>);

/// A name as a zone looks it up: labels with their length bytes and the root, in lower case.
pub(crate) type Key = Arc<[u8]>;

impl Name {
    /// The name as it was written, without a trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Appends the name as it goes on the wire, in the case it was written.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for label in self.0.split('.') {
            // A label has at most 63 bytes, checked on entry.
            out.push(label.len() as u8);
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
    }

    /// The same, followed by a domain if there is one that it does not end with; without it where both are too long
    /// together.
    pub(crate) fn write_in(&self, domain: Option<&Name>, out: &mut Vec<u8>) {
        self.write(out);
        let fits = |domain: &&Name| self.0.len() + 1 + domain.0.len() <= TEXT_MAX;
        if let Some(domain) = domain.filter(fits).filter(|domain| !self.is_in(domain)) {
            out.pop();
            domain.write(out);
        }
    }

    fn is_in(&self, domain: &Name) -> bool {
        let split = self.0.len().checked_sub(domain.0.len() + 1);
        let tail = split.and_then(|split| self.0.get(split..));
        let tail = tail.and_then(|tail| tail.strip_prefix('.'));
        tail.is_some_and(|tail| tail.eq_ignore_ascii_case(&domain.0))
    }

    pub(crate) fn key(&self) -> Key {
        let mut wire = Vec::with_capacity(self.0.len() + 2);
        self.write(&mut wire);
        wire.make_ascii_lowercase();
        wire.into()
    }

    fn folded(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.bytes().map(|byte| byte.to_ascii_lowercase())
    }
}

/// The name under `in-addr.arpa` or `ip6.arpa` that asks who has `address`.
pub(crate) fn reverse(address: IpAddr) -> Key {
    let mut wire = Vec::with_capacity(74);
    match address {
        IpAddr::V4(address) => {
            for byte in address.octets().iter().rev() {
                let digits = byte.to_string();
                wire.push(digits.len() as u8);
                wire.extend_from_slice(digits.as_bytes());
            }
            wire.extend_from_slice(b"\x07in-addr\x04arpa\0");
        }
        IpAddr::V6(address) => {
            for byte in address.octets().iter().rev() {
                for nibble in [byte & 15, byte >> 4] {
                    wire.extend_from_slice(&[1, b"0123456789abcdef"[usize::from(nibble)]]);
                }
            }
            wire.extend_from_slice(b"\x03ip6\x04arpa\0");
        }
    }
    wire.into()
}

fn check(text: &str) -> std::result::Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > TEXT_MAX {
        return Err("is longer than 253 bytes");
    }
    text.split('.').try_for_each(check_label)
}

fn check_label(label: &str) -> std::result::Result<(), &'static str> {
    if label.is_empty() {
        return Err("has an empty label");
    }
    if label.len() > LABEL_MAX {
        return Err("has a label longer than 63 bytes");
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err("has a label that begins or ends with a hyphen");
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !label.bytes().all(fits) {
        return Err("has a byte that is no letter, digit, hyphen or underscore");
    }
    Ok(())
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        match check(bare) {
            Ok(()) => Ok(Name(bare.into())),
            Err(why) => Err(Error::name(text, why)),
        }
    }
}

impl TryFrom<&str> for Name {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.folded().cmp(other.folded())
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded().for_each(|byte| state.write_u8(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_on_entry() {
        let long_label = "a".repeat(64);
        let long_name = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(62),
        ]
        .join(".");
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "a..",
            "-a",
            "a-",
            "a b",
            "a\nb",
            "a\0b",
            "ä",
            "a/b",
            "*",
            &long_label,
            &long_name,
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        for good in [
            "a",
            "a.",
            "A",
            "_http._tcp.web",
            "1",
            "a-b_c",
            &long_label[1..],
            &long_name[1..],
        ] {
            assert!(good.parse::<Name>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn the_error_says_which_name_and_why() {
        let error = "a..b".parse::<Name>().unwrap_err();
        assert_eq!(error.to_string(), r#"name "a..b": has an empty label"#);
        assert_eq!(error.kind(), crate::ErrorKind::InvalidInput);
    }

    #[test]
    fn case_is_kept_and_ignored() {
        let (upper, lower) = (
            "Web".parse::<Name>().unwrap(),
            "wEB".parse::<Name>().unwrap(),
        );
        assert_eq!(upper, lower);
        assert_eq!(upper.cmp(&lower), Ordering::Equal);
        assert_eq!(upper.key(), lower.key());
        assert_eq!(upper.to_string(), "Web");
        assert_eq!(std::collections::HashSet::from([upper, lower]).len(), 1);
    }

    #[test]
    fn the_wire_form_has_lengths_and_a_root() {
        let mut wire = Vec::new();
        "Db.app".parse::<Name>().unwrap().write(&mut wire);
        assert_eq!(wire, b"\x02Db\x03app\0");
    }

    #[test]
    fn reverse_names_are_those_of_the_rfcs() {
        let v4 = reverse("10.89.0.2".parse().unwrap());
        assert_eq!(&*v4, b"\x012\x010\x0289\x0210\x07in-addr\x04arpa\0");
        let v6 = reverse("2001:db8::567:89ab".parse().unwrap());
        let text = "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(v6, text.parse::<Name>().unwrap().key());
    }
}
