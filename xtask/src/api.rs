//! Lists of what each crate makes public, kept in the repository: a change of the API is seen where it is reviewed.
//!
//! They are read from the pages that rustdoc writes for people, so that no nightly is needed: of each page its item, and the
//! members that stand above what it gets from traits.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::Result;
use crate::command::{cargo, root, run};
use crate::workspace::{Package, Workspace};

const MEMBERS: [&str; 6] = [
    "method",
    "tymethod",
    "variant",
    "structfield",
    "associatedconstant",
    "associatedtype",
];
/// From here on a page tells what holds of many types.
const ENDS: [&str; 4] = [
    "id=\"trait-implementations\"",
    "id=\"synthetic-implementations\"",
    "id=\"blanket-implementations\"",
    "id=\"implementors\"",
];

/// Writes the lists.
pub(crate) fn write() -> Result<()> {
    let workspace = Workspace::read()?;
    run(cargo().args(["doc", "--workspace", "--no-deps", "--all-features"]))?;
    for package in published(&workspace) {
        fs::create_dir_all(kept(package).with_file_name(""))?;
        fs::write(kept(package), listed(&workspace, package)?)?;
    }
    Ok(())
}

/// Where lists and crates differ. The documentation has to be built, with all features.
pub(crate) fn changes(workspace: &Workspace) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for package in published(workspace) {
        let kept = fs::read_to_string(kept(package)).unwrap_or_default();
        found.extend(differences(&kept, &listed(workspace, package)?));
    }
    if !found.is_empty() {
        found.push("if this is meant: cargo xtask api".to_owned());
    }
    Ok(found)
}

fn published(workspace: &Workspace) -> impl Iterator<Item = &Package> {
    let packages = workspace.packages.iter();
    packages.filter(|package| package.default_member)
}

fn kept(package: &Package) -> PathBuf {
    root().join(format!("docs/api/{}.txt", package.name))
}

fn listed(workspace: &Workspace, package: &Package) -> Result<String> {
    let name = package.name.replace('-', "_");
    let directory = workspace.target_directory.join("doc").join(&name);
    let all = fs::read_to_string(directory.join("all.html"))?;
    let mut lines = BTreeSet::new();
    for page in pages(&all) {
        let Some((path, kind)) = item(page) else {
            continue;
        };
        let item = format!("{name}::{path}");
        lines.insert(format!("{item}: {kind}"));
        let page = fs::read_to_string(directory.join(page))?;
        lines.extend(members(&page).map(|member| format!("{item}::{member}")));
    }
    if lines.is_empty() {
        return Err(format!("{}: no documentation", directory.display()).into());
    }
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// What the page of all items links to. Pages of items that are gone are left where they were.
fn pages(all: &str) -> impl Iterator<Item = &str> {
    let links = all.split("href=\"").skip(1);
    links.filter_map(|rest| rest.split('"').next())
}

/// `("seccomp::Filter", "struct")` of `seccomp/struct.Filter.html`.
fn item(page: &str) -> Option<(String, &str)> {
    const KINDS: [&str; 8] = [
        "struct", "enum", "union", "trait", "fn", "constant", "type", "macro",
    ];
    let (module, file) = page.rsplit_once('/').unwrap_or(("", page));
    let (kind, name) = file.strip_suffix(".html")?.split_once('.')?;
    let above = module.split('/').filter(|name| !name.is_empty());
    let path: Vec<_> = above.chain([name]).collect();
    KINDS.contains(&kind).then(|| (path.join("::"), kind))
}

/// `bind: pub fn bind(source: impl Into<PathBuf>) -> Self` and so on.
fn members(page: &str) -> impl Iterator<Item = String> + '_ {
    let end = ENDS.iter().filter_map(|end| page.find(end)).min();
    let own = &page[..end.unwrap_or(page.len())];
    MEMBERS.iter().flat_map(move |kind| {
        let mark = format!("<section id=\"{kind}.");
        let mut found: Vec<_> = own.split(mark.as_str()).skip(1).map(member).collect();
        // Fields are no sections.
        let field = format!("<span id=\"{kind}.");
        found.extend(own.split(field.as_str()).skip(1).map(field_of));
        found
    })
}

/// Of the text behind the kind in an id.
fn member(text: &str) -> String {
    let name = text.split('"').next().unwrap_or_default();
    let name = name.strip_suffix("-1").unwrap_or(name);
    let header = text.split_once("class=\"code-header\">");
    let signature = header.and_then(|(_, rest)| rest.split("</h4>").next().or(Some(rest)));
    match signature
        .map(plain)
        .filter(|signature| !signature.is_empty())
    {
        Some(signature) => format!("{name}: {signature}"),
        None => name.to_owned(),
    }
}

/// `path: PathBuf` of `path" class="..."><code>path: PathBuf</code></span>`.
fn field_of(text: &str) -> String {
    let code = text.split_once("<code>");
    let code = code.and_then(|(_, rest)| rest.split_once("</code>"));
    code.map(|(code, _)| plain(code)).unwrap_or_default()
}

/// The words of a piece of a page.
fn plain(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html.split("</h3>").next().unwrap_or(html);
    while let Some((before, tag)) = rest.split_once('<') {
        text += before;
        rest = tag.split_once('>').map_or("", |(_, after)| after);
    }
    text += rest;
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ];
    let text = entities
        .iter()
        .fold(text, |text, (from, to)| text.replace(from, to));
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ")
}

fn differences(before: &str, now: &str) -> Vec<String> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, now) = (lines(before), lines(now));
    let gone = before.difference(&now).map(|line| format!("- {line}"));
    let new = now.difference(&before).map(|line| format!("+ {line}"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_its_own_members() {
        let page = r#"<section id="variant.Null" class="variant"><a href="x">§</a><h3 class="code-header">Null</h3></section>
            <section id="method.bind" class="method"><a class="src" href="y">Source</a><h4 class="code-header">pub fn
            <a class="fn">bind</a>(path: impl Into&lt;PathBuf&gt;) -&gt; Self</h4></section>
            <span id="structfield.path" class="x"><a>§</a><code>path: <a>PathBuf</a></code></span>
            <h2 id="trait-implementations">..</h2><section id="method.clone" class="method"></section>"#;
        let found: Vec<_> = members(page).collect();
        let bind = "bind: pub fn bind(path: impl Into<PathBuf>) -> Self";
        assert_eq!(found, [bind, "Null: Null", "path: PathBuf"]);
        let all = r#"<a href="index.html">x</a><a href="a/struct.Mount.html">y</a>"#;
        let items: Vec<_> = pages(all).filter_map(item).collect();
        assert_eq!(items, [("a::Mount".to_owned(), "struct")]);
    }

    #[test]
    fn what_is_gone_and_what_is_new_is_told() {
        assert_eq!(differences("a\nb\n", "b\nc\n"), ["- a", "+ c"]);
    }
}
