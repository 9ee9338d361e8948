//! The workspace as cargo sees it.

use std::path::PathBuf;

use crate::Result;
use crate::command::{cargo, output};
use crate::json::Value;

#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) packages: Vec<Package>,
    pub(crate) target_directory: PathBuf,
}

#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    /// Without `default`.
    pub(crate) features: Vec<String>,
    /// Names of every dependency: normal, dev and build.
    pub(crate) dependencies: Vec<String>,
    /// Whether a plain cargo command means it too.
    pub(crate) default_member: bool,
}

impl Workspace {
    pub(crate) fn read() -> Result<Self> {
        let text = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        Workspace::parse(&text)
    }

    fn parse(metadata: &str) -> Result<Self> {
        let metadata = Value::parse(metadata)?;
        let defaults = metadata.field("workspace_default_members").items();
        let packages = metadata.field("packages").items().iter();
        Ok(Workspace {
            packages: packages
                .map(|package| Package::read(package, defaults))
                .collect::<Option<_>>()
                .ok_or("cargo metadata: a package without name or manifest")?,
            target_directory: metadata
                .field("target_directory")
                .text()
                .ok_or("cargo metadata: no target directory")?
                .into(),
        })
    }
}

impl Package {
    fn read(package: &Value, defaults: &[Value]) -> Option<Self> {
        let mut directory = PathBuf::from(package.field("manifest_path").text()?);
        directory.pop();
        let dependencies = package.field("dependencies").items().iter();
        Some(Package {
            name: package.field("name").text()?.to_owned(),
            directory,
            features: package
                .field("features")
                .keys()
                .filter(|name| *name != "default")
                .map(str::to_owned)
                .collect(),
            dependencies: dependencies
                .filter_map(|dependency| dependency.field("name").text())
                .map(str::to_owned)
                .collect(),
            default_member: defaults.contains(package.field("id")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read() {
        let workspace = Workspace::parse(
            r#"{"packages":[
                {"name":"a","id":"path+a#1","manifest_path":"/w/a/Cargo.toml","features":{"default":["x"],"x":[]},
                 "dependencies":[{"name":"libc","kind":null},{"name":"b","kind":"dev"}]},
                {"name":"b","id":"path+b#1","manifest_path":"/w/b/Cargo.toml","features":{},"dependencies":[]}],
                "workspace_default_members":["path+a#1"],"target_directory":"/w/target"}"#,
        )
        .unwrap();
        let [a, b] = &workspace.packages[..] else {
            panic!("{workspace:?}")
        };
        assert_eq!(a.features, ["x"]);
        assert_eq!(a.dependencies, ["libc", "b"]);
        assert_eq!(a.directory, PathBuf::from("/w/a"));
        assert!(a.default_member && !b.default_member);
    }
}
