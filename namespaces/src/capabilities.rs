//! Which capabilities a program has and can ever have.

use std::fmt;
use std::ops::{BitAnd, BitOr, Sub};
use std::str::FromStr;
use std::sync::LazyLock;

use caps::Capability;

use crate::attributes::Privileges;
use crate::command::Command;
use crate::error::{Error, Result};

/// A set of capabilities.
///
/// `|`, `&` and `-` unite, intersect and subtract sets. Names are parsed as users write them:
///
/// ```
/// use cofferdam_namespaces::{Capabilities, Capability};
///
/// let set: Capabilities = "CAP_NET_ADMIN,kill".parse()?;
/// assert_eq!(set - "net_admin".parse()?, Capabilities::NONE.with(Capability::CAP_KILL));
/// assert_eq!("ALL".parse::<Capabilities>()?, Capabilities::ALL);
/// # Ok::<(), cofferdam_namespaces::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capabilities(u64);

/// `CAP_CHECKPOINT_RESTORE`, of Linux 5.9.
const LAST: u8 = 40;

impl Capabilities {
    /// No capability at all.
    pub const NONE: Self = Capabilities(0);

    /// All 41 that have a name. What later kernels know is not in it.
    pub const ALL: Self = Capabilities((1 << (LAST + 1)) - 1);
    /// The fourteen that Docker gives a container by default.
    #[must_use]
    pub fn docker_default() -> Self {
        use Capability::{
            CAP_AUDIT_WRITE, CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL,
            CAP_MKNOD, CAP_NET_BIND_SERVICE, CAP_NET_RAW, CAP_SETFCAP, CAP_SETGID, CAP_SETPCAP,
            CAP_SETUID, CAP_SYS_CHROOT,
        };
        let set = [
            CAP_AUDIT_WRITE,
            CAP_CHOWN,
            CAP_DAC_OVERRIDE,
            CAP_FOWNER,
            CAP_FSETID,
            CAP_KILL,
            CAP_MKNOD,
            CAP_NET_BIND_SERVICE,
            CAP_NET_RAW,
            CAP_SETFCAP,
            CAP_SETGID,
            CAP_SETPCAP,
            CAP_SETUID,
            CAP_SYS_CHROOT,
        ];
        set.into_iter().fold(Self::NONE, Self::with)
    }

    /// Also this one.
    #[must_use]
    pub fn with(self, capability: Capability) -> Self {
        Capabilities(self.0 | capability.bitmask())
    }

    /// Not this one.
    #[must_use]
    pub fn without(self, capability: Capability) -> Self {
        Capabilities(self.0 & !capability.bitmask())
    }

    /// Whether this one is in it.
    #[must_use]
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & capability.bitmask() != 0
    }

    /// Whether there is none in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of them are in `other` too.
    #[must_use]
    pub fn is_subset(self, other: Self) -> bool {
        self - other == Self::NONE
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Of a mask that may have bits without a name.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Capabilities(bits) & Self::ALL
    }
}

/// Docker's default set.
impl Default for Capabilities {
    fn default() -> Self {
        Self::docker_default()
    }
}

impl BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Capabilities(self.0 | other.0)
    }
}

impl BitAnd for Capabilities {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Capabilities(self.0 & other.0)
    }
}

impl Sub for Capabilities {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Capabilities(self.0 & !other.0)
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        capabilities.into_iter().fold(Self::NONE, Self::with)
    }
}

/// In the order of their numbers.
impl IntoIterator for Capabilities {
    type Item = Capability;
    type IntoIter = std::vec::IntoIter<Capability>;

    fn into_iter(self) -> Self::IntoIter {
        let mut all: Vec<_> = caps::all().into_iter().collect();
        all.retain(|&capability| self.contains(capability));
        all.sort_unstable_by_key(|capability| capability.index());
        all.into_iter()
    }
}

/// Names with commas or white space between, in any case and with or without `CAP_`; `ALL`, `NONE`.
impl FromStr for Capabilities {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = text.split(|c: char| c == ',' || c.is_whitespace());
        let names = names.filter(|name| !name.is_empty());
        names
            .map(named)
            .try_fold(Self::NONE, |all, set| Ok(all | set?))
    }
}

