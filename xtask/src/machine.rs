//! QEMU: one boot, what it prints, and why it ended.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::arch::Arch;

/// What the kernel or process 1 says at its end. A kernel that panics resets the machine, which ends QEMU; a kernel that only
/// complains, and an init that stands still, would take all the time there is.
const DEATHS: &[&str] = &[
    "Kernel panic",
    "] BUG: ",
    "Oops: ",
    "Attempted to kill init",
    "Freezing execution",
];

/// What a slow emulator on a busy machine is told, with no fault of the kernel's.
const LOCKUP: &str = "workqueue lockup";

/// How often the console is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// For the rest of what a dying kernel has to say.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where what the VM prints goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Output {
    /// All of it to stdout.
    Together,
    /// The lines of init to stderr, so that stdout is the program's alone.
    Apart,
}

#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) arch: Arch,
    pub(crate) accel: &'a str,
    /// In seconds.
    pub(crate) timeout: u32,
    pub(crate) kernel: &'a Path,
    /// More for the kernel's command line.
    pub(crate) append: &'a str,
    /// For the files of this boot.
    pub(crate) directory: &'a Path,
}

impl Machine<'_> {
    /// Runs it until it ends, with the time it has; gives how QEMU ended and what the programs printed.
    pub(crate) fn boot(&self, image: &[u8], output: Output) -> Result<(ExitStatus, String)> {
        fs::write(self.initramfs(), image)?;
        let mut qemu = self.command(image.len()).spawn()?;
        let stdout = qemu.stdout.take();
        let printed = self.watched(qemu.id(), || match (stdout, output) {
            (None, _) => Ok(String::new()),
            (Some(from), Output::Together) => pass_on(from),
            (Some(from), Output::Apart) => pass_on_apart(from),
        })?;
        Ok((qemu.wait()?, printed))
    }

    /// Does the work, which ends with QEMU, and ends QEMU when the console tells of a death.
    fn watched<T>(&self, qemu: u32, work: impl FnOnce() -> T) -> T {
        let console = self.console();
        let (ended, end) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    let text = fs::read(&console).unwrap_or_default();
                    if death(&String::from_utf8_lossy(&text)).is_none() {
                        continue;
                    }
                    // Not reaped before the work is done: the number is still that of our child.
                    if end.recv_timeout(LAST_WORDS) == Err(RecvTimeoutError::Timeout) {
                        terminate(qemu);
                    }
                    return;
                }
            });
            let done = work();
            drop(ended);
            done
        })
    }

    fn command(&self, image_size: usize) -> Command {
        let memory = 1024 + 2 * (image_size >> 20);
        let (console, output) = self.arch.ports();
        // Not a timer of ours: with us killed, the machine still ends.
        let mut command = Command::new("timeout");
        command
            .args(["--foreground", "--signal=KILL"])
            .args([&self.timeout.to_string(), &self.arch.qemu()])
            .args(self.arch.machine())
            .args(["-nic", "none", "-display", "none", "-monitor", "none"])
            .args(["-accel", self.accel, "-smp", "2"])
            .args(["-m", &format!("{memory}M"), "-no-reboot"])
            .arg("-serial")
            .arg(format!("file:{}", self.console().display()))
            .args(["-chardev", "stdio,id=output"])
            .args(self.arch.second_port())
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs())
            .arg("-append")
            // What the kernel does not know becomes a variable of init's environment.
            .arg(format!(
                "console={console} output=/dev/{output} panic=-1 oops=panic quiet {}",
                self.append
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    fn initramfs(&self) -> PathBuf {
        self.directory.join("initramfs")
    }

    /// What the kernel prints.
    fn console(&self) -> PathBuf {
        self.directory.join("console")
    }

    /// Why there is no verdict.
    pub(crate) fn post_mortem(&self, status: ExitStatus) -> String {
        let console = fs::read(self.console()).unwrap_or_default();
        let console = without_escapes(&String::from_utf8_lossy(&console));
        let lines: Vec<&str> = console.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        let what = if let Some(line) = death(&console) {
            format!("the kernel or init died: {}", line.trim())
        } else if status.success() {
            "the machine ended without a verdict".to_owned()
        } else if status.code().is_none_or(|code| code == 137) {
            format!("no end within {} s", self.timeout)
        } else {
            format!("{}: {status}", self.arch.qemu())
        };
        format!("{tail}\nvm: {what}; above is the end of the kernel's console")
    }
}

/// The first line of the console that tells of a death.
fn death(console: &str) -> Option<&str> {
    console
        .lines()
        .find(|line| DEATHS.iter().any(|text| line.contains(text)) && !line.contains(LOCKUP))
}

/// timeout(1) passes the signal on to QEMU.
fn terminate(pid: u32) {
    let mut kill = Command::new("sh");
    kill.args(["-c", &format!("kill -TERM {pid}")]);
    // Without it the machine ends when its time does.
    let _signalled = kill.status().is_ok_and(|status| status.success());
}

/// Copies to our output as it comes, so that a machine that hangs shows where.
fn pass_on(mut from: impl Read) -> Result<String> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(String::from_utf8_lossy(&all).into_owned());
        }
        all.extend_from_slice(&buffer[..read]);
        let mut out = std::io::stdout().lock();
        out.write_all(&buffer[..read])?;
        out.flush()?;
    }
}

