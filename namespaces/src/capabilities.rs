//! Which capabilities a program can ever have.

use std::fmt;

use caps::Capability;

/// A set of capabilities: the bounding set of the program, and of all it executes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// No capability at all.
    pub const NONE: Self = Capabilities(0);

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

    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

/// Docker's default set.
impl Default for Capabilities {
    fn default() -> Self {
        Self::docker_default()
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = caps::all()
            .into_iter()
            .filter(|&capability| self.contains(capability))
            .collect();
        names.sort_by_key(|capability| capability.index());
        f.debug_set()
            .entries(names.iter().map(|name| format_args_of(*name)))
            .finish()
    }
}

fn format_args_of(capability: Capability) -> impl fmt::Debug {
    struct Name(Capability);
    impl fmt::Debug for Name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}", self.0)
        }
    }
    Name(capability)
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
}
