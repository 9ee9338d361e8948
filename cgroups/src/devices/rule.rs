//! One rule, and its text as OCI and Docker write it.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

use super::Action;
use crate::error::{Error, Result};

/// Allows or denies some access to some devices.
///
/// Its text is that of Docker's `--device-cgroup-rule` and of the v1 files, `c 1:3 rwm`: the kind (`a`, `b` or `c`),
/// major and minor number or `*`, the access. `allow` or `deny` may come before it; without them it allows.
///
/// ```
/// use cofferdam_cgroups::{DeviceAccess, DeviceKind, DeviceRule};
///
/// let rule: DeviceRule = "c 5:* rw".parse().unwrap();
/// let same = DeviceRule::allow(DeviceKind::Char, 5, None, DeviceAccess::READ | DeviceAccess::WRITE);
/// assert_eq!(rule, same);
/// assert_eq!(rule.to_string(), "allow c 5:* rw");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct DeviceRule {
    action: Action,
    kind: DeviceKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: DeviceAccess,
}

/// Which kind of device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// Block and character devices: `a`.
    All,
    /// Block devices: `b`.
    Block,
    /// Character devices: `c`.
    Char,
}

/// What is done to a device: any of reading, writing, and making a node of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct DeviceAccess(u8);

/// Of a `dev_t` in the kernel: 12 and 20 bits.
const LARGEST_MAJOR: u32 = 0xfff;
const LARGEST_MINOR: u32 = 0xf_ffff;

impl DeviceRule {
    /// Allows `access`. `None` is any major or minor number.
    pub fn allow(
        kind: DeviceKind,
        major: impl Into<Option<u32>>,
        minor: impl Into<Option<u32>>,
        access: DeviceAccess,
    ) -> Self {
        Self::new(Action::Allow, kind, major.into(), minor.into(), access)
    }

    /// Denies `access`. `None` is any major or minor number.
    pub fn deny(
        kind: DeviceKind,
        major: impl Into<Option<u32>>,
        minor: impl Into<Option<u32>>,
        access: DeviceAccess,
    ) -> Self {
        Self::new(Action::Deny, kind, major.into(), minor.into(), access)
    }

    /// Whether it allows; else it denies.
    #[must_use]
    pub fn is_allow(&self) -> bool {
        self.action == Action::Allow
    }

    /// The kind of devices it is for.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// The major number it is for; `None` is any.
    #[must_use]
    pub fn major(&self) -> Option<u32> {
        self.major
    }

    /// The minor number it is for; `None` is any.
    #[must_use]
    pub fn minor(&self) -> Option<u32> {
        self.minor
    }

    /// The access it is for.
    pub fn access(&self) -> DeviceAccess {
        self.access
    }

    pub(super) fn new(
        action: Action,
        kind: DeviceKind,
        major: Option<u32>,
        minor: Option<u32>,
        access: DeviceAccess,
    ) -> Self {
        DeviceRule {
            action,
            kind,
            major,
            minor,
            access,
        }
    }

    pub(super) fn action(&self) -> Action {
        self.action
    }

    pub(super) fn matches(&self, kind: DeviceKind, major: u32, minor: u32) -> bool {
        self.kind.covers(kind)
            && self.major.is_none_or(|ours| ours == major)
            && self.minor.is_none_or(|ours| ours == minor)
    }

    pub(super) fn is_everything(&self) -> bool {
        self.kind == DeviceKind::All
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == DeviceAccess::ALL
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.access.0 == 0 {
            return Err(Error::limit("devices", self, "names no access"));
        }
        if self.major.is_some_and(|major| major > LARGEST_MAJOR) {
            return Err(Error::limit("devices", self, "its major is above 4095"));
        }
        if self.minor.is_some_and(|minor| minor > LARGEST_MINOR) {
            return Err(Error::limit("devices", self, "its minor is above 1048575"));
        }
        Ok(())
    }
}

impl FromStr for DeviceRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rule = parse(text).ok_or_else(|| {
            let form = "is not of the form [allow|deny] a|b|c MAJOR:MINOR [r][w][m]";
            Error::limit("devices", format!("{text:?}"), form)
        })?;
        rule.validate()?;
        Ok(rule)
    }
}

