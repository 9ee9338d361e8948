//! Files that are nowhere but in memory.

use std::fmt;

use cofferdam_namespaces::Mount;

use crate::builder::ContainerBuilder;

/// Where secrets are inside.
const DIRECTORY: &str = "/run/secrets";

/// Something a program is to know and nobody else: a file in memory, mode 0400, that ends with the container. It is not in the
/// environment, in no file of the host and in no layer; the kernel may swap it out. What it holds is not shown by `Debug`.
///
/// ```no_run
/// use cofferdam::{Container, Rootfs, Secret};
///
/// let password = Secret::new("password", "hunter2").owner(999, 999); // /run/secrets/password, for the user 999
/// let db = Container::builder().rootfs(Rootfs::layers(["/srv/debian"])).secret(password);
/// ```
#[derive(Clone)]
#[must_use = "a Secret does nothing until a container starts with it"]
pub struct Secret {
    name: String,
    content: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
}

impl Secret {
    /// The file `/run/secrets/NAME`, for root of the container alone.
    pub fn new(name: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Secret {
            name: name.into(),
            content: content.into(),
            mode: 0o400,
            owner: (0, 0),
        }
    }

    /// Whose file it is, as the container counts: for programs that do not run as root.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// Its permission bits, instead of 0400.
    pub fn mode(mut self, bits: u32) -> Self {
        self.mode = bits;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is the name of a file.
    pub(crate) fn is_named(&self) -> bool {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=128).contains(&self.name.len())
            && self.name.bytes().all(valid)
            && !self.name.starts_with('.')
    }

    pub(crate) fn mount(self) -> Mount {
        let (uid, gid) = self.owner;
        Mount::file(format!("{DIRECTORY}/{}", self.name), self.content)
            .mode(self.mode)
            .owner(uid, gid)
            .read_only()
            .nosuid()
            .nodev()
            .noexec()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("bytes", &self.content.len())
            .finish()
    }
}

/// # Secrets
impl ContainerBuilder {
    /// A [`Secret`]. `/run/secrets` itself is a small filesystem in memory, so that no trace of it is in the root. Needs a root.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secrets.push(secret);
        self
    }
}

/// What makes them files inside: a place for them, and each.
pub(crate) fn mounts(secrets: Vec<Secret>) -> Vec<Mount> {
    if secrets.is_empty() {
        return Vec::new();
    }
    let place = Mount::tmpfs(DIRECTORY, 1 << 20).mode(0o755).noexec();
    let files = secrets.into_iter().map(Secret::mount);
    std::iter::once(place).chain(files).collect()
}
