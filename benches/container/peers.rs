//! Other programs that do all of it, where they are installed and work.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const NAME: &str = "cofferdam-bench";

/// A row for each: from the command to its end.
pub(crate) fn rows(id: &str, rounds: usize, root: &Path) {
    for who in ["docker", "podman"] {
        let times = match prepare(who, root) {
            true => measure(who, rounds.max(5)),
            false => None,
        };
        match times {
            Some(times) => super::row(id, who, times),
            None => println!("row {id} {who} absent"),
        }
        forget(who);
    }
}

fn measure(who: &str, rounds: usize) -> Option<Vec<std::time::Duration>> {
    let each = (0..rounds).map(|_| {
        let start = Instant::now();
        let publish = ["--publish", "127.0.0.1:18081:80", "--memory", "64m"];
        let run = ["run", "--rm", "--network", NAME, "--pids-limit", "64"];
        let ended = quiet(
            Command::new(who)
                .args(run)
                .args(publish)
                .args([NAME, "/bin/true"]),
        );
        ended.then(|| start.elapsed())
    });
    each.collect()
}

/// An image of the same root, and a network.
fn prepare(who: &str, root: &Path) -> bool {
    if !quiet(Command::new(who).arg("info")) {
        return false;
    }
    let import = format!("tar -C \"$1\" -c . | {who} import - {NAME}");
    quiet(Command::new("sh").args(["-c", &import, "sh"]).arg(root))
        && quiet(Command::new(who).args(["network", "create", NAME]))
}

fn forget(who: &str) {
    let _network = quiet(Command::new(who).args(["network", "rm", NAME]));
    let _image = quiet(Command::new(who).args(["rmi", NAME]));
}

fn quiet(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
