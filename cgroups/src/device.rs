//! Block devices, by number.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A block device, by the number that the kernel's io files name it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    major: u32,
    minor: u32,
}

impl Device {
    /// The device `major:minor`. The kernel takes whole disks only: a partition's number is `ENODEV` when it is
    /// written.
    #[must_use]
    pub fn number(major: u32, minor: u32) -> Self {
        Device { major, minor }
    }

    /// The block device that `path` is the node of; for any other file the one its filesystem is on.
    ///
    /// A partition is resolved to its whole disk, by `/sys/dev/block`, since the kernel limits those. A device mapper
    /// volume (LVM, LUKS) stays itself.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `InvalidInput` if its filesystem is on no one block device, as tmpfs,
    /// overlay, btrfs and those of the network.
    pub fn of_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let stat = rustix::fs::stat(path).map_err(|errno| Error::sys("stat", path, errno))?;
        let number = match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => stat.st_rdev,
            FileType::CharacterDevice => {
                return Err(Error::device(path, "is a character device".to_owned()));
            }
            _ => stat.st_dev,
        };
        let device = Device {
            major: rustix::fs::major(number),
            minor: rustix::fs::minor(number),
        };
        if device.major == 0 {
            return Err(Error::device(path, no_device(path)));
        }
        device.whole(Path::new("/sys/dev/block"))
    }

    /// Its major number.
    #[must_use]
    pub fn major(self) -> u32 {
        self.major
    }

    /// Its minor number.
    #[must_use]
    pub fn minor(self) -> u32 {
        self.minor
    }

    /// The disk of a partition; another device is itself.
    fn whole(self, devices: &Path) -> Result<Self> {
        let sys = devices.join(self.to_string());
        if !sys.join("partition").exists() {
            return Ok(self);
        }
        // The kernel follows the symlink before the `..`.
        let file = sys.join("../dev");
        let text = fs::read_to_string(&file).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Error::sys("read", &file, errno)
        })?;
        parse(&text).ok_or_else(|| Error::parse(&file, text.as_bytes()))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for Device {
    type Err = Error;

    /// Parses `major:minor`.
    ///
    /// # Errors
    /// `InvalidInput` for anything else.
    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| Error::device(Path::new(text), "is not major:minor".to_owned()))
    }
}

fn parse(text: &str) -> Option<Device> {
    let (major, minor) = text.trim_end().split_once(':')?;
    Some(Device {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// Why there is none.
fn no_device(path: &Path) -> String {
    let magic = rustix::fs::statfs(path).map_or(0, |found| found.f_type as u64);
    let name = match magic {
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlay",
        0x9123_683e => "btrfs, which spreads over several devices",
        0x6969 => "nfs",
        0x9fa0 => "proc",
        0x6265_6572 => "sysfs",
        magic => return format!("its filesystem ({magic:#x}) has no block device of its own"),
    };
    format!("is on {name}: no one block device is behind it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn numbers_are_taken_as_they_are() {
        assert_eq!(Device::number(8, 16).to_string(), "8:16");
        assert_eq!(parse("254:0\n"), Some(Device::number(254, 0)));
        for bad in ["", "8", "8:", "a:b", "8:0:1"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn a_partition_is_its_disk_and_a_disk_itself() {
        let name = format!("cofferdam-device-{}", std::process::id());
        let top = std::env::temp_dir().join(name);
        let (links, disk) = (top.join("dev"), top.join("devices/sda"));
        fs::create_dir_all(disk.join("sda1")).unwrap();
        fs::create_dir_all(&links).unwrap();
        fs::write(disk.join("dev"), "8:0\n").unwrap();
        fs::write(disk.join("sda1/partition"), "1\n").unwrap();
        std::os::unix::fs::symlink("../devices/sda", links.join("8:0")).unwrap();
        std::os::unix::fs::symlink("../devices/sda/sda1", links.join("8:1")).unwrap();
        let whole = |minor| Device::number(8, minor).whole(&links).unwrap();
        let found = [whole(0), whole(1), whole(9)];
        fs::remove_dir_all(&top).unwrap();
        let disk = Device::number(8, 0);
        assert_eq!(found, [disk, disk, Device::number(8, 9)]);
    }

    #[test]
    fn a_file_without_a_block_device_says_what_it_is_on() {
        let error = Device::of_path("/proc/self/stat").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = error.to_string();
        assert!(
            text.starts_with("device /proc/self/stat: is on proc"),
            "{text}"
        );
        let error = Device::of_path("/dev/null").unwrap_err();
        assert!(error.to_string().contains("character device"), "{error}");
        let error = Device::of_path("/nowhere/at/all").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
