//! Where `unsafe` stands in the sources.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// The `file:line` of each `unsafe` outside a file named `sys.rs`.
pub(crate) fn stray_unsafe(root: &Path) -> Result<Vec<String>> {
    let mut stray = Vec::new();
    for path in rust_files(root)? {
        if path.file_name().is_some_and(|name| name == "sys.rs") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let name = path.strip_prefix(root)?.display();
        stray.extend(unsafe_lines(&text).map(|line| format!("{name}:{line}")));
    }
    Ok(stray)
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            // Build output and what git and the tools keep.
            if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                files.append(&mut rust_files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Numbers of the lines with the keyword outside comments and strings.
fn unsafe_lines(text: &str) -> impl Iterator<Item = usize> {
    let lines = text.lines().enumerate();
    lines.filter_map(|(index, line)| code(line).any(|word| word == "unsafe").then_some(index + 1))
}

/// The words of a line, without its strings and its comment.
fn code(line: &str) -> impl Iterator<Item = &str> {
    let is_code = |(index, _): &(usize, &str)| index % 2 == 0;
    let outside = line.split('"').enumerate().filter(is_code);
    let mut comment = false;
    outside
        .map_while(move |(_, part)| {
            let cut = part.find("//").unwrap_or(part.len());
            let seen = (!comment).then_some(&part[..cut]);
            comment |= cut < part.len();
            seen
        })
        .flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'))
}

#[cfg(test)]
mod tests {
    use super::unsafe_lines;

    #[test]
    fn the_keyword_counts_and_its_mention_does_not() {
        let text = "unsafe { f() }\nlet a = unsafe{ g() };\n/// unsafe it is not\n#![deny(unsafe_code)]\n\
            let s = \"unsafe\"; // unsafe\nunsafe impl Send for A {}\nrustix::unshare_unsafe(x)\n\
            f(\"a\", unsafe { g(\"//\") })\n#[unsafe(no_mangle)]";
        assert_eq!(unsafe_lines(text).collect::<Vec<_>>(), [1, 2, 6, 8, 9]);
    }
}
