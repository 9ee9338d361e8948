//! How much a layer may be.

/// What a layer may cost, beyond which it is refused with [`LimitExceeded`](crate::ErrorKind::LimitExceeded). By default
/// more than any layer in use has, and never without a bound.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Limits {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) ratio: u64,
    pub(crate) header_bytes: u64,
    pub(crate) path_bytes: usize,
    pub(crate) depth: usize,
    pub(crate) metadata_bytes: u64,
}

/// Below it any ratio is taken: a small layer of zeros harms nobody.
pub(crate) const RATIO_FROM: u64 = 64 << 20;

impl Limits {
    /// Entries, with the directories they imply. By default 2 million.
    pub fn entries(mut self, limit: u64) -> Self {
        self.entries = limit;
        self
    }

    /// Bytes of the tar stream, uncompressed. By default 64 GiB.
    pub fn bytes(mut self, limit: u64) -> Self {
        self.bytes = limit;
        self
    }

    /// Bytes of one file, its holes included. By default 32 GiB.
    pub fn file_bytes(mut self, limit: u64) -> Self {
        self.file_bytes = limit;
        self
    }

    /// Bytes of the tar stream for a byte of the compressed one, once they are more than 64 MiB. By default 200.
    pub fn ratio(mut self, limit: u64) -> Self {
        self.ratio = limit;
        self
    }

    /// Bytes of the extended headers (PAX, GNU long names, sparse maps) of one entry. By default 1 MiB.
    pub fn header_bytes(mut self, limit: u64) -> Self {
        self.header_bytes = limit;
        self
    }

    /// Bytes of a path. By default 4096, and no more helps: the kernel takes none longer in one call.
    pub fn path_bytes(mut self, limit: usize) -> Self {
        self.path_bytes = limit;
        self
    }

    /// Directories inside each other. By default 256.
    pub fn depth(mut self, limit: usize) -> Self {
        self.depth = limit;
        self
    }

    /// Bytes of memory for what is set at the end: metadata of directories, whiteouts. By default 256 MiB, which is
    /// about a million directories.
    pub fn metadata_bytes(mut self, limit: u64) -> Self {
        self.metadata_bytes = limit;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            entries: 2_000_000,
            bytes: 64 << 30,
            file_bytes: 32 << 30,
            ratio: 200,
            header_bytes: 1 << 20,
            path_bytes: 4096,
            depth: 256,
            metadata_bytes: 256 << 20,
        }
    }
}