fn parse(text: &str) -> Option<DeviceRule> {
    let mut words = text.split_ascii_whitespace().peekable();
    let action = match *words.peek()? {
        "deny" => Action::Deny,
        _ => Action::Allow,
    };
    if matches!(words.peek(), Some(&"allow" | &"deny")) {
        words.next();
    }
    let kind = match words.next()? {
        "a" => DeviceKind::All,
        "b" => DeviceKind::Block,
        "c" => DeviceKind::Char,
        _ => return None,
    };
    let (major, minor) = match words.next() {
        // `a` alone is everything, as in v1.
        None if kind == DeviceKind::All => {
            return Some(DeviceRule::new(action, kind, None, None, DeviceAccess::ALL));
        }
        word => word?.split_once(':')?,
    };
    let access = access(words.next()?)?;
    let rule = DeviceRule::new(action, kind, number(major)?, number(minor)?, access);
    words.next().is_none().then_some(rule)
}

fn number(text: &str) -> Option<Option<u32>> {
    if text == "*" {
        return Some(None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?.map(Some)
}

fn access(text: &str) -> Option<DeviceAccess> {
    let mut access = DeviceAccess(0);
    for letter in text.chars() {
        let one = match letter {
            'r' => DeviceAccess::READ,
            'w' => DeviceAccess::WRITE,
            'm' => DeviceAccess::MKNOD,
            _ => return None,
        };
        // Twice the same is a slip of the pen.
        if access.contains(one) {
            return None;
        }
        access = access | one;
    }
    Some(access)
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        write!(f, "{verb} {}", self.v1_text())
    }
}

impl DeviceRule {
    /// What the v1 files take.
    pub(super) fn v1_text(&self) -> String {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let (major, minor) = (number(self.major), number(self.minor));
        format!("{} {major}:{minor} {}", self.kind, self.access)
    }
}

impl DeviceKind {
    /// Those it stands for.
    pub(super) fn each(self) -> &'static [DeviceKind] {
        match self {
            DeviceKind::All => &[DeviceKind::Block, DeviceKind::Char],
            DeviceKind::Block => &[DeviceKind::Block],
            DeviceKind::Char => &[DeviceKind::Char],
        }
    }

    pub(super) fn covers(self, other: DeviceKind) -> bool {
        self == DeviceKind::All || self == other
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::All => "a",
            DeviceKind::Block => "b",
            DeviceKind::Char => "c",
        })
    }
}

impl DeviceAccess {
    /// Making a node, by mknod(2): `m`.
    pub const MKNOD: Self = DeviceAccess(1);
    /// Reading: `r`.
    pub const READ: Self = DeviceAccess(2);
    /// Writing: `w`.
    pub const WRITE: Self = DeviceAccess(4);
    /// All three: `rwm`.
    pub const ALL: Self = DeviceAccess(7);

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn contains(self, other: DeviceAccess) -> bool {
        self.0 & other.0 == other.0
    }

    /// The kernel's bits, `BPF_DEVCG_ACC_*`.
    pub(super) fn bits(self) -> u8 {
        self.0
    }

    pub(super) fn from_bits(bits: u8) -> Self {
        DeviceAccess(bits & 7)
    }

    pub(super) fn each(self) -> impl Iterator<Item = DeviceAccess> {
        [Self::READ, Self::WRITE, Self::MKNOD]
            .into_iter()
            .filter(move |one| self.contains(*one))
    }
}

impl BitOr for DeviceAccess {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        DeviceAccess(self.0 | other.0)
    }
}

impl fmt::Display for DeviceAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (one, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")] {
            if self.contains(one) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "allow c 1:3 rwm",
            "deny b *:* w",
            "allow a 10:* m",
            "allow c 4095:1048575 r",
            "deny a *:* rwm",
        ] {
            let rule: DeviceRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        let docker: DeviceRule = " c  42:* rmw ".parse().unwrap();
        assert_eq!(docker.to_string(), "allow c 42:* rwm");
        let all: DeviceRule = "deny a".parse().unwrap();
        assert!(all.is_everything() && !all.is_allow());
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "allow",
            "c",
            "c 1:3",
            "c 1 rwm",
            "x 1:3 rwm",
            "c 1:3 rwx",
            "c 1:3 rr",
            "c -1:3 r",
            "c +1:3 r",
            "c 1:3 r w",
            "c 4096:0 r",
            "c 1:1048576 r",
            "c 99999999999:0 r",
            "c 1:3:4 r",
            "deny allow c 1:3 r",
            "c \u{661}:3 r",
        ] {
            let error = text.parse::<DeviceRule>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(error.to_string().contains("devices"), "{error}");
        }
    }
}
