//! What must hold of every commit, beside the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::Result;
use crate::command::{cargo, output, root, run};
use crate::licence;
use crate::source;
use crate::workspace::{Package, Workspace};

/// The crates of which none depends on another.
const MECHANISMS: [&str; 6] = [
    "cofferdam-cgroups",
    "cofferdam-dns",
    "cofferdam-namespaces",
    "cofferdam-netbridge",
    "cofferdam-overlay",
    "cofferdam-portmap",
];

/// How many crates a default build may have, itself included.
const CRATES_AT_MOST: [(&str, usize); 2] = [("cofferdam", 70), ("cofferdam-cgroups", 8)];

type Step = (&'static str, fn(&Workspace) -> Result<()>);

const STEPS: &[Step] = &[
    ("fmt", fmt),
    ("unsafe stands in sys.rs", unsafe_places),
    ("mechanism crates stand alone", borders),
    ("licences", licences),
    ("number of crates", crates),
    ("clippy", clippy),
    ("clippy per feature", clippy_features),
    ("doc", doc),
    ("public items are those of docs/api", public),
];

/// Runs every step, whatever an earlier one said.
pub(crate) fn check() -> Result<()> {
    let workspace = Workspace::read()?;
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        println!("check: {name}");
        let start = Instant::now();
        match step(&workspace) {
            Ok(()) => println!("check: {name}: ok, {:.1} s", start.elapsed().as_secs_f32()),
            Err(error) => {
                println!("check: {name}: FAILED: {error}");
                failed.push(*name);
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("check: failed: {}", failed.join(", ")).into())
    }
}

fn fmt(_: &Workspace) -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))
}

fn unsafe_places(_: &Workspace) -> Result<()> {
    none(source::stray_unsafe(&root())?)
}

fn borders(workspace: &Workspace) -> Result<()> {
    none(crossings(&workspace.packages))
}

fn crossings(packages: &[Package]) -> Vec<String> {
    let is_mechanism = |name: &str| MECHANISMS.contains(&name);
    let mut found = Vec::new();
    for package in packages
        .iter()
        .filter(|package| is_mechanism(&package.name))
    {
        let crossing = package
            .dependencies
            .iter()
            .filter(|name| is_mechanism(name));
        found.extend(crossing.map(|name| format!("{} depends on {name}", package.name)));
    }
    found
}

/// Licences of what is linked or run at build time, with every feature and for every target.
fn licences(_: &Workspace) -> Result<()> {
    let tree = output(cargo().args([
        "tree",
        "--workspace",
        "--all-features",
        "--target=all",
        "--edges=normal,build",
        "--prefix=none",
        "--format={p}|{l}",
    ]))?;
    none(refused(&tree))
}

/// The crates of a tree, by name and version, whose licence is not allowed.
fn refused(tree: &str) -> Vec<String> {
    let mut licence_of = BTreeMap::new();
    for line in tree.lines() {
        if let Some((package, licence)) = line.split_once('|') {
            licence_of.insert(identity(package), licence.trim_end_matches(" (*)"));
        }
    }
    licence_of
        .into_iter()
        .filter(|(_, licence)| !licence::allows(licence))
        .map(|(package, licence)| format!("{package} is {licence:?}"))
        .collect()
}

/// `libc v0.2.1` of `libc v0.2.1 (proc-macro) (*)`.
fn identity(package: &str) -> String {
    let words: Vec<&str> = package.split_whitespace().take(2).collect();
    words.join(" ")
}

fn crates(_: &Workspace) -> Result<()> {
    let mut too_many = Vec::new();
    for (package, most) in CRATES_AT_MOST {
        let tree = output(cargo().args([
            "tree",
            "--package",
            package,
            "--edges=normal",
            "--prefix=none",
        ]))?;
        let count = distinct(&tree);
        println!("check: {package}: {count} crates, {most} at most");
        if count > most {
            too_many.push(format!("{package} has {count} crates"));
        }
    }
    none(too_many)
}

fn distinct(tree: &str) -> usize {
    let names: BTreeSet<String> = tree.lines().map(identity).collect();
    names.len()
}

fn clippy(_: &Workspace) -> Result<()> {
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"]))
}

/// All features at once, and each crate with none and with each one alone.
fn clippy_features(workspace: &Workspace) -> Result<()> {
    let featured: Vec<&Package> = workspace
        .packages
        .iter()
        .filter(|package| !package.features.is_empty())
        .collect();
    if featured.is_empty() {
        return Ok(());
    }
    run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-Dwarnings",
    ]))?;
    for package in featured {
        let none = String::new();
        for feature in [&none].into_iter().chain(&package.features) {
            run(cargo()
                .args([
                    "clippy",
                    "--package",
                    &package.name,
                    "--no-default-features",
                ])
                .args(["--features", feature, "--", "-Dwarnings"]))?;
        }
    }
    Ok(())
}

fn doc(workspace: &Workspace) -> Result<()> {
    let mut command = cargo();
    command
        .env("RUSTDOCFLAGS", "-Dwarnings")
        .args(["doc", "--workspace", "--no-deps"]);
    run(&mut command)?;
    if workspace
        .packages
        .iter()
        .any(|package| !package.features.is_empty())
    {
        run(command.arg("--all-features"))?;
    }
    Ok(())
}

/// After [`doc`], whose pages it reads.
fn public(workspace: &Workspace) -> Result<()> {
    none(crate::api::changes(workspace)?)
}

/// An error of all that was found, if anything was.
fn none(found: Vec<String>) -> Result<()> {
    if found.is_empty() {
        Ok(())
    } else {
        Err(found.join("; ").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_licence_is_named_once() {
        let tree = "a v1.0.0 (/work/a)|MIT OR Apache-2.0\nb v2.1.0|MPL-2.0\nc v0.1.0 (proc-macro)|MIT (*)\n\
            b v2.1.0|MPL-2.0 (*)\n\nd v0.0.1|\n";
        assert_eq!(
            refused(tree),
            ["b v2.1.0 is \"MPL-2.0\"", "d v0.0.1 is \"\""]
        );
    }

    #[test]
    fn a_crate_counts_once() {
        let tree = "a v1.0.0 (/work/a)\nb v2.1.0\nb v2.1.0 (*)\nc v0.1.0 (proc-macro) (*)\nc v0.1.0 (proc-macro)\n";
        assert_eq!(distinct(tree), 3);
    }

    #[test]
    fn a_mechanism_that_uses_another_is_named() {
        let package = |name: &str, dependencies: &[&str]| Package {
            name: name.into(),
            directory: "/".into(),
            features: vec![],
            dependencies: dependencies.iter().map(|&name| name.into()).collect(),
            default_member: true,
        };
        let packages = [
            package("cofferdam", &["cofferdam-dns", "cofferdam-overlay"]),
            package("cofferdam-dns", &["libc", "cofferdam-testkit"]),
            package("cofferdam-overlay", &["cofferdam-cgroups"]),
        ];
        assert_eq!(
            crossings(&packages),
            ["cofferdam-overlay depends on cofferdam-cgroups"]
        );
    }
}
