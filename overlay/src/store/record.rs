//! What is known of a layer: lines of text.

use std::fmt::Write;
use std::path::Path;

use super::Fault;
use super::area::Area;
use super::chain::chain_id;
use super::layout::RECORD;
use crate::diff::Usage;
use crate::digest::Digest;
use crate::error::Result;

const LIMIT: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) diff_id: Digest,
    /// The chain id of the layer below.
    pub(crate) parent: Option<Digest>,
    pub(crate) usage: Usage,
    /// It hides all below it.
    pub(crate) opaque_root: bool,
    /// Its tar, written again, has its diff id.
    pub(crate) rewritable: bool,
}

impl Record {
    pub(crate) fn chain(&self) -> Digest {
        chain_id(self.parent, self.diff_id)
    }

    pub(crate) fn render(&self) -> String {
        let mut text = format!("diff {}\n", self.diff_id);
        if let Some(parent) = self.parent {
            let _written = writeln!(text, "parent {parent}").is_ok();
        }
        let Usage { bytes, inodes } = self.usage;
        let _written = writeln!(text, "bytes {bytes}\ninodes {inodes}").is_ok();
        for (is, word) in [
            (self.opaque_root, "opaque-root"),
            (self.rewritable, "rewritable"),
        ] {
            if is {
                text.push_str(word);
                text.push('\n');
            }
        }
        text
    }

    /// That of the layer in the directory `area`.
    pub(crate) fn read(area: &Area) -> Result<Record> {
        let path = area.path().join(RECORD);
        let bytes = area.read(RECORD, LIMIT)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        Record::parse(&text).map_err(|why| malformed(&path, why))
    }

    fn parse(text: &str) -> std::result::Result<Record, String> {
        let (mut diff_id, mut parent, mut bytes, mut inodes) = (None, None, None, None);
        let (mut opaque_root, mut rewritable) = (false, false);
        for line in text.lines() {
            let bad = || format!("unexpected line {line:?}");
            let digest = |text: &str| text.parse::<Digest>().ok().ok_or_else(bad);
            let number = |text: &str| text.parse::<u64>().ok().ok_or_else(bad);
            match line.split_once(' ') {
                Some(("diff", value)) => diff_id = Some(digest(value)?),
                Some(("parent", value)) => parent = Some(digest(value)?),
                Some(("bytes", value)) => bytes = Some(number(value)?),
                Some(("inodes", value)) => inodes = Some(number(value)?),
                None if line == "opaque-root" => opaque_root = true,
                None if line == "rewritable" => rewritable = true,
                _ => return Err(bad()),
            }
        }
        let (Some(diff_id), Some(bytes), Some(inodes)) = (diff_id, bytes, inodes) else {
            return Err("a line is missing".to_owned());
        };
        Ok(Record {
            diff_id,
            parent,
            usage: Usage { bytes, inodes },
            opaque_root,
            rewritable,
        })
    }
}

pub(crate) fn malformed(path: &Path, why: impl Into<String>) -> crate::Error {
    let (path, why) = (path.to_owned(), why.into());
    Fault::Malformed { path, why }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_is_parsed() {
        for (parent, opaque_root) in [(None, true), (Some(Digest::of("b")), false)] {
            let record = Record {
                diff_id: Digest::of("a"),
                parent,
                usage: Usage {
                    bytes: 7,
                    inodes: 8,
                },
                opaque_root,
                rewritable: !opaque_root,
            };
            assert_eq!(Record::parse(&record.render()), Ok(record));
        }
        assert!(Record::parse("").is_err());
        assert!(Record::parse("diff sha256:../x\nbytes 1\ninodes 1").is_err());
        assert_eq!(
            Record::parse("layer x").unwrap_err(),
            "unexpected line \"layer x\""
        );
    }
}
