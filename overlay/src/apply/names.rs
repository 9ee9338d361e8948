//! What the paths in a layer mean. Pure.

use super::failure::Failure;
use super::limits::Limits;

/// The names of a path on the way from the layer's root, none for the root itself.
pub(crate) fn parts<'p>(path: &'p [u8], limits: &Limits) -> Result<Vec<&'p [u8]>, Failure> {
    let limit = limits.path_bytes;
    if path.len() > limit {
        let what = "bytes of a path";
        return Err(Failure::Limit {
            what,
            limit: limit as u64,
        });
    }
    if path.is_empty() {
        return Err(unsafe_path(path, "it has no name"));
    }
    let parts: Vec<_> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .collect();
    for name in &parts {
        match *name {
            b".." => return Err(unsafe_path(path, "`..` in a path")),
            name if name.contains(&0) => return Err(unsafe_path(path, "a NUL in a path")),
            name if name.len() > 255 => return Err(unsafe_path(path, "a name of over 255 bytes")),
            _ => {}
        }
    }
    let limit = limits.depth;
    if parts.len() > limit + 1 {
        let what = "directories inside each other";
        return Err(Failure::Limit {
            what,
            limit: limit as u64,
        });
    }
    Ok(parts)
}

pub(crate) fn unsafe_path(path: &[u8], why: &'static str) -> Failure {
    let entry = super::path_of(path);
    Failure::Unsafe { entry, why }
}

/// What a name is to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'n> {
    Itself,
    Whiteout(&'n [u8]),
    Opaque,
    Aufs,
    /// A whiteout of what is no name.
    Wrong,
}

pub(crate) fn meaning(name: &[u8]) -> Meaning<'_> {
    match name.strip_prefix(b".wh.") {
        None => Meaning::Itself,
        Some(b".wh..opq") => Meaning::Opaque,
        Some(b"" | b"." | b"..") => Meaning::Wrong,
        Some(hidden) if hidden.starts_with(b".wh.") => Meaning::Aufs,
        Some(hidden) => Meaning::Whiteout(hidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_layers_mean_by_them() {
        assert_eq!(meaning(b"a"), Meaning::Itself);
        assert_eq!(meaning(b".wh.a"), Meaning::Whiteout(b"a"));
        assert_eq!(meaning(b".wh.."), Meaning::Wrong);
        assert_eq!(meaning(b".wh."), Meaning::Wrong);
        assert_eq!(meaning(b".wh..."), Meaning::Wrong);
        assert_eq!(meaning(b".wh...."), Meaning::Whiteout(b"..."));
        assert_eq!(meaning(b".wh..wh..opq"), Meaning::Opaque);
        assert_eq!(meaning(b".wh..wh.plnk"), Meaning::Aufs);
    }

    #[test]
    fn paths_are_taken_from_the_root_on() {
        let parts = |path: &'static str| super::parts(path.as_bytes(), &Limits::default());
        assert_eq!(parts("/a//./b/").unwrap(), [b"a", b"b"]);
        assert!(parts("./").unwrap().is_empty());
        assert!(parts("/").unwrap().is_empty());
        for path in ["..", "a/..", "a/../b", "", "a\0b"] {
            parts(path).unwrap_err();
        }
    }
}
