//! How the kernel looks to the program: personality(2).

use crate::command::Command;

/// An execution domain with its flags, as of personality(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Personality(u64);

impl Personality {
    /// `PER_LINUX`: as Linux is.
    pub const LINUX: Self = Personality(0);

    /// `PER_LINUX32`: uname(2) tells of a 32-bit machine, as of `i686`.
    pub const LINUX32: Self = Personality(0x8);

    /// Without address space layout randomization, as `setarch -R`.
    #[doc(alias = "ADDR_NO_RANDOMIZE")]
    #[must_use]
    pub const fn no_randomize(self) -> Self {
        Personality(self.0 | 0x004_0000)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

impl Command {
    /// The execution domain it starts in, by personality(2), instead of the caller's.
    pub fn personality(mut self, personality: Personality) -> Self {
        self.attributes.personality = Some(personality);
        self
    }
}
