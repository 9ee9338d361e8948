//! JSON that somebody else wrote, within bounds.

use std::path::Path;

use serde_json::Value;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::store::Fault;
use crate::store::record::malformed;

/// The most of one document.
pub(crate) const LIMIT: u64 = 4 << 20;

/// Reads a document; serde_json bounds how deep it is.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| malformed(path, error.to_string()))
}

pub(crate) fn check_digest(path: &Path, bytes: &[u8], expected: Digest) -> Result<()> {
    let found = Digest::of(bytes);
    if found == expected {
        return Ok(());
    }
    let path = path.to_owned();
    Err(Fault::Digest {
        path,
        found,
        expected,
    }
    .into())
}

/// A document, or part of one, with its name for errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Json<'a> {
    pub(crate) path: &'a Path,
    pub(crate) value: &'a Value,
}

impl<'a> Json<'a> {
    /// A member that may be missing; null is missing too, as Go writes it.
    pub(crate) fn member(self, name: &str) -> Option<Json<'a>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Json { value, ..self })
    }

    pub(crate) fn must(self, name: &str) -> Result<Json<'a>> {
        self.member(name)
            .ok_or_else(|| self.bad(&format!("no {name:?}")))
    }

    pub(crate) fn text(self) -> Result<&'a str> {
        self.value
            .as_str()
            .ok_or_else(|| self.bad("no text where one belongs"))
    }

    pub(crate) fn size(self) -> Result<u64> {
        self.value
            .as_u64()
            .ok_or_else(|| self.bad("no size where one belongs"))
    }

    pub(crate) fn items(self) -> Result<impl Iterator<Item = Json<'a>>> {
        let items = self
            .value
            .as_array()
            .ok_or_else(|| self.bad("no list where one belongs"))?;
        Ok(items.iter().map(move |value| Json { value, ..self }))
    }

    /// A digest, which is not taken for a name of a file before it was parsed.
    pub(crate) fn digest(self) -> Result<Digest> {
        let text = self.text()?;
        text.parse()
            .map_err(|error: Error| self.bad(&error.to_string()))
    }

    /// The text of a member; none and an empty one are the same.
    pub(crate) fn optional_text(self, name: &str) -> Result<Option<String>> {
        let text = self.member(name).map(Json::text).transpose()?;
        Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
    }

    pub(crate) fn texts(self, name: &str) -> Result<Vec<String>> {
        let Some(list) = self.member(name) else {
            return Ok(Vec::new());
        };
        list.items()?
            .map(|item| item.text().map(str::to_owned))
            .collect()
    }

    pub(crate) fn bad(self, why: &str) -> Error {
        malformed(self.path, why)
    }
}
