//! What an image says of itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::json::{self, Json};
use crate::digest::Digest;
use crate::error::Result;

/// What is to be run in an image, and how it came to be. What else its config holds is kept, and written again.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ImageConfig {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments; without an entrypoint, the program too.
    pub command: Vec<String>,
    /// Where it is run.
    pub working_dir: Option<String>,
    /// As whom: `user`, `user:group`, by name or number.
    pub user: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What it runs on.
    pub platform: Platform,
    /// How it came to be, the first step first; steps that are not [`empty_layer`](History::empty_layer) have a layer each.
    pub history: Vec<History>,
    /// What it was parsed from.
    rest: Map<String, Value>,
}

/// A step in which an image came to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct History {
    /// When, as RFC 3339 writes it.
    pub created: Option<String>,
    /// By which command.
    pub created_by: Option<String>,
    /// By whom.
    pub author: Option<String>,
    /// Anything else.
    pub comment: Option<String>,
    /// It changed no file, and has no layer.
    pub empty_layer: bool,
}

/// What an image runs on, in Go's words: `linux`, `amd64`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Platform {
    /// The operating system.
    pub os: String,
    /// The processor.
    pub architecture: String,
    /// Its variant: `v8`. None matches any.
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on that processor.
    #[must_use]
    pub fn linux(architecture: impl Into<String>) -> Self {
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.into(),
            variant: None,
        }
    }

    pub(super) fn parse(json: Json<'_>) -> Result<Option<Self>> {
        let (Some(os), Some(architecture)) = (
            json.optional_text("os")?,
            json.optional_text("architecture")?,
        ) else {
            return Ok(None);
        };
        Ok(Some(Platform {
            os,
            architecture,
            variant: json.optional_text("variant")?,
        }))
    }

    /// Whether `other` runs where this is wanted.
    pub(super) fn takes(&self, other: &Platform) -> bool {
        let variant = self.variant.is_none() || self.variant == other.variant;
        self.os == other.os && self.architecture == other.architecture && variant
    }
}

impl Default for Platform {
    /// That of this program.
    fn default() -> Self {
        Platform::linux(match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        })
    }
}

impl History {
    /// A step by that command.
    #[must_use]
    pub fn by(command: impl Into<String>) -> Self {
        History {
            created_by: Some(command.into()),
            ..History::default()
        }
    }

    fn parse(json: Json<'_>) -> Result<Self> {
        let empty = json
            .member("empty_layer")
            .and_then(|empty| empty.value.as_bool());
        Ok(History {
            created: json.optional_text("created")?,
            created_by: json.optional_text("created_by")?,
            author: json.optional_text("author")?,
            comment: json.optional_text("comment")?,
            empty_layer: empty.unwrap_or(false),
        })
    }

    fn render(&self) -> Value {
        let texts = [
            ("created", &self.created),
            ("created_by", &self.created_by),
            ("author", &self.author),
            ("comment", &self.comment),
        ];
        let mut map = Map::new();
        for (name, text) in texts {
            put(&mut map, name, text.is_some(), json!(text));
        }
        put(&mut map, "empty_layer", self.empty_layer, json!(true));
        Value::Object(map)
    }
}

impl ImageConfig {
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let value = json::parse(path, bytes)?;
        let json = Json {
            path,
            value: &value,
        };
        let rest = value
            .as_object()
            .ok_or_else(|| json.bad("it is no object"))?
            .clone();
        let history = match json.member("history") {
            Some(list) => list.items()?.map(History::parse).collect::<Result<_>>()?,
            None => Vec::new(),
        };
        let empty = Value::Object(Map::new());
        let run = json.member("config").unwrap_or(Json {
            path,
            value: &empty,
        });
        Ok(ImageConfig {
            env: run.texts("Env")?,
            entrypoint: run.texts("Entrypoint")?,
            command: run.texts("Cmd")?,
            working_dir: run.optional_text("WorkingDir")?,
            user: run.optional_text("User")?,
            labels: labels(run)?,
            platform: Platform::parse(json)?.unwrap_or_default(),
            history,
            rest,
        })
    }

    /// The diff ids that a config names, the lowest layer first.
    pub(super) fn diff_ids(path: &Path, bytes: &[u8]) -> Result<Vec<Digest>> {
        let value = json::parse(path, bytes)?;
        let json = Json {
            path,
            value: &value,
        };
        let list = json.must("rootfs")?.must("diff_ids")?;
        list.items()?.map(Json::digest).collect()
    }

    /// The config as JSON: the same for the same content.
    pub(super) fn render(&self, diff_ids: &[Digest]) -> Vec<u8> {
        let mut all = self.rest.clone();
        let diff_ids: Vec<_> = diff_ids.iter().map(Digest::to_string).collect();
        all.insert(
            "rootfs".to_owned(),
            json!({"type": "layers", "diff_ids": diff_ids}),
        );
        all.insert("os".to_owned(), json!(self.platform.os));
        all.insert("architecture".to_owned(), json!(self.platform.architecture));
        let variant = &self.platform.variant;
        put(&mut all, "variant", variant.is_some(), json!(variant));
        let history: Vec<_> = self.history.iter().map(History::render).collect();
        put(&mut all, "history", !history.is_empty(), json!(history));
        let mut run = match all.remove("config") {
            Some(Value::Object(run)) => run,
            _ => Map::new(),
        };
        put(&mut run, "Env", !self.env.is_empty(), json!(self.env));
        put(
            &mut run,
            "Entrypoint",
            !self.entrypoint.is_empty(),
            json!(self.entrypoint),
        );
        put(
            &mut run,
            "Cmd",
            !self.command.is_empty(),
            json!(self.command),
        );
        put(
            &mut run,
            "WorkingDir",
            self.working_dir.is_some(),
            json!(self.working_dir),
        );
        put(&mut run, "User", self.user.is_some(), json!(self.user));
        put(
            &mut run,
            "Labels",
            !self.labels.is_empty(),
            json!(self.labels),
        );
        all.insert("config".to_owned(), Value::Object(run));
        Value::Object(all).to_string().into_bytes()
    }
}

fn labels(run: Json<'_>) -> Result<BTreeMap<String, String>> {
    let Some(labels) = run.member("Labels") else {
        return Ok(BTreeMap::new());
    };
    let map = labels
        .value
        .as_object()
        .ok_or_else(|| run.bad("labels are no object"))?;
    let label = |(name, value): (&String, &Value)| {
        let text = value
            .as_str()
            .ok_or_else(|| run.bad("a label is no text"))?;
        Ok((name.clone(), text.to_owned()))
    };
    map.iter().map(label).collect()
}

fn put(map: &mut Map<String, Value>, name: &str, is: bool, value: Value) {
    if is {
        map.insert(name.to_owned(), value);
    } else {
        map.remove(name);
    }
}
