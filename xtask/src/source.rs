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
        stray.extend(
            unsafe_lines(&text)
                .into_iter()
                .map(|line| format!("{name}:{line}")),
        );
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

/// Numbers of the lines with the keyword, outside comments and literals.
fn unsafe_lines(text: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_alphabetic() || first == '_' {
            let length = word(rest);
            if &rest[..length] == "unsafe" {
                lines.push(text[..at].matches('\n').count() + 1);
            }
            at += length + raw_string(&rest[..length], &rest[length..]);
        } else {
            at += comment(rest)
                .or_else(|| literal(rest))
                .unwrap_or(first.len_utf8());
        }
    }
    lines
}

fn word(rest: &str) -> usize {
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    end.unwrap_or(rest.len())
}

/// The length of the raw string that this word begins, 0 if it is only a word.
fn raw_string(word: &str, rest: &str) -> usize {
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    if !["r", "br", "cr"].contains(&word) || !rest[hashes..].starts_with('"') {
        return 0;
    }
    let start = hashes + 1;
    after(rest, start, &format!("\"{}", "#".repeat(hashes)))
}

fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        Some(after(rest, 0, "\n"))
    } else if rest.starts_with("/*") {
        Some(after(rest, 0, "*/"))
    } else {
        None
    }
}

/// The length of the string or character here; a lifetime is none.
fn literal(rest: &str) -> Option<usize> {
    let quote = rest.chars().next()?;
    let character = || rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'');
    if quote != '"' && !(quote == '\'' && character()) {
        return None;
    }
    let mut escaped = false;
    let end = rest[1..].find(|c| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    Some(end.map_or(rest.len(), |end| end + 2))
}

/// Where the text goes on after the next `end` from `start`.
fn after(rest: &str, start: usize, end: &str) -> usize {
    let found = rest[start..].find(end);
    found.map_or(rest.len(), |found| start + found + end.len())
}

#[cfg(test)]
mod tests {
    use super::unsafe_lines;

    #[test]
    fn the_keyword_counts() {
        let text = "unsafe { f() }\nlet a = unsafe{ g() };\nunsafe impl<'a> Send for A<'a> {}\n\
            f(\"a\", unsafe { g(\"//\") })\n#[unsafe(no_mangle)]\n('\"', unsafe { 'x' })\n\
            (b'\\'', r#\"\"\"#, \"\\\"\", unsafe {})";
        assert_eq!(unsafe_lines(text), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn its_mention_does_not() {
        let text = "/// unsafe it is not\n#![deny(unsafe_code)]\nlet s = \"unsafe\"; // unsafe\n/* unsafe\n unsafe */\n\
            rustix::unshare_unsafe(x)\n\"a\nunsafe\"\nr#\"\" unsafe\"#\n\"\\\" unsafe\"";
        assert_eq!(unsafe_lines(text), [0; 0]);
    }
}
