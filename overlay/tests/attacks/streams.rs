use std::fs;
use std::io::Write;

use cofferdam_overlay::{Apply, Digest, ErrorKind};
use flate2::write::GzEncoder;

use crate::archive::{Archive, Header, in_world, names, read};
use crate::{applied, fresh};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A13: CVE-2025-62518 of the tar crates for tokio, where the entries of an archive in the archive come out.
#[test]
fn an_archive_in_a_file_whose_header_says_0() {
    in_world(|world| {
        let inner = Archive::new().file("nested", "gotcha").end();
        let size = inner.len().to_string();
        let archive = Archive::new()
            .pax(&[("size", size.as_bytes())])
            .add(Header::new("inner.tar", b'0').size(0), &inner)
            .file("after", "");
        let layer = applied(world, archive);
        assert_eq!(names(&layer), ["after", "inner.tar"]);
        assert_eq!(fs::read(layer.join("inner.tar")).unwrap(), inner);
    });
}

/// A14: the size in a PAX header is that of the file, not of the long name in between.
#[test]
fn a_size_before_a_long_name() {
    in_world(|world| {
        let inner = Archive::new().file("nested", "gotcha").end();
        let size = inner.len().to_string();
        let name = "n".repeat(120);
        let archive = Archive::new()
            .pax(&[("size", size.as_bytes())])
            .extended(b'L', name.clone() + "\0")
            .add(Header::new("short", b'0').size(0), &inner)
            .file("after", "");
        let layer = applied(world, archive);
        assert_eq!(names(&layer), ["after", &name]);
        assert_eq!(fs::read(layer.join(name)).unwrap(), inner);
    });
}

/// A16: part of a layer for a whole one, or another for the one that was asked for.
#[test]
fn cut_off_damaged_or_another() {
    in_world(|world| {
        let tar = Archive::new()
            .file("a", "text")
            .directory("d/")
            .file("d/b", vec![7; 5000])
            .end();
        let layer = fresh(world);
        let refused = |apply: Apply, blob: &[u8], kind| {
            let error = apply.tar(blob).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(names(&layer), [""; 0]);
        };
        let apply = || Apply::new(&layer);
        for end in [1, 511, 513, 600, 1024 + 100, 1536 + 512 + 4000] {
            refused(apply(), &tar[..end], ErrorKind::Malformed);
        }
        let blob = gzip(&tar);
        for cut in [1, 4, 8, 9, 20] {
            refused(apply(), &blob[..blob.len() - cut], ErrorKind::Malformed);
        }
        for damaged in [blob.len() - 1, blob.len() - 5, blob.len() / 2] {
            let mut blob = blob.clone();
            blob[damaged] ^= 0x10;
            refused(apply(), &blob, ErrorKind::Malformed);
        }
        refused(
            apply(),
            &[&blob[..], b"garbage"].concat(),
            ErrorKind::Malformed,
        );
        let other = Digest::of("another");
        refused(apply().blob(other), &blob, ErrorKind::DigestMismatch);
        refused(apply().diff_id(other), &blob, ErrorKind::DigestMismatch);
        refused(
            apply().diff_id(Digest::of(&blob)),
            &blob,
            ErrorKind::DigestMismatch,
        );
        let right = apply().blob(Digest::of(&blob)).diff_id(Digest::of(&tar));
        right.tar(&*blob).unwrap();
        assert_eq!(read(layer.join("a")), "text");
    });
}
