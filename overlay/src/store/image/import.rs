//! Images from elsewhere.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Image;
use super::config::{ImageConfig, Platform};
use super::json::{self, Json};
use super::source::{Files, ImageSource, Place};
use crate::digest::Digest;
use crate::error::Result;
use crate::store::Fault;
use crate::store::layer::LayerRef;
use crate::store::layers::{Expected, LayerStore};
use crate::store::record::malformed;

/// Indexes of indexes, and no deeper.
const MOST_INDEXES: usize = 4;
const MOST_LAYERS: usize = 500;

/// What a manifest names.
struct Parts {
    config: Vec<u8>,
    config_path: PathBuf,
    /// The file of each layer, the lowest first, with its digest and size where they are known.
    layers: Vec<(String, Option<(Digest, u64)>)>,
}

impl LayerStore {
    /// Imports an image with its layers. All that is read of it is checked against the digests by which it is named; a layer
    /// that is in the store is not read again. Several are unpacked side by side, as by [`apply_all`](LayerStore::apply_all).
    ///
    /// # Errors
    /// `Malformed` for an image that contradicts itself, names files outside, or has documents over 4 MiB; `NotFound` without one
    /// for the platform or of the name; as [`LayerStore::apply`] for layers. What was imported until then is not in use, and is
    /// collected.
    pub fn import(&self, source: &ImageSource) -> Result<Image> {
        let files = Files::open(&source.place)?;
        let parts = match source.place {
            Place::Layout(_) => of_layout(&files, source)?,
            Place::Archive(_) => of_archive(&files, source)?,
        };
        let diff_ids = ImageConfig::diff_ids(&parts.config_path, &parts.config)?;
        ImageConfig::parse(&parts.config_path, &parts.config)?;
        if diff_ids.len() != parts.layers.len() || diff_ids.len() > MOST_LAYERS {
            let why = format!(
                "{} layers, but {} diff ids",
                parts.layers.len(),
                diff_ids.len()
            );
            return Err(malformed(&parts.config_path, why));
        }
        let layers = parts.layers.iter().zip(diff_ids);
        let opened = layers.map(|((name, blob), diff_id)| open_layer(&files, name, *blob, diff_id));
        let layer = self.apply_each(None, opened)?;
        self.add_image(&parts.config, layer.as_ref().map(LayerRef::chain_id))
    }
}

fn open_layer(
    files: &Files,
    name: &str,
    blob: Option<(Digest, u64)>,
    diff_id: Digest,
) -> Result<(Box<dyn Read + Send>, Expected)> {
    let (reader, found) = files.reader(name)?;
    let mut expected = Expected::diff_id(diff_id);
    if let Some((digest, size)) = blob {
        check_size(&files.path().join(name), found, size)?;
        expected = expected.blob(digest);
    }
    Ok((reader, expected))
}

fn of_layout(files: &Files, source: &ImageSource) -> Result<Parts> {
    let path = files.path().join("oci-layout");
    let layout = json::parse(&path, &files.document("oci-layout")?)?;
    let version = Json {
        path: &path,
        value: &layout,
    }
    .must("imageLayoutVersion")?
    .text()?;
    if !version.starts_with("1.") {
        return Err(malformed(
            &path,
            format!("layout version {version:?} is not 1"),
        ));
    }
    let (path, manifest) = manifest(files, source)?;
    let manifest = Json {
        path: &path,
        value: &manifest,
    };
    let (config_path, config) = blob(files, manifest.must("config")?)?;
    let layer = |layer: Json<'_>| {
        let (digest, size) = (layer.must("digest")?.digest()?, layer.must("size")?.size()?);
        Ok((blob_name(digest), Some((digest, size))))
    };
    let layers = manifest
        .must("layers")?
        .items()?
        .map(layer)
        .collect::<Result<_>>()?;
    Ok(Parts {
        config,
        config_path,
        layers,
    })
}

