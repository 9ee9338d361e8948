//! The second stage: a static ELF of a few hundred bytes that runs a [`Program`](crate::Program) in its own memory.

mod sys;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

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

/// A sealed memfd of the stub with an encoded program, for execveat(2).
///
/// Nobody can write it. While it runs nobody in the container can read it either, as it is not dumpable; and it holds nothing
/// but what is the container's own.
pub(crate) fn memfd(program: &[u8]) -> Result<OwnedFd> {
    if program.len() > IMAGE_MAX {
        let reason = "arguments, environment and files are more than 8 MiB together";
        return Err(Error::invalid("command", program.len(), reason));
    }
    let code = sys::code()
        .ok_or_else(|| Error::unsupported("the two-stage start", "it needs x86_64, for now"))?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let name = "cofferdam-stub";
    // MFD_EXEC came with 6.3 and is EINVAL before, where every memfd can be executed.
    let memfd = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }
    .map_err(Error::sys("memfd_create"))?;
    let mut file = File::from(memfd);
    file.write_all(&elf(code, program))
        .map_err(Error::sys("write the stub"))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(Error::sys("seal the stub"))?;
    Ok(file.into())
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

pub(crate) use sys::{CloneArgs, clone3};

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
    fn the_stub_is_a_few_hundred_bytes() {
        let code = sys::code().expect("this architecture has a stub");
        assert!((100..400).contains(&code.len()), "{} bytes", code.len());
    }

    #[test]
    fn nobody_can_write_the_memfd() {
        let stub = memfd(b"program").expect("memfd");
        let refused = rustix::io::write(&stub, b"x").expect_err("sealed");
        assert_eq!(refused, Errno::PERM);
    }
}
