//! What being root means: the securebits of capabilities(7).

use std::ops::BitOr;

use crate::command::Command;

/// Flags that take from root what makes it special. Each is set together with its lock, so nobody takes it off again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecureBits(u8);

impl SecureBits {
    /// None of them.
    pub const NONE: Self = SecureBits(0);

    /// `SECBIT_NOROOT`: execve(2) gives user 0 and set-user-ID-root programs no capabilities but ambient ones.
    #[doc(alias = "SECBIT_NOROOT")]
    pub const NOROOT: Self = SecureBits(0x03);

    /// `SECBIT_NO_SETUID_FIXUP`: changes of user ids leave the capabilities as they are.
    #[doc(alias = "SECBIT_NO_SETUID_FIXUP")]
    pub const NO_SETUID_FIXUP: Self = SecureBits(0x0c);

    /// `SECBIT_NO_CAP_AMBIENT_RAISE`: no more capabilities become ambient than the program starts with.
    #[doc(alias = "SECBIT_NO_CAP_AMBIENT_RAISE")]
    pub const NO_CAP_AMBIENT_RAISE: Self = SecureBits(0xc0);

    pub(crate) fn bits(self) -> u64 {
        self.0.into()
    }
}

impl BitOr for SecureBits {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        SecureBits(self.0 | other.0)
    }
}

impl Command {
    /// The securebits it has, for ever, by prctl(2) `PR_SET_SECUREBITS`. Needs `CAP_SETPCAP` in the program's user namespace.
    #[doc(alias = "PR_SET_SECUREBITS")]
    pub fn securebits(mut self, bits: SecureBits) -> Self {
        self.attributes.securebits = bits;
        self
    }
}
