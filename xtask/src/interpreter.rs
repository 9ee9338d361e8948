//! What a dynamically linked binary needs beside itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::command::output;

const PT_INTERP: u64 = 3;

/// The loader of a binary and the libraries it finds on this machine; nothing for a static one.
pub(crate) fn libraries(executable: &Path, elf: &[u8]) -> Result<Vec<PathBuf>> {
    let Some(loader) = interpreter(elf) else {
        return Ok(vec![]);
    };
    let name = executable.display();
    if !loader.is_file() {
        return Err(format!(
            "vm: {name} is dynamically linked, to {} of another machine; build it static: \
            RUSTFLAGS='-C target-feature=+crt-static' and --target",
            loader.display()
        )
        .into());
    }
    let list = output(Command::new(&loader).arg("--list").arg(executable))?;
    let mut found = vec![loader];
    for line in list.lines() {
        if line.contains("not found") {
            return Err(format!("vm: {name}: {}", line.trim()).into());
        }
        found.extend(library(line));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The file of a line like `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0000000000)`.
fn library(line: &str) -> Option<PathBuf> {
    let (_, path) = line.split_once(" => ")?;
    let (path, _) = path.rsplit_once(" (")?;
    Some(path.into())
}

/// The program that the kernel starts in place of this one.
fn interpreter(elf: &[u8]) -> Option<PathBuf> {
    // 64 bits, little-endian: what both architectures are.
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let headers = number(elf, 32, 8)?;
    let (size, count) = (number(elf, 54, 2)?, number(elf, 56, 2)?);
    for index in 0..count {
        let at = headers.checked_add(index * size)?;
        if number(elf, at, 4)? == PT_INTERP {
            let start = usize::try_from(number(elf, at + 8, 8)?).ok()?;
            let length = usize::try_from(number(elf, at + 32, 8)?).ok()?;
            let path = elf.get(start..start.checked_add(length)?)?;
            let path = path.strip_suffix(b"\0").unwrap_or(path);
            return Some(OsStr::from_bytes(path).into());
        }
    }
    None
}

fn number(elf: &[u8], at: u64, bytes: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let field = elf.get(at..at.checked_add(bytes)?)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With one program header of this type.
    fn elf(kind: u8) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[32], elf[54], elf[56]) = (64, 56, 1);
        (elf[64], elf[64 + 8], elf[64 + 32]) = (kind, 120, 7);
        elf.extend_from_slice(b"/ld.so\0rest");
        elf
    }

    #[test]
    fn a_dynamic_binary_names_its_loader() {
        assert_eq!(interpreter(&elf(3)), Some("/ld.so".into()));
    }

    #[test]
    fn a_static_one_and_what_is_none_name_nothing() {
        assert_eq!(interpreter(&elf(1)), None);
        assert_eq!(interpreter(b"#!/bin/sh\n"), None);
        for end in 0..elf(3).len() - 5 {
            assert_eq!(interpreter(&elf(3)[..end]), None, "{end}");
        }
    }

    #[test]
    fn libraries_are_those_with_a_file() {
        let line = "\tlibc.so.6 => /lib/libc.so.6 (0x00007f4c1e600000)";
        assert_eq!(library(line), Some("/lib/libc.so.6".into()));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007ffd2f5f2000)"), None);
    }

    #[test]
    fn of_another_machine_is_refused_with_the_remedy() {
        let error = libraries(Path::new("/x"), &elf(3)).unwrap_err().to_string();
        assert!(error.contains("/x is dynamically linked") && error.contains("+crt-static"));
    }
}
