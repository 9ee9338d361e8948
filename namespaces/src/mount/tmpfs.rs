//! Filesystems and files in memory.

use std::fmt;

/// A tmpfs.
#[derive(Clone, Debug)]
pub(crate) struct Tmpfs {
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) inodes: Option<u64>,
    pub(crate) owner: Option<(u32, u32)>,
}

impl Tmpfs {
    /// Its options, as mount(2) takes them.
    pub(crate) fn options(&self) -> String {
        let mut text = format!("size={},mode={:o}", self.size, self.mode);
        if let Some(inodes) = self.inodes {
            text += &format!(",nr_inodes={inodes}");
        }
        if let Some((uid, gid)) = self.owner {
            text += &format!(",uid={uid},gid={gid}");
        }
        text
    }
}

/// A file with its content, which may be a secret: it is not shown.
#[derive(Clone)]
pub(crate) struct InMemory {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: Option<(u32, u32)>,
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemory")
            .field("bytes", &self.content.len())
            .field("mode", &self.mode)
            .field("owner", &self.owner)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_file_is_not_shown() {
        let file = InMemory {
            content: b"hidden".to_vec(),
            mode: 0o400,
            owner: None,
        };
        let shown = format!("{file:?}");
        assert_eq!(shown, "InMemory { bytes: 6, mode: 256, owner: None }");
    }

    #[test]
    fn options_are_what_was_set() {
        let mut tmpfs = Tmpfs {
            size: 4096,
            mode: 0o1777,
            inodes: None,
            owner: None,
        };
        assert_eq!(tmpfs.options(), "size=4096,mode=1777");
        tmpfs.inodes = Some(10);
        tmpfs.owner = Some((1000, 5));
        assert_eq!(
            tmpfs.options(),
            "size=4096,mode=1777,nr_inodes=10,uid=1000,gid=5"
        );
    }
}
