//! A second program for where a first one runs.

use std::ffi::OsString;

use crate::command::{Command, Session};
use crate::namespace::Namespaces;
use crate::stdio::Stdio;
use crate::user::User;

impl Command {
    /// Another program with this one's environment, workdir, user, capabilities, filters and attributes, to
    /// [`enter`](Self::enter) what this one was started in. What belongs to that start alone it has not: arguments, streams,
    /// fds, terminal, root, mounts, names, sysctls, id map, cgroup.
    pub fn beside(&self, program: impl Into<OsString>) -> Command {
        let mut command = self.clone();
        command.program = program.into();
        command.args = Vec::new();
        command.streams = std::array::from_fn(|_| Stdio::null());
        command.namespaces = Namespaces::none();
        if command.id_map.take().is_some() && command.user.is_none() {
            command.user = Some(User::id(0, 0));
        }
        command.root = None;
        command.mounts = Vec::new();
        (command.hostname, command.domainname) = (None, None);
        command.sysctls = Vec::new();
        command.cgroup = None;
        command.procs = Vec::new();
        command.fds = Vec::new();
        (command.init, command.dies_with_caller) = (false, false);
        command.session = Session::New;
        command.terminal = None;
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Mount, RootFs};

    #[test]
    fn what_belongs_to_one_start_is_left_out_and_the_rest_kept() {
        let first = Command::new("/bin/app")
            .arg("x")
            .env("A", "1")
            .workdir("/data")
            .user(User::id(7, 8))
            .root(RootFs::directory("/srv"))
            .mount(Mount::tmpfs("/tmp", 1))
            .hostname("box")
            .init(true)
            .die_with_caller(true);
        let second = first.beside("/bin/id");
        assert!(second.validate().is_ok());
        assert!(second.root.is_none() && second.mounts.is_empty() && second.args.is_empty());
        assert_eq!(second.env, first.env);
        assert_eq!(second.workdir, first.workdir);
        assert!(second.user.is_some() && !second.has_init());
    }
}
