//! Static binaries for the VM, built apart from the everyday ones.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::command::{cargo, output};
use crate::json::Value;
use crate::toolchain::Toolchain;
use crate::workspace::{Package, Workspace};

/// A built program.
#[derive(Debug, PartialEq)]
pub(crate) struct Artifact {
    /// `cofferdam-cgroups root`: package and target.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// Where cargo would run it.
    pub(crate) package_directory: PathBuf,
}

impl Artifact {
    /// One that is built already, to run as from this directory.
    pub(crate) fn of(executable: &Path, directory: &Path) -> Self {
        let executable = directory.join(executable);
        let name = executable.file_name().unwrap_or_default();
        Artifact {
            name: name.to_string_lossy().into_owned(),
            package_directory: directory.to_owned(),
            executable,
        }
    }
}

/// The test binaries of these packages.
pub(crate) fn tests(
    workspace: &Workspace,
    packages: &[&Package],
    toolchain: &Toolchain,
    build: &Path,
) -> Result<Vec<Artifact>> {
    let mut command = static_build("test", toolchain, build);
    command.args(["--no-run", "--tests", "--all-features"]);
    for package in packages {
        command.args(["--package", &package.name]);
    }
    artifacts(workspace, &output(&mut command)?, is_test)
}

/// The example of this name.
pub(crate) fn example(
    workspace: &Workspace,
    name: &str,
    toolchain: &Toolchain,
    build: &Path,
) -> Result<Artifact> {
    let mut command = static_build("build", toolchain, build);
    command.args(["--workspace", "--example", name]);
    let mut found = artifacts(workspace, &output(&mut command)?, is_example)?;
    found
        .pop()
        .ok_or_else(|| format!("no example {name}").into())
}

fn static_build(subcommand: &str, toolchain: &Toolchain, build: &Path) -> Command {
    let mut command = cargo();
    command
        .args([subcommand, "--message-format=json-render-diagnostics"])
        .args(["--target", &toolchain.arch.target(), "--target-dir"])
        .arg(build)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // What is not in the files is neither packed nor loaded.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_DEV_STRIP", "debuginfo");
    toolchain.apply(&mut command);
    command
}

fn is_test(message: &Value) -> bool {
    *message.field("profile").field("test") == Value::Bool(true)
}

fn is_example(message: &Value) -> bool {
    let kinds = message.field("target").field("kind").items();
    kinds.iter().any(|kind| kind.text() == Some("example"))
}

/// The executables that cargo's messages tell of.
fn artifacts(
    workspace: &Workspace,
    messages: &str,
    wanted: fn(&Value) -> bool,
) -> Result<Vec<Artifact>> {
    let mut found = Vec::new();
    for line in messages.lines() {
        let message = Value::parse(line)?;
        if let Some(artifact) = Some(&message)
            .filter(|message| wanted(message))
            .and_then(|message| artifact(workspace, message))
        {
            found.push(artifact);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn artifact(workspace: &Workspace, message: &Value) -> Option<Artifact> {
    let executable = message.field("executable").text()?;
    let manifest = Path::new(message.field("manifest_path").text()?);
    let target = message.field("target").field("name").text()?;
    let directory = manifest.parent()?;
    let package = workspace
        .packages
        .iter()
        .find(|package| package.directory == directory)?;
    Some(Artifact {
        name: format!("{} {target}", package.name),
        executable: executable.into(),
        package_directory: directory.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_executables_count() {
        let workspace = Workspace {
            packages: vec![Package {
                name: "cofferdam-dns".into(),
                directory: "/w/dns".into(),
                features: vec![],
                dependencies: vec![],
                default_member: true,
            }],
            target_directory: "/w/target".into(),
        };
        let line = |target: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/dns/Cargo.toml","executable":{executable},
                "target":{{"name":"{target}","kind":["test"]}},"profile":{{"test":{test}}}}}"#
            )
            .replace('\n', "")
        };
        let messages = [
            line("root", true, "\"/w/t/root-1\""),
            line("cofferdam_dns", false, "null"),
            line("serve", false, "\"/w/t/serve\""),
            r#"{"reason":"build-finished","success":true}"#.into(),
        ];
        let found = artifacts(&workspace, &messages.join("\n"), is_test).unwrap();
        let expected = Artifact {
            name: "cofferdam-dns root".into(),
            executable: "/w/t/root-1".into(),
            package_directory: "/w/dns".into(),
        };
        assert_eq!(found, [expected]);
    }
}
