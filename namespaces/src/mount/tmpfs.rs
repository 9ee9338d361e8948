//! Filesystems and files in memory.

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

/// A file with its content.
#[derive(Clone, Debug)]
pub(crate) struct InMemory {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: Option<(u32, u32)>,
}

#[cfg(test)]
mod tests {
    use super::*;

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
