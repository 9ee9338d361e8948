//! Containers run, and others look at them meanwhile.

use std::io::Read;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cofferdam::{Event, Limits};

use super::worker::Worker;
use super::world::Member;

const SOON: Duration = Duration::from_secs(10);
/// Takes more memory than any limit, a little at a time.
const GREEDY: &str = "x=0123456789; while :; do x=$x$x; done";
const MANY: &str = "i=0; while [ $i -lt 20 ]; do sleep 0.01 & i=$((i+1)); done; wait; exit 0";

impl Worker<'_> {
    fn member(&mut self) -> Option<Arc<Member>> {
        let at = self.random.below(1000);
        self.world.share(at)
    }

    fn has_ended(&self, member: &Member) -> bool {
        let ended = self.tally.check("try wait", member.running.try_wait());
        !matches!(ended, Some(None))
    }

    /// Or would have ended a moment later: that it was killed is told by its cgroup first.
    fn ends(&self, member: &Member) -> bool {
        let timeout = Duration::from_secs(5);
        let ended = self
            .tally
            .check("wait", member.running.wait_timeout(timeout));
        !matches!(ended, Some(None))
    }

    pub(super) fn exec_output(&mut self) {
        let Some(member) = self.member() else {
            return;
        };
        let exec = member.running.exec("sh").env("WORD", "word");
        let exec = exec.args(["-c", "echo $WORD; exit 5"]);
        if let Some(output) = self.tally.check("exec", exec.output()) {
            let right = output.stdout == b"word\n" && output.status.code() == Some(5);
            let wrong = || format!("exec output: {output:?}");
            self.tally.expect(right || self.may_fail(&member), wrong);
        }
    }

    /// Others may have killed it, or used up its memory or its processes.
    fn may_fail(&self, member: &Member) -> bool {
        let limited = member
            .running
            .stats()
            .is_ok_and(|stats| stats.usage.memory.is_some());
        limited || self.ends(member)
    }

    pub(super) fn exec_and_kill(&mut self) {
        let Some(member) = self.member() else {
            return;
        };
        let exec = member.running.exec("sleep").arg("100");
        let Some(process) = self.tally.check("exec", exec.spawn()) else {
            return;
        };
        thread::sleep(Duration::from_millis(self.random.below(20)));
        if self.random.chance(50) {
            // Its Drop kills it.
            return;
        }
        self.tally.check("kill a process", process.kill());
        let status = self.tally.check("wait", process.wait_timeout(SOON));
        let ended = !matches!(status, Some(None));
        self.tally
            .expect(ended, || "exec and kill: it does not end".to_owned());
    }

    pub(super) fn exec_on_a_terminal(&mut self) {
        let Some(member) = self.member() else {
            return;
        };
        let exec = member.running.exec("sh").terminal(24, 80);
        let exec = exec.args(["-c", "echo shown"]);
        let Some(mut process) = self.tally.check("exec", exec.spawn()) else {
            return;
        };
        let mut shown = String::new();
        let read = process
            .take_terminal()
            .map(|mut t| t.read_to_string(&mut shown));
        let right = shown.contains("shown") && matches!(read, Some(Ok(_)));
        self.tally.expect(right || self.may_fail(&member), || {
            format!("exec on a terminal: {read:?} {shown:?}")
        });
        self.tally.check("wait", process.wait());
    }

    pub(super) fn exec_many(&mut self) {
        if let Some(member) = self.member() {
            let exec = member.running.exec("sh").args(["-c", MANY]);
            self.tally.check("exec", exec.output());
        }
    }

    pub(super) fn exec_without_memory(&mut self) {
        let Some(member) = self.member() else {
            return;
        };
        let stats = self.tally.check("stats", member.running.stats());
        if stats.is_none_or(|stats| stats.usage.memory.is_none()) {
            return;
        }
        let exec = member.running.exec("sh").args(["-c", GREEDY]);
        if let Some(process) = self.tally.check("exec", exec.spawn()) {
            self.tally
                .check("wait", process.wait_timeout(Duration::from_secs(2)));
            self.tally.check("oom kills", member.running.oom_kills());
        }
    }

    pub(super) fn exec_and_leave(&mut self) {
        if let Some(member) = self.member() {
            let exec = member.running.exec("sleep").arg("0.3");
            if let Some(process) = self.tally.check("exec", exec.spawn()) {
                process.persist();
            }
        }
    }

    pub(super) fn signal(&mut self) {
        let signal = self.random.one_of(&[1, 10, 12, 15, 17, 28]).unwrap_or(28);
        if let Some(member) = self.member() {
            self.tally.check("signal", member.running.signal(signal));
        }
    }

    pub(super) fn kill(&mut self) {
        if let Some(member) = self.member() {
            self.tally.check("kill", member.running.kill());
            let ended = self.ends(&member);
            self.tally
                .expect(ended, || "kill: it does not end".to_owned());
        }
    }

    pub(super) fn pause(&mut self) {
        let Some(member) = self.member() else {
            return;
        };
        let paused = self.tally.check("pause", member.running.pause());
        if paused.is_some() {
            thread::sleep(Duration::from_millis(self.random.below(10)));
            self.tally.check("is paused", member.running.is_paused());
        }
        self.tally.check("resume", member.running.resume());
    }

    pub(super) fn top(&mut self) {
        let Some(member) = self.member() else {
            return;
        };
        let ended = self.has_ended(&member);
        if let Some(top) = self.tally.check("top", member.running.top()) {
            let right = ended || !top.is_empty() || self.ends(&member);
            self.tally
                .expect(right, || "top: a container that runs has none".to_owned());
        }
    }

    pub(super) fn stats(&mut self) {
        if let Some(member) = self.member() {
            for _ in 0..=self.random.below(3) {
                self.tally.check("stats", member.running.stats());
            }
        }
    }

    pub(super) fn update(&mut self) {
        let Some(member) = self.member() else {
            return;
        };
        let mut limits = Limits::new().best_effort();
        if self.random.chance(50) {
            limits = limits.pids_max(u32::try_from(8 + self.random.below(24)).unwrap_or(8));
        }
        if self.random.chance(50) {
            limits = limits.cpus(1.0);
        }
        self.tally.check("update", member.running.update(&limits));
    }

    pub(super) fn events(&mut self) {
        let Some(member) = self.member() else {
            return;
        };
        let Some(mut events) = self.tally.check("events", member.running.events()) else {
            return;
        };
        let ends = self.random.chance(20);
        if ends {
            self.tally.check("kill", member.running.kill());
        }
        let time = match ends {
            true => SOON,
            false => Duration::from_millis(self.random.below(30)),
        };
        while let Some(Some(event)) = self.tally.check("next event", events.next(time)) {
            if matches!(event, Event::Exited(_)) {
                return;
            }
            if self.tally.is_over() && !ends {
                return;
            }
        }
        self.tally
            .expect(!ends, || "events: its end is not told".to_owned());
    }

    pub(super) fn wait(&mut self) {
        if let Some(member) = self.member() {
            let time = Duration::from_millis(self.random.below(50));
            self.tally.check("wait", member.running.wait_timeout(time));
            self.tally.check("try wait", member.running.try_wait());
        }
    }
}
