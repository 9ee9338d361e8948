//! Images in OCI layout, written by hand.

use std::fs;
use std::path::Path;

use cofferdam_overlay::{Digest, Platform};
use serde_json::{Value, json};

/// Writes an image of these layers, the lowest first, which are plain tars.
pub(crate) fn write(target: &Path, layers: &[Vec<u8>]) {
    let blobs = target.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |kind: &str, bytes: &[u8]| -> Value {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        let kind = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()})
    };
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|layer| Digest::of(layer).to_string())
        .collect();
    let config = json!({
        "os": "linux",
        "architecture": Platform::default().architecture,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = add("config.v1+json", config.to_string().as_bytes());
    let layers: Vec<_> = layers.iter().map(|tar| add("layer.v1.tar", tar)).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers,
    });
    let mut manifest = add("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(target.join("index.json"), index.to_string()).unwrap();
    fs::write(
        target.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}
