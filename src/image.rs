//! What is to be run: what the caller says, and where that is nothing, an image.

use std::ffi::OsString;
use std::path::PathBuf;

use cofferdam_namespaces::{Command, User};
use cofferdam_overlay::ImageConfig;

use crate::error::{Result, Subject};

/// What the caller said of the program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) command: Option<OsString>,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) user: Option<User>,
}

impl Program {
    /// Has `command` run it.
    pub(crate) fn of(
        self,
        subject: &Subject,
        image: Option<&ImageConfig>,
        mut command: Command,
    ) -> Result<Command> {
        let none = ImageConfig::default();
        let image = image.unwrap_or(&none);
        for variable in &image.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            command = command.env(name, value);
        }
        for (name, value) in self.env {
            command = command.env(name, value);
        }
        let workdir = self
            .workdir
            .or_else(|| stated(&image.working_dir).map(PathBuf::from));
        if let Some(workdir) = workdir {
            command = command.workdir(workdir);
        }
        let user = match (self.user, stated(&image.user)) {
            (None, Some(text)) => {
                let failed = subject.failed("read the image's user");
                Some(text.parse().map_err(failed)?)
            }
            (user, _) => user,
        };
        if let Some(user) = user {
            command = command.user(user);
        }
        let mut run = arguments(self.command, self.args, image).into_iter();
        command = command.program(run.next().unwrap_or_default());
        Ok(command.args(run))
    }
}

fn stated(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// The program and its arguments, as `docker run --entrypoint COMMAND IMAGE ARGS` has them.
fn arguments(command: Option<OsString>, args: Vec<OsString>, image: &ImageConfig) -> Vec<OsString> {
    let own = |text: &Vec<String>| text.iter().map(OsString::from).collect::<Vec<_>>();
    let (mut run, args) = match command {
        Some(command) => (vec![command], args),
        None if args.is_empty() => (own(&image.entrypoint), own(&image.command)),
        None => (own(&image.entrypoint), args),
    };
    run.extend(args);
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_goes_before_the_image_as_with_docker() {
        let mut image = ImageConfig::default();
        image.entrypoint = vec!["/entry".into()];
        image.command = vec!["a".into(), "b".into()];
        let run = |command: Option<&str>, args: &[&str]| {
            let args = args.iter().map(OsString::from).collect();
            let run = arguments(command.map(OsString::from), args, &image);
            run.join(" ".as_ref()).into_string().unwrap()
        };
        assert_eq!(run(None, &[]), "/entry a b");
        assert_eq!(run(None, &["c"]), "/entry c");
        assert_eq!(run(Some("/x"), &[]), "/x");
        assert_eq!(run(Some("/x"), &["c"]), "/x c");
    }
}
