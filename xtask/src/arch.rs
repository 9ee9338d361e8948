//! The processors the VM can have.

use std::env::consts;

use crate::Result;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    pub(crate) fn parse(name: &str) -> Result<Self> {
        [Arch::X86_64, Arch::Aarch64]
            .into_iter()
            .find(|arch| arch.name() == name)
            .ok_or_else(|| format!("vm: --arch {name}: neither x86_64 nor aarch64").into())
    }

    /// This machine's.
    pub(crate) fn host() -> Self {
        Arch::parse(consts::ARCH).unwrap_or(Arch::X86_64)
    }

    pub(crate) fn is_foreign(self) -> bool {
        self.name() != consts::ARCH
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }

    /// Debian's name of it.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
        }
    }

    /// Rust's name of what static binaries are built for.
    pub(crate) fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.name())
    }

    pub(crate) fn qemu(self) -> String {
        format!("qemu-system-{}", self.name())
    }

    /// The package of [`qemu`](Arch::qemu).
    pub(crate) fn qemu_package(self) -> &'static str {
        match self {
            Arch::X86_64 => "qemu-system-x86",
            Arch::Aarch64 => "qemu-system-arm",
        }
    }

    /// QEMU's arguments for a machine with two serial ports, but for what is behind them.
    pub(crate) fn machine(self) -> &'static [&'static str] {
        match self {
            Arch::X86_64 => &["-M", "pc,graphics=off", "-cpu", "max"],
            // Pointer authentication as of the architecture takes most of an emulated processor's time.
            Arch::Aarch64 => &["-M", "virt", "-cpu", "max,pauth-impdef=on"],
        }
    }

    /// QEMU's arguments for the second port, of the character device named `output`.
    pub(crate) fn second_port(self) -> &'static [&'static str] {
        match self {
            Arch::X86_64 => &["-serial", "chardev:output"],
            Arch::Aarch64 => &["-device", "pci-serial,chardev=output"],
        }
    }

    /// Where the kernel has its console, and where the second port is.
    pub(crate) fn ports(self) -> (&'static str, &'static str) {
        match self {
            Arch::X86_64 => ("ttyS0", "ttyS1"),
            Arch::Aarch64 => ("ttyAMA0", "ttyS0"),
        }
    }
}
