//! Images for elsewhere.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde_json::{Value, json};

use super::Image;
use crate::beneath;
use crate::diff::Written;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::store::area::{Area, unique};
use crate::store::check::again;
use crate::store::layer::LayerRef;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How layers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compress {
    /// As they are: the same bytes for the same layer, whatever the version of this crate.
    #[default]
    None,
    /// By gzip at this level, 0 to 9.
    Gzip(u32),
}

impl Image {
    /// Writes the image in OCI image layout into the empty or missing directory `target`, named `reference`, and returns the digest
    /// of its manifest.
    ///
    /// Layers are written anew from their directories, so that those of an image made elsewhere get other diff ids, and it another
    /// id; an image that was written here keeps them. Layers hidden by one that hides all below it are left out.
    ///
    /// # Errors
    /// `AlreadyExists` for a target that is not empty; as [`Diff::write_tar`](crate::Diff::write_tar). What was written until then
    /// stays.
    pub fn export(
        &self,
        target: impl AsRef<Path>,
        reference: &str,
        compress: Compress,
    ) -> Result<Digest> {
        let target = open_target(target.as_ref())?;
        let blobs = target.make("blobs")?.make("sha256")?;
        let (diff_ids, layers) = self.export_layers(&blobs, compress)?;
        let config = self.shown_config().render(&diff_ids);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": add(&blobs, CONFIG, &config)?,
            "layers": layers,
        });
        let manifest = manifest.to_string();
        let mut descriptor = add(&blobs, MANIFEST, manifest.as_bytes())?;
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": reference});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]});
        blobs.sync()?;
        target.write("index.json", index.to_string().as_bytes())?;
        let layout = json!({"imageLayoutVersion": "1.0.0"});
        target.write("oci-layout", layout.to_string().as_bytes())?;
        target.sync()?;
        Ok(Digest::of(manifest))
    }

    fn export_layers(&self, blobs: &Area, compress: Compress) -> Result<(Vec<Digest>, Vec<Value>)> {
        let (mut diff_ids, mut descriptors) = (Vec::new(), Vec::new());
        for layer in self.shown_layers()?.iter().rev() {
            let (written, media) = export_layer(layer, blobs, compress)?;
            diff_ids.push(written.diff_id);
            let digest = written.blob.to_string();
            let size = written.blob_size;
            descriptors.push(json!({"mediaType": media, "digest": digest, "size": size}));
        }
        Ok((diff_ids, descriptors))
    }

    /// The top one first, down to the last that is seen.
    fn shown_layers(&self) -> Result<Vec<LayerRef>> {
        let Some(top) = self.layer() else {
            return Ok(Vec::new());
        };
        let shown = top.directories().len();
        let records = top.records()[..shown].iter();
        records
            .map(|record| self.store.layer(record.chain()))
            .collect()
    }

    /// Steps whose layers are hidden have none any more.
    fn shown_config(&self) -> super::ImageConfig {
        let mut config = self.config.clone();
        let all = self.layer().map_or(0, |layer| layer.records().len());
        let hidden = all - self.directories().len();
        let with_layers = config.history.iter_mut().filter(|step| !step.empty_layer);
        with_layers
            .take(hidden)
            .for_each(|step| step.empty_layer = true);
        config
    }
}

fn export_layer(
    layer: &LayerRef,
    blobs: &Area,
    compress: Compress,
) -> Result<(Written, &'static str)> {
    let name = unique();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mode = Mode::from_raw_mode(0o644);
    let file = beneath::create(blobs, name.as_str(), flags, mode)
        .map_err(blobs.failed("create", &name))?;
    let file = File::from(file);
    let writer = BufWriter::with_capacity(1 << 18, &file);
    let written = match compress {
        Compress::None => again(layer).write_tar(writer),
        Compress::Gzip(level) => again(layer).write_tar_gz(writer, level),
    }?;
    file.sync_all()
        .map_err(Error::sys("fsync", &blobs.path().join(&name)))?;
    blobs.rename(&name, blobs, &written.blob.hex())?;
    let media = match compress {
        Compress::None => LAYER,
        Compress::Gzip(_) => "application/vnd.oci.image.layer.v1.tar+gzip",
    };
    Ok((written, media))
}

/// Writes a blob and describes it.
fn add(blobs: &Area, media: &str, bytes: &[u8]) -> Result<Value> {
    let digest = Digest::of(bytes);
    if !blobs.has(&digest.hex())? {
        blobs.write(&digest.hex(), bytes)?;
    }
    Ok(json!({"mediaType": media, "digest": digest.to_string(), "size": bytes.len()}))
}

fn open_target(path: &Path) -> Result<Area> {
    match std::fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::sys("mkdir", path)(error)),
    }
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, path, flags, Mode::empty()).map_err(Error::sys("open target", path))?;
    let target = Area::new(fd, path.to_owned());
    match target.names()?.is_empty() {
        true => Ok(target),
        false => Err(crate::diff::Problem::NotEmpty {
            path: path.to_owned(),
        }
        .into()),
    }
}
