//! Device nodes.

use rustix::fs::{FileType, Statx};

/// A device by type and number, as in mknod(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    kind: Kind,
    major: u32,
    minor: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Character,
    Block,
}

impl Device {
    /// A character device: `/dev/fuse` is 10, 229.
    #[must_use]
    pub const fn character(major: u32, minor: u32) -> Self {
        Device {
            kind: Kind::Character,
            major,
            minor,
        }
    }

    /// A block device: `/dev/loop0` is 7, 0.
    #[must_use]
    pub const fn block(major: u32, minor: u32) -> Self {
        Device {
            kind: Kind::Block,
            major,
            minor,
        }
    }

    /// What the kernel says a file is, if it is a device.
    pub(crate) fn of(stat: &Statx) -> Option<Self> {
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            _ => return None,
        };
        Some(Device {
            kind,
            major: stat.stx_rdev_major,
            minor: stat.stx_rdev_minor,
        })
    }

    /// The type bits of a mode.
    pub(crate) fn type_bits(self) -> u32 {
        match self.kind {
            Kind::Character => libc::S_IFCHR,
            Kind::Block => libc::S_IFBLK,
        }
    }

    /// As mknod(2) takes it.
    pub(crate) fn number(self) -> u64 {
        libc::makedev(self.major, self.minor)
    }
}

/// The devices of every container, by their names in `/dev`.
pub(crate) const STANDARD: [(&str, Device); 6] = [
    ("null", Device::character(1, 3)),
    ("zero", Device::character(1, 5)),
    ("full", Device::character(1, 7)),
    ("random", Device::character(1, 8)),
    ("urandom", Device::character(1, 9)),
    ("tty", Device::character(5, 0)),
];

/// A device that was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceMount {
    /// Which it has to be; else what the host's is.
    pub(crate) device: Option<Device>,
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<(u32, u32)>,
}