fn named(name: &str) -> Result<Capabilities> {
    let upper = name.to_ascii_uppercase();
    match upper.as_str() {
        "ALL" => return Ok(Capabilities::ALL),
        "NONE" => return Ok(Capabilities::NONE),
        _ => {}
    }
    let full = match upper.strip_prefix("CAP_") {
        Some(_) => upper,
        None => format!("CAP_{upper}"),
    };
    match full.parse::<Capability>() {
        Ok(capability) => Ok(Capabilities::NONE.with(capability)),
        Err(_) => Err(Error::invalid("capability", name, "is unknown")),
    }
}

/// As it is parsed: `CAP_CHOWN,CAP_KILL`, `ALL`, `NONE`.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("ALL"),
            Self::NONE => f.write_str("NONE"),
            set => {
                let names: Vec<_> = set.into_iter().map(|one| one.to_string()).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut set = f.debug_set();
        for name in *self {
            set.entry(&format_args!("{name}"));
        }
        set.finish()
    }
}

/// All that capabilities(7) lets one choose. The fifth set, effective, execve(2) makes itself: root's permitted set, the ambient
/// set of anybody else.
///
/// ```
/// use cofferdam_namespaces::{Capabilities, CapabilitySets, Capability, Command, User};
///
/// let bind = Capabilities::NONE.with(Capability::CAP_NET_BIND_SERVICE);
/// let command = Command::new("/bin/server")
///     .user(User::id(1000, 1000))
///     .capability_sets(CapabilitySets::new(bind).ambient(bind));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilitySets {
    bounding: Capabilities,
    chosen: Chosen,
}

impl CapabilitySets {
    /// Of this bounding set. No capability is ambient, and none inheritable; permitted is what root can have, and nothing for
    /// anybody else.
    #[must_use]
    pub const fn new(bounding: Capabilities) -> Self {
        CapabilitySets {
            bounding,
            chosen: Chosen::NONE,
        }
    }

    /// What it is permitted until its execve(2), which leaves of it what root or a file's capabilities allow under no_new_privs:
    /// a part of the bounding set. All of it, where [new privileges](Command::allow_new_privileges) are allowed.
    #[must_use]
    pub const fn permitted(mut self, set: Capabilities) -> Self {
        self.chosen.permitted = Some(set);
        self
    }

    /// What a file that has it as inheritable gives it: a part of the bounding set. Unless set it is what is ambient, which
    /// has to be in it.
    #[must_use]
    pub const fn inheritable(mut self, set: Capabilities) -> Self {
        self.chosen.inheritable = Some(set);
        self
    }

    /// What it has and hands on to what it executes, though not root.
    #[must_use]
    pub const fn ambient(mut self, set: Capabilities) -> Self {
        self.chosen.ambient = set;
        self
    }
}

/// The sets that were chosen beside the bounding set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) permitted: Option<Capabilities>,
    inheritable: Option<Capabilities>,
    pub(crate) ambient: Capabilities,
}

impl Default for Chosen {
    fn default() -> Self {
        Self::NONE
    }
}

impl Chosen {
    const NONE: Self = Chosen {
        permitted: None,
        inheritable: None,
        ambient: Capabilities::NONE,
    };

    pub(crate) fn inheritable(&self) -> Capabilities {
        self.inheritable.unwrap_or(self.ambient)
    }

    /// The kernel's rules.
    pub(crate) fn validate(&self, bounding: Capabilities, privileges: Privileges) -> Result<()> {
        let part = |item, set: Capabilities, whole, reason| match set - whole {
            Capabilities::NONE => Ok(()),
            rest => Err(Error::invalid(item, rest.to_string(), reason)),
        };
        let outside = "is not in the bounding set";
        part("ambient capability", self.ambient, bounding, outside)?;
        part(
            "inheritable capability",
            self.inheritable(),
            bounding,
            outside,
        )?;
        let reason = "is not inheritable";
        part(
            "ambient capability",
            self.ambient,
            self.inheritable(),
            reason,
        )?;
        let Some(permitted) = self.permitted else {
            return Ok(());
        };
        part("permitted capability", permitted, bounding, outside)?;
        let reason = "is not permitted";
        part("ambient capability", self.ambient, permitted, reason)?;
        if privileges == Privileges::New && permitted != bounding {
            let reason = "is less than the bounding set, which new privileges can be";
            return Err(Error::invalid(
                "permitted set",
                permitted.to_string(),
                reason,
            ));
        }
        Ok(())
    }
}