/// The same line by line, those of init to stderr.
fn pass_on_apart(from: impl Read) -> Result<String> {
    let mut from = BufReader::new(from);
    let mut all = Vec::new();
    loop {
        let start = all.len();
        if from.read_until(b'\n', &mut all)? == 0 {
            return Ok(String::from_utf8_lossy(&all).into_owned());
        }
        let line = &all[start..];
        if line.starts_with(b"vm: ") {
            std::io::stderr().write_all(line)?;
        } else {
            let mut out = std::io::stdout().lock();
            out.write_all(line)?;
            out.flush()?;
        }
    }
}

/// The text without what the firmware says to a terminal: clear it, reset it.
fn without_escapes(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = if part.starts_with('[') {
            part.find(char::is_alphabetic)
        } else {
            part.find(|_| true)
        };
        kept.push_str(&part[end.map_or(part.len(), |end| end + 1)..]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_console_cannot_clear_the_terminal() {
        let text = "ROM..\x1bc\x1b[?7l\x1b[2J\x1b[0m[    3.4] sysrq: Resetting\n\x1b";
        assert_eq!(without_escapes(text), "ROM..[    3.4] sysrq: Resetting\n");
    }

    #[test]
    fn a_death_is_told_from_what_a_slow_machine_is_told() {
        for line in [
            "[    1.3] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
            "[    3.0] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[    9.1] BUG: scheduling while atomic: swapper/0/1/0x00000002",
            "[   12.7] systemd[1]: Freezing execution.",
        ] {
            assert_eq!(death(&format!("[ 0.1] fine\n{line}\n")), Some(line));
        }
        for line in [
            "[   52.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [cargo:1]",
            "[   30.1] BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0",
            "[    1.0] DEBUG: on",
            "",
        ] {
            assert_eq!(death(line), None, "{line}");
        }
    }

    #[test]
    fn a_machine_whose_console_tells_of_a_death_is_ended_at_once() {
        let scratch = crate::kernel::Scratch::in_directory(&std::env::temp_dir()).unwrap();
        let machine = Machine {
            arch: Arch::host(),
            accel: "",
            timeout: 60,
            kernel: Path::new(""),
            append: "",
            directory: &scratch.0,
        };
        fs::write(machine.console(), "[ 3.1] Kernel panic - not syncing").unwrap();
        let start = Instant::now();
        let mut hangs = Command::new("timeout");
        let mut hangs = hangs.args(["60", "sleep", "60"]).spawn().unwrap();
        let status = machine.watched(hangs.id(), || hangs.wait().unwrap());
        assert!(!status.success());
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn lines_of_init_are_kept_in_what_was_printed() {
        let printed = pass_on_apart(&b"vm: run a\n\nvm: exit 3 a\nvm: done"[..]).unwrap();
        assert_eq!(printed, "vm: run a\n\nvm: exit 3 a\nvm: done");
    }
}
