//! Containers are started, and end.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use cofferdam::{
    Connection, ContainerBuilder, Mount, Reference, Rootfs, Running, Secret, Stdio, Volume, reap_in,
};

use super::worker::Worker;
use super::world::Member;

/// There are no more at a time.
const MOST: usize = 24;
/// Hears that it is to end, and ends with 7. Where what it waits for is killed it ends by itself.
const UNTIL_TOLD: &str = "trap 'exit 7' TERM; sleep 1000 & wait; exit 129";
const DEAF: &str = "exec sleep 1000";
const BRIEF: &str = "sleep 0.1; exit 3";
const LONG: Duration = Duration::from_secs(10);

impl Worker<'_> {
    pub(super) fn start(&mut self) {
        if self.world.containers() >= MOST {
            return self.remove();
        }
        let name = match self.random.chance(10) {
            true => "shared".to_owned(),
            false => format!("c{}", self.world.number()),
        };
        let (script, code) = match self.random.below(10) {
            0 => (DEAF, None),
            1 => (BRIEF, Some(3)),
            _ => (UNTIL_TOLD, Some(7)),
        };
        let builder = self.world.container(&name);
        let (builder, layered) = self.with_root(builder.command("sh").args(["-c", script]));
        let builder = self.with_limits(builder);
        let (builder, alone) = self.with_networks(builder);
        let builder = self.with_mounts(builder);
        let builder = self.with_streams(builder);
        if let Some(running) = self.tally.check("start", builder.start()) {
            self.world.add(Member {
                running,
                code,
                alone,
                layered,
            });
        }
    }

    fn with_root(&mut self, builder: ContainerBuilder) -> (ContainerBuilder, bool) {
        let root = self.world.root();
        let rootfs = match self.random.below(20) {
            0..=5 => return (builder.rootfs(Rootfs::layer(self.world.base.clone())), true),
            6..=7 => Rootfs::layers([self.world.layer(), root]),
            8 => Rootfs::directory(root).read_only(),
            9 => match self.world.upper(self.random.below(3)) {
                Ok([upper, work]) => Rootfs::layers([root]).upperdir(upper, work),
                Err(error) => {
                    self.tally.fail(format!("make an upper: {error}"));
                    Rootfs::layers([root])
                }
            },
            10 => Rootfs::layers([root]).read_only(),
            11 => Rootfs::layers([root]).scratch_size(8 << 20),
            _ => Rootfs::layers([root]),
        };
        (builder.rootfs(rootfs), false)
    }

    fn with_limits(&mut self, mut builder: ContainerBuilder) -> ContainerBuilder {
        if self.random.chance(50) {
            builder = builder.memory_max((32 + self.random.below(32)) << 20);
        }
        if self.random.chance(50) {
            builder = builder.pids_max(16);
        }
        if self.random.chance(30) {
            builder = builder.cpus(0.5);
        }
        builder
    }

    /// And whether it has none.
    fn with_networks(&mut self, mut builder: ContainerBuilder) -> (ContainerBuilder, bool) {
        let way = self.random.below(20);
        if way < 3 {
            return (builder, true);
        }
        if way == 3 {
            return (builder.no_network(), false);
        }
        if way == 4 {
            let other = self.world.share(self.random.below(1000));
            if let Some(other) = other.filter(|other| other.running.address().is_some()) {
                return (builder.network_of(&other.running), false);
            }
        }
        let first = self.random.below(1000);
        let mut any = false;
        for at in 0..=self.random.below(2) {
            // The second is another, if there is one.
            let Some(network) = self.world.network(first + at) else {
                break;
            };
            if at > 0
                && self
                    .world
                    .network(first)
                    .is_none_or(|n| n.name() == network.name())
            {
                break;
            }
            let connection = Connection::to(&network).alias("any");
            builder = builder.network(connection);
            any |= !network.is_internal();
        }
        if any && self.random.chance(40) {
            builder = builder.publish(self.port());
        }
        let none = self.world.network(first).is_none();
        (builder, none)
    }

    fn with_mounts(&mut self, mut builder: ContainerBuilder) -> ContainerBuilder {
        if self.random.chance(25) {
            let name = format!("v{}", self.random.below(5));
            if let Some(volume) = self
                .tally
                .check("name a volume", self.world.volumes.volume(name))
            {
                let volume = match self.random.chance(20) {
                    true => volume.read_only(),
                    false => volume,
                };
                builder = builder.volume(volume, "/data");
            }
        }
        match self.random.below(8) {
            0 => builder.volume(Volume::tmpfs(1 << 20), "/extra"),
            1 => builder.volume(self.world.root().join("data"), "/extra"),
            2 => builder.mount(Mount::file("/etc/told", "told")),
            3 => builder.secret(Secret::new("word", "secret")),
            _ => builder,
        }
    }

    fn with_streams(&mut self, builder: ContainerBuilder) -> ContainerBuilder {
        match self.random.below(10) {
            0 => builder.terminal(24, 80),
            1 => builder.stdout(Stdio::piped()).stderr(Stdio::piped()),
            2 => builder.init(true),
            3 => builder.env("GREETING", "hello").hostname("other"),
            _ => builder,
        }
    }

    pub(super) fn start_nothing(&mut self) {
        let builder = self.world.container("nothing").command("/no/program");
        let builder = self.with_limits(builder);
        let (builder, _) = self.with_networks(builder);
        let builder = self.with_mounts(builder);
        // It may also fail before that.
        if let Some(running) = self.tally.check("start nothing", builder.start()) {
            self.tally
                .fail(format!("{} runs no program", running.name()));
        }
    }

    pub(super) fn output(&mut self) {
        let builder = self.world.container("speaker");
        let builder =
            self.with_limits(builder.command("sh").args(["-c", "echo out; echo err >&2"]));
        let builder = builder.stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = self.tally.check("start", builder.start());
        let output = running.and_then(|running| self.tally.check("output", running.output()));
        if let Some(output) = output {
            let said = (&*output.stdout, &*output.stderr, output.status.code());
            let right = said == (b"out\n", b"err\n", Some(0));
            self.tally.expect(right, || format!("output: {output:?}"));
        }
    }

    pub(super) fn talk(&mut self) {
        let builder = self.world.container("talker").command("sh");
        let builder = builder.args(["-c", "read line; echo got $line; exit 4"]);
        let builder = builder.stdin(Stdio::piped()).stdout(Stdio::piped());
        let Some(mut running) = self.tally.check("start", builder.start()) else {
            return;
        };
        let (Some(mut stdin), Some(stdout)) = (running.take_stdin(), running.take_stdout()) else {
            return self.tally.fail("talk: it has no pipes");
        };
        let mut line = String::new();
        let said = stdin.write_all(b"it\n");
        let said = said.and_then(|()| BufReader::new(stdout).read_line(&mut line));
        let right = said.is_ok() && line == "got it\n";
        self.tally
            .expect(right, || format!("talk: {said:?}: {line:?}"));
        if let Some(status) = self.tally.check("wait", running.wait()) {
            self.tally
                .expect(status.code() == Some(4), || format!("talk: {status}"));
        }
        self.tally.check("remove", running.remove());
    }

    /// One that nobody else has. Where somebody has, that one's end is the container's.
    fn alone(&mut self) -> Option<Member> {
        let at = self.random.below(1000);
        Arc::into_inner(self.world.take(at)?)
    }

    pub(super) fn stop(&mut self) {
        let Some(member) = self.alone() else {
            return;
        };
        if let Some(status) = self.tally.check("stop", member.running.stop(LONG)) {
            let killed = status.signal() == Some(9);
            // An init of its own makes codes of signals.
            let signalled = status.code().is_some_and(|code| code > 128);
            let told = member.code.is_none_or(|code| status.code() == Some(code));
            // The shell's own, where it may have no process more.
            let right = killed || signalled || told || status.code() == Some(2);
            self.tally.expect(right, || {
                format!("stop: it ended by {status}, not {:?}", member.code)
            });
        }
    }

    pub(super) fn stop_with(&mut self) {
        let signal = self.random.one_of(&[1, 2, 9, 15, 10]).unwrap_or(9);
        let time = Duration::from_millis(self.random.below(200));
        if let Some(member) = self.alone() {
            self.tally
                .check("stop with", member.running.stop_with(signal, time));
        }
    }

    pub(super) fn remove(&mut self) {
        if let Some(member) = self.alone() {
            self.tally.check("remove", member.running.remove());
        }
    }

    pub(super) fn remove_paused(&mut self) {
        let stopped = self.random.chance(50);
        if let Some(Member { running, .. }) = self.alone() {
            self.tally.check("pause", running.pause());
            if stopped {
                self.tally.check("stop paused", running.stop(LONG));
            } else {
                self.tally.check("remove paused", running.remove());
            }
        }
    }

    pub(super) fn drop(&mut self) {
        let at = self.random.below(1000);
        drop(self.world.take(at));
    }

    /// It lives on, and its reference goes through text.
    pub(super) fn detach(&mut self) {
        let Some(member) = self.alone() else {
            return;
        };
        if !member.alone {
            // Its network would be there until the end.
            return self.world.add(member);
        }
        let reference = self.tally.check("detach", member.running.detach());
        let reference = reference.map(|reference| reference.to_string().parse::<Reference>());
        let parsed = reference.and_then(|reference| self.tally.check("parse", reference));
        if let Some(reference) = parsed {
            super::tally::lock(&self.world.detached).push(reference);
        }
    }

    pub(super) fn attach(&mut self) {
        let Some(reference) = super::tally::lock(&self.world.detached).pop() else {
            return;
        };
        let running = self.tally.check("attach", Running::attach(&reference));
        if let Some(running) = running {
            let right = running.pid() == reference.pid();
            self.tally
                .expect(right, || "attach: another pid".to_owned());
            self.world.add(Member {
                running,
                code: None,
                alone: true,
                layered: false,
            });
        }
    }

    /// Nothing but what was detached and has ended can be found.
    pub(super) fn reap(&mut self) {
        let Some(reaped) = self.tally.check("reap", reap_in(self.world.runtime())) else {
            return;
        };
        let kept = |removed: &cofferdam::Removed| {
            use cofferdam::Removed;
            !matches!(removed, Removed::Cgroup(_) | Removed::Record(_))
        };
        let wrong = reaped.removed.iter().any(kept) || !reaped.failed.is_empty();
        self.tally.expect(!wrong, || format!("reap: {reaped:?}"));
    }
}
