//! The archive an initramfs is made of, in the `newc` format (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Everything in it belongs to root. Paths are taken from the root, with or without a leading slash.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds the directory and those above it, once each.
    pub(crate) fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return;
        }
        self.parent(path);
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.parent(path);
        self.entry(path, FILE | permissions, (0, 0), content);
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.parent(path);
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    pub(crate) fn character_device(&mut self, path: &str, (major, minor): (u32, u32)) {
        self.parent(path);
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// The bytes of the finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.trim_matches('/').rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        let name = path.trim_start_matches('/');
        self.inodes += 1;
        let size = u32::try_from(content.len()).expect("a file of less than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a name of less than 4 GiB");
        let links = 1;
        let fields = [
            self.inodes,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            major,
            minor,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mode, name and content of each entry.
    fn read(mut bytes: &[u8]) -> Vec<(u32, String, Vec<u8>)> {
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            let (header, rest) = bytes.split_at(110);
            assert_eq!(&header[..6], b"070701");
            let field = |index: usize| {
                let digits = std::str::from_utf8(&header[6 + 8 * index..][..8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap() as usize
            };
            // Both parts end on a multiple of four counted from the archive's start; the header is 110 bytes.
            let name_end = (110 + field(11)).next_multiple_of(4) - 110;
            let name = String::from_utf8(rest[..field(11) - 1].to_vec()).unwrap();
            let content = rest[name_end..][..field(6)].to_vec();
            entries.push((field(1) as u32, name, content));
            bytes = &rest[name_end + field(6).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn entries_come_after_their_directories() {
        let mut archive = Archive::default();
        archive.file("/lib/modules/a.ko", 0o644, b"12345");
        archive.symlink("lib/b", "modules/a.ko");
        archive.directory("/lib/modules");
        archive.character_device("console", (5, 1));
        let entries = read(&archive.finish());
        let expected: [(u32, &str, &[u8]); 6] = [
            (0o040_755, "lib", b""),
            (0o040_755, "lib/modules", b""),
            (0o100_644, "lib/modules/a.ko", b"12345"),
            (0o120_777, "lib/b", b"modules/a.ko"),
            (0o020_600, "console", b""),
            (0, "TRAILER!!!", b""),
        ];
        let expected =
            expected.map(|(mode, name, content)| (mode, name.to_owned(), content.to_vec()));
        assert_eq!(entries, expected);
    }
}
