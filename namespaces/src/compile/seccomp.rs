//! The op that puts the system call filter into force.

use super::Compiler;
use crate::program::{Arg, Word, call};
use crate::seccomp::Seccomp;

impl Compiler<'_> {
    /// From here on the filter holds: what is left to do is execve(2), or to say why it failed.
    pub(super) fn load_seccomp(&mut self) {
        self.load("load the seccomp filter", &self.command.seccomp);
    }

    /// What a reaper does and nothing else, whatever the program may trace it into.
    pub(super) fn load_init_filter(&mut self) {
        self.load("load the seccomp filter of the init", &Seccomp::of_init());
    }

    fn load(&mut self, step: &'static str, seccomp: &Seccomp) {
        let filter = seccomp.code(self.command.capabilities);
        // `validate` has refused what does not compile. Should it get here all the same, then no program starts: the kernel does
        // not take a filter without instructions.
        let Some(code) = filter.unwrap_or_else(|_| Some([].into())) else {
            return;
        };
        let words: Vec<_> = code.iter().map(|one| Word::Int(one.word())).collect();
        let filter = self.program.words(&words);
        // A struct sock_fprog: a u16 of how many, then the address.
        let [a, b] = u16::try_from(code.len()).unwrap_or(0).to_ne_bytes();
        let length = u64::from_ne_bytes([a, b, 0, 0, 0, 0, 0, 0]);
        let program = self.program.words(&[Word::Int(length), Word::Ptr(filter)]);
        let args = [Arg::Int(SECCOMP_SET_MODE_FILTER), Arg::Int(0), program];
        self.program.op(call!(SYS_seccomp), args, step);
    }
}

const SECCOMP_SET_MODE_FILTER: u64 = 1;

#[cfg(test)]
mod tests {
    use crate::compile::{Prepared, compile};
    use crate::{Action, Command, Filter, Seccomp};

    fn lines(command: &Command) -> Vec<String> {
        let text = compile(command, &Prepared::default()).to_string();
        text.lines().map(|line| line[4..].to_owned()).collect()
    }

    #[test]
    fn the_filter_is_loaded_after_all_else_but_execve() {
        let lines = lines(&Command::new("app").env("PATH", "/a:/b"));
        let is_load = |line: &String| line.ends_with("# load the seccomp filter");
        let at = lines.iter().position(is_load).unwrap();
        assert!(lines[at].starts_with("seccomp(1, 0, &"), "{}", lines[at]);
        assert!(
            lines[at - 1].ends_with("# say that all is set up"),
            "{lines:#?}"
        );
        assert!(
            lines[at + 1..]
                .iter()
                .all(|line| line.starts_with("execve(")),
            "{lines:#?}"
        );
        assert_eq!(lines.len() - at, 3);
    }

    #[test]
    fn without_a_filter_there_is_nothing_to_load() {
        let lines = lines(&Command::new("/app").seccomp(Seccomp::unconfined()));
        assert!(
            lines.iter().all(|line| !line.contains("seccomp")),
            "{lines:#?}"
        );
    }

    #[test]
    fn a_filter_that_does_not_compile_is_not_left_out() {
        let broken = Command::new("/app").seccomp(Filter::new(Action::Errno(-1)));
        assert!(
            lines(&broken)
                .iter()
                .any(|line| line.starts_with("seccomp("))
        );
    }
}
