//! The second stage: a static ELF of a few hundred bytes that runs a [`Program`](crate::Program) in its own memory.

#[cfg(test)]
mod interpreter;
mod sys;

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::applied::StubFile;
use crate::error::{Error, Result};

/// What it is called in `/proc/<pid>/exe`, while it runs.
const NAME: &str = "cofferdam-stub";

/// Where the stub has its program.
pub(crate) const IMAGE_BASE: u64 = 0x60_0000;
/// How large a program can be.
const IMAGE_MAX: usize = 8 << 20;

const CODE_BASE: u64 = 0x40_0000;
const EHDR: u16 = 64;
const PHDR: u16 = 56;
const SEGMENTS: u16 = 3;
/// The largest page of the architectures there is a stub for.
const PAGE: u64 = if cfg!(target_arch = "aarch64") {
    64 << 10
} else {
    4 << 10
};

/// A file of the stub with an encoded program, for execveat(2): a sealed memfd, or what takes its place where that cannot
/// be had or executed.
///
/// Nobody can write it. While it runs nobody in the container can read it either, as it is not dumpable; and it holds nothing
/// but what is the container's own.
pub(crate) fn file(program: &[u8], memfd: bool) -> Result<(OwnedFd, StubFile)> {
    if program.len() > IMAGE_MAX {
        let reason = "arguments, environment and files are more than 8 MiB together";
        return Err(Error::invalid("command", program.len(), reason));
    }
    let code = sys::code()
        .ok_or_else(|| Error::unsupported("the two-stage start", "it needs x86_64 or aarch64"))?;
    let elf = elf(code, program);
    let refused = match if memfd {
        self::memfd(&elf)
    } else {
        Err(Errno::ACCESS)
    } {
        Ok(file) => return Ok((file, StubFile::Memfd)),
        Err(errno) => errno,
    };
    if !matches!(refused, Errno::ACCESS | Errno::PERM | Errno::NOSYS) {
        return Err(Error::sys("memfd_create")(refused));
    }
    match tmpfs(&elf) {
        Ok(file) => return Ok((file, StubFile::Tmpfs)),
        Err(Errno::PERM | Errno::NOSYS | Errno::NODEV) => {}
        Err(errno) => return Err(Error::sys("write the stub to a tmpfs")(errno)),
    }
    let file = unnamed(&elf).map_err(Error::sys("write the stub to /tmp or /var/tmp"))?;
    Ok((file, StubFile::Unnamed))
}

fn memfd(elf: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC came with 6.3 and is EINVAL before, where every memfd can be executed.
    let memfd = match rustix::fs::memfd_create(NAME, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(NAME, flags),
        other => other,
    }?;
    write(&memfd, elf)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memfd, seals)?;
    Ok(memfd)
}

/// In a tmpfs that is mounted nowhere, and read-only once the file is written.
fn tmpfs(elf: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(context.as_fd(), flags, attributes)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&mount, NAME, flags, Mode::from_raw_mode(0o500))?;
    write(&file, elf)?;
    drop(file);
    openat(
        &mount,
        NAME,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Without a name, readable and executable by its owner alone; closed for writing, as the kernel executes nothing that is not.
fn unnamed(elf: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let open = |directory| openat(CWD, directory, flags, Mode::from_raw_mode(0o500));
    let file = open("/tmp").or_else(|_| open("/var/tmp"))?;
    write(&file, elf)?;
    crate::sys::reopen_to_read(file.as_fd())
}

fn write(file: &OwnedFd, mut bytes: &[u8]) -> std::result::Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::write(file, bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// An ELF64 executable of `code`, `program` at [`IMAGE_BASE`], and a stack that is not executable.
fn elf(code: &[u8], program: &[u8]) -> Vec<u8> {
    const READ_EXEC: u32 = 5;
    const READ_WRITE: u32 = 6;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    let headers = u64::from(EHDR + PHDR * SEGMENTS);
    let text = headers + code.len() as u64;
    let data = text.next_multiple_of(PAGE);
    let mut file = Vec::with_capacity(data as usize + program.len());
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, machine()] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    for address in [CODE_BASE + headers, u64::from(EHDR), 0] {
        file.extend_from_slice(&address.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [EHDR, PHDR, SEGMENTS, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&segment(1, READ_EXEC, 0, CODE_BASE, text));
    file.extend_from_slice(&segment(
        1,
        READ_WRITE,
        data,
        IMAGE_BASE,
        program.len() as u64,
    ));
    file.extend_from_slice(&segment(PT_GNU_STACK, READ_WRITE, 0, 0, 0));
    file.extend_from_slice(code);
    file.resize(data as usize, 0);
    file.extend_from_slice(program);
    file
}

const fn machine() -> u16 {
    if cfg!(target_arch = "aarch64") {
        183
    } else {
        62
    }
}

fn segment(kind: u32, flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(PHDR.into());
    header.extend_from_slice(&kind.to_le_bytes());
    header.extend_from_slice(&flags.to_le_bytes());
    for field in [offset, address, address, size, size, PAGE] {
        header.extend_from_slice(&field.to_le_bytes());
    }
    header
}

pub(crate) use sys::{CloneArgs, clone};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_are_as_long_as_they_say() {
        let file = elf(b"\xcc", b"program");
        let headers = usize::from(EHDR + PHDR * SEGMENTS);
        assert_eq!(&file[..4], b"\x7fELF");
        assert_eq!(&file[headers..headers + 2], b"\xcc\0");
        assert_eq!(&file[PAGE as usize..], b"program");
    }

    #[test]
    fn segments_are_where_pages_of_any_size_can_be() {
        let file = elf(b"code", b"program");
        let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let segments = [0, 1].map(|index| usize::from(EHDR + PHDR * index));
        for at in segments {
            let (offset, address, alignment) = (word(at + 8), word(at + 16), word(at + 48));
            assert_eq!(offset % alignment, address % alignment);
        }
        let [code, image] = segments.map(|at| (word(at + 16), word(at + 40)));
        assert!(code.0 + code.1 <= image.0 / (64 << 10) * (64 << 10));
    }

    #[test]
    fn the_stub_is_a_few_hundred_bytes() {
        let code = sys::code().expect("this architecture has a stub");
        assert!((100..600).contains(&code.len()), "{} bytes", code.len());
    }

    #[test]
    fn nobody_can_write_the_memfd() {
        let stub = memfd(b"program").expect("memfd");
        let refused = rustix::io::write(&stub, b"x").expect_err("sealed");
        assert_eq!(refused, Errno::PERM);
        let (stub, _) = file(b"program", false).expect("another file");
        let refused = rustix::io::write(&stub, b"x").expect_err("open to be read");
        assert_eq!(refused, Errno::BADF);
    }
}