impl Command {
    /// The capabilities it has though it is not root, and hands on to what it executes: a part of the
    /// [bounding set](Self::capabilities). The caller has to have them itself, or a user namespace of its own gives them.
    #[doc(alias = "PR_CAP_AMBIENT")]
    pub fn ambient(mut self, set: Capabilities) -> Self {
        self.attributes.chosen.ambient = set;
        self
    }

    /// All that can be chosen of its capabilities, in place of what was set before.
    pub fn capability_sets(mut self, sets: CapabilitySets) -> Self {
        self.capabilities = sets.bounding;
        self.attributes.chosen = sets.chosen;
        self
    }
}

/// The last capability that the kernel knows, as it says itself; 63 where that cannot be read.
pub(crate) fn last() -> u8 {
    static LAST: LazyLock<u8> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
        let last = text.trim_end().parse().ok();
        // What it says is believed as far as this crate's own knowledge does not contradict it.
        last.filter(|last| (40..64).contains(last)).unwrap_or(63)
    });
    *LAST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_dockers() {
        // CapBnd of `docker run alpine grep Cap /proc/self/status`.
        assert_eq!(Capabilities::default().bits(), 0xa804_25fb);
    }

    #[test]
    fn all_are_those_with_a_name() {
        let named: Capabilities = caps::all().into_iter().collect();
        assert_eq!(named, Capabilities::ALL);
        assert_eq!(Capabilities::ALL.into_iter().count(), 41);
    }

    #[test]
    fn debug_prints_the_names() {
        let set = Capabilities::NONE
            .with(Capability::CAP_KILL)
            .with(Capability::CAP_CHOWN);
        assert_eq!(format!("{set:?}"), "{CAP_CHOWN, CAP_KILL}");
        assert_eq!(
            format!("{:?}", set.without(Capability::CAP_CHOWN)),
            "{CAP_KILL}"
        );
    }

    #[test]
    fn what_is_printed_can_be_parsed() {
        for set in [
            Capabilities::NONE,
            Capabilities::ALL,
            Capabilities::default(),
        ] {
            assert_eq!(set.to_string().parse::<Capabilities>().unwrap(), set);
        }
        let set: Capabilities = " cap_sys_admin, Net_Raw\tkill".parse().unwrap();
        assert_eq!(set.to_string(), "CAP_KILL,CAP_NET_RAW,CAP_SYS_ADMIN");
        for bad in ["net_admi", "CAP_CAP_KILL", "CAP_", "12"] {
            let error = bad.parse::<Capabilities>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("capability \"{bad}\": is unknown")
            );
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused() {
        let (kill, chown): (Capabilities, Capabilities) =
            ("kill".parse().unwrap(), "chown".parse().unwrap());
        let refused = |sets| {
            let command = Command::new("a").capability_sets(sets);
            command.validate().unwrap_err().to_string()
        };
        let sets = CapabilitySets::new(kill);
        assert_eq!(
            refused(sets.ambient(chown | kill)),
            "ambient capability \"CAP_CHOWN\": is not in the bounding set"
        );
        let sets = CapabilitySets::new(kill | chown);
        assert!(refused(sets.ambient(chown).inheritable(kill)).contains("is not inheritable"));
        assert!(refused(sets.ambient(chown).permitted(kill)).contains("is not permitted"));
        let sets = sets.permitted(kill).inheritable(chown | kill);
        let command = Command::new("a").capability_sets(sets);
        command.validate().unwrap();
        let error = command.allow_new_privileges().validate().unwrap_err();
        assert!(error.to_string().contains("new privileges"), "{error}");
    }
}