/// The manifest of the image that is wanted, through indexes.
fn manifest(files: &Files, source: &ImageSource) -> Result<(PathBuf, Value)> {
    let mut path = files.path().join("index.json");
    let mut document = json::parse(&path, &files.document("index.json")?)?;
    let mut reference = source.reference.as_deref();
    for _ in 0..MOST_INDEXES {
        let json = Json {
            path: &path,
            value: &document,
        };
        let Some(list) = json.member("manifests") else {
            return Ok((path, document));
        };
        let chosen = choose(list, reference, &source.platform)?;
        reference = None;
        let (next, bytes) = blob(files, chosen)?;
        document = json::parse(&next, &bytes)?;
        path = next;
    }
    match document.get("manifests") {
        None => Ok((path, document)),
        Some(_) => Err(malformed(&path, "indexes of indexes, deeper than 4")),
    }
}

/// The one descriptor of that name, and for that platform where it tells one.
fn choose<'a>(list: Json<'a>, reference: Option<&str>, platform: &Platform) -> Result<Json<'a>> {
    let mut chosen: Option<Json<'a>> = None;
    for item in list.items()? {
        let told = match item.member("platform") {
            Some(told) => Platform::parse(told)?,
            None => None,
        };
        let named = reference.is_none_or(|reference| has_name(item, reference));
        if !named || !told.is_none_or(|told| platform.takes(&told)) {
            continue;
        }
        // Of variants of a platform the first; of images of no name none is the right one.
        if chosen.is_some_and(|chosen| chosen.member("platform").is_none()) {
            return Err(list.bad("several images: name the one that is wanted"));
        }
        chosen = chosen.or(Some(item));
    }
    chosen.ok_or_else(|| {
        let wanted = format!(
            "{} for {}/{}",
            reference.unwrap_or("any name"),
            platform.os,
            platform.architecture
        );
        let path = list.path.to_owned();
        Fault::NoImage { path, wanted }.into()
    })
}

fn has_name(item: Json<'_>, reference: &str) -> bool {
    let names = [
        "org.opencontainers.image.ref.name",
        "io.containerd.image.name",
    ];
    item.member("annotations").is_some_and(|annotations| {
        names.iter().any(|name| {
            let found = annotations.member(name);
            found.is_some_and(|found| found.value.as_str() == Some(reference))
        })
    })
}

/// A document by its descriptor.
fn blob(files: &Files, descriptor: Json<'_>) -> Result<(PathBuf, Vec<u8>)> {
    let digest = descriptor.must("digest")?.digest()?;
    let name = blob_name(digest);
    let path = files.path().join(&name);
    let bytes = files.document(&name)?;
    check_size(&path, bytes.len() as u64, descriptor.must("size")?.size()?)?;
    json::check_digest(&path, &bytes, digest)?;
    Ok((path, bytes))
}

fn check_size(path: &Path, found: u64, expected: u64) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(malformed(
        path,
        format!("{found} bytes, but {expected} were told"),
    ))
}

pub(super) fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn of_archive(files: &Files, source: &ImageSource) -> Result<Parts> {
    let path = files.path().join("manifest.json");
    let document = json::parse(&path, &files.document("manifest.json")?)?;
    let images = Json {
        path: &path,
        value: &document,
    };
    let image = choose_tagged(images, source.reference.as_ref())?;
    let name = image.must("Config")?.text()?;
    let (config_path, config) = (files.path().join(name), files.document(name)?);
    let digest = digest_of(name).ok_or_else(|| image.bad("a config whose name is no digest"))?;
    json::check_digest(&config_path, &config, digest)?;
    let layers = image
        .texts("Layers")?
        .into_iter()
        .map(|name| (name, None))
        .collect();
    Ok(Parts {
        config,
        config_path,
        layers,
    })
}

/// The one image of that tag, or the only one.
fn choose_tagged<'a>(images: Json<'a>, reference: Option<&String>) -> Result<Json<'a>> {
    let mut chosen = None;
    for image in images.items()? {
        let tags = image.texts("RepoTags")?;
        let wanted = reference.is_none_or(|name| tags.contains(name));
        if wanted && chosen.replace(image).is_some() {
            return Err(images.bad("several images: name the one that is wanted"));
        }
    }
    chosen.ok_or_else(|| {
        let wanted = reference.map_or("any name", String::as_str).to_owned();
        let path = images.path.to_owned();
        Fault::NoImage { path, wanted }.into()
    })
}

/// By which an archive names a config: `<digits>.json`, or `blobs/sha256/<digits>`.
fn digest_of(name: &str) -> Option<Digest> {
    let stem = name.rsplit('/').next().unwrap_or(name);
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    format!("sha256:{stem}").parse().ok()
}
