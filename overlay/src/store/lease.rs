//! What is in use: files whose lock a living process holds, or that were kept by a name.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::Fault;
use super::area::{Area, unique};
use super::layout::Layout;
use super::record::malformed;
use crate::digest::Digest;
use crate::error::Result;

const LIMIT: u64 = 4096;

/// What is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) layer: Option<Digest>,
    pub(crate) image: Option<Digest>,
}

/// A file of `leases`. Dropping it removes the file; a killed process leaves it with a free lock.
#[derive(Debug)]
pub(crate) struct Lease {
    layout: Arc<Layout>,
    name: String,
    #[expect(dead_code, reason = "held for its lock")]
    file: OwnedFd,
}

impl Lease {
    /// To be called with the store's lock held.
    pub(crate) fn take(layout: &Arc<Layout>, held: Held) -> Result<Self> {
        let name = unique();
        // Not synced: after a crash of the machine nobody holds its lock, and it is removed unread.
        let file = layout.leases.create(&name, held.render().as_bytes())?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(layout.leases.failed("lock", &name))?;
        Ok(Lease {
            layout: Arc::clone(layout),
            name,
            file,
        })
    }

    pub(crate) fn release(self) -> Result<()> {
        self.layout.leases.unlink(&self.name)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _unused = self.layout.leases.unlink(&self.name).is_ok();
    }
}

impl Held {
    fn render(self) -> String {
        let line = |what, digest: Option<Digest>| {
            digest
                .map(|digest| format!("{what} {digest}\n"))
                .unwrap_or_default()
        };
        line("layer", self.layer) + &line("image", self.image)
    }

    pub(crate) fn read(area: &Area, name: &str) -> Result<Option<Held>> {
        let Some(bytes) = area.read(name, LIMIT)? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut held = Held::default();
        for line in text.lines() {
            let bad = || malformed(&area.path().join(name), format!("unexpected line {line:?}"));
            let (what, digest) = line.split_once(' ').ok_or_else(bad)?;
            let digest = digest.parse().ok().ok_or_else(bad)?;
            match what {
                "layer" => held.layer = Some(digest),
                "image" => held.image = Some(digest),
                _ => return Err(bad()),
            }
        }
        Ok(Some(held))
    }

    /// Keeps it by a name, on disk when the call returns.
    pub(crate) fn pin(self, layout: &Layout, name: &str) -> Result<()> {
        let file = pin_name(name)?;
        let _shared = layout.shared()?;
        // Whoever made what is to be kept may not have come to that yet.
        layout.layers.sync()?;
        layout.images.sync()?;
        // From staging, so that no half of it is ever there; by link, which replaces none.
        let staged = unique();
        layout.staging.write(&staged, self.render().as_bytes())?;
        let linked = rustix::fs::linkat(
            &layout.staging,
            staged.as_str(),
            &layout.pins,
            file.as_str(),
            rustix::fs::AtFlags::empty(),
        );
        layout.staging.unlink(&staged)?;
        match linked {
            Ok(()) => layout.pins.sync(),
            Err(rustix::io::Errno::EXIST) => {
                let (path, name) = (layout.root.path().to_owned(), name.to_owned());
                Err(Fault::PinExists { path, name }.into())
            }
            Err(errno) => Err(layout.pins.failed("link", &file)(errno)),
        }
    }
}

/// The file of a name: its slashes are pluses, which no name has.
pub(crate) fn pin_name(name: &str) -> Result<String> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._-:@/".contains(letter);
    let good = (1..=200).contains(&name.len()) && name.chars().all(allowed);
    if !good || name.starts_with('.') {
        let name = name.chars().take(250).collect();
        return Err(Fault::BadName { name }.into());
    }
    Ok(name.replace('/', "+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_files_and_nothing_else() {
        assert_eq!(
            pin_name("docker.io/library/a:1").unwrap(),
            "docker.io+library+a:1"
        );
        for bad in ["", ".", "../x", "a+b", "a b", "\u{e9}", &"x".repeat(201)] {
            pin_name(bad).unwrap_err();
        }
    }
}
