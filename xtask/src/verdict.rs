//! What the VM said of itself.

use crate::Result;

/// The marks that init prints, and the sums of libtest.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    started: usize,
    /// Exit status and name.
    ended: Vec<(String, String)>,
    /// Tests that ran, whatever their result.
    tests: usize,
    done: bool,
}

impl Verdict {
    pub(crate) fn read(printed: &str) -> Self {
        let mut verdict = Verdict::default();
        for line in printed.lines().map(str::trim_end) {
            if let Some(mark) = line.strip_prefix("vm: ") {
                verdict.mark(mark);
            } else if let Some(sums) = line.strip_prefix("test result: ") {
                verdict.tests += count(sums, "passed") + count(sums, "failed");
            }
        }
        verdict
    }

    fn mark(&mut self, mark: &str) {
        if mark == "done" {
            self.done = true;
        } else if mark.starts_with("run ") {
            self.started += 1;
        } else if let Some((status, name)) = mark
            .strip_prefix("exit ")
            .and_then(|rest| rest.split_once(' '))
        {
            self.ended.push((status.to_owned(), name.to_owned()));
        }
    }

    /// Whether all `programs` ran to their end without a failure.
    pub(crate) fn complete(&self, programs: usize) -> bool {
        self.done && self.started == programs && self.ended.len() == programs
    }

    /// How many tests ran, if none failed and there were any.
    pub(crate) fn tests(&self) -> Result<usize> {
        self.succeeded()?;
        match self.tests {
            0 => Err("vm: no test ran".into()),
            tests => Ok(tests),
        }
    }

    /// The exit status of the last program; above 128 that of a signal, as in a shell.
    pub(crate) fn status(&self) -> u8 {
        let last = self.ended.last();
        last.and_then(|(status, _)| status.parse().ok())
            .unwrap_or(u8::MAX)
    }

    pub(crate) fn succeeded(&self) -> Result<()> {
        let failed = self.ended.iter().filter(|(status, _)| status != "0");
        let failed: Vec<String> = failed
            .map(|(status, name)| format!("{name}: exit status {status}"))
            .collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(format!("vm: {}", failed.join("; ")).into())
        }
    }
}

/// The number before `what` in `ok. 3 passed; 0 failed; 0 ignored; ...`.
fn count(sums: &str, what: &str) -> usize {
    let words: Vec<&str> = sums.split([' ', ';']).collect();
    let place = words.iter().position(|word| *word == what);
    place
        .and_then(|place| words.get(place.checked_sub(1)?)?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "vm: run a root\ntest x ... ok\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\r\n";

    #[test]
    fn a_whole_run_counts_its_tests() {
        let verdict = Verdict::read(&format!("{RUN}\nvm: exit 0 a root\nvm: done\n"));
        assert!(verdict.complete(1) && !verdict.complete(2));
        assert_eq!(verdict.tests().unwrap(), 2);
    }

    #[test]
    fn a_run_without_tests_is_no_success() {
        let verdict = Verdict::read("vm: run a\nvm: exit 0 a\nvm: done\n");
        assert!(verdict.tests().is_err());
        assert!(verdict.succeeded().is_ok());
    }

    #[test]
    fn a_failure_is_named() {
        let text = format!("{RUN}vm: exit 101 a root\nvm: done\n");
        let error = Verdict::read(&text).tests().unwrap_err();
        assert_eq!(error.to_string(), "vm: a root: exit status 101");
        assert_eq!(Verdict::read(&text).status(), 101);
    }

    #[test]
    fn a_machine_that_stops_half_way_is_not_complete() {
        assert!(!Verdict::read(RUN).complete(1));
        assert!(!Verdict::read(&format!("{RUN}vm: exit 0 a root\n")).complete(1));
        assert!(!Verdict::read("").complete(0));
    }
}
