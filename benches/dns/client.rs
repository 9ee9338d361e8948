//! dnsperf, and what it says.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::World;

/// How the server's clients behave: eight of them, at most a hundred queries on their way.
const CLIENTS: &[&str] = &["-c", "8", "-q", "100", "-T", "1"];

/// A file of questions for dnsperf.
pub(crate) fn questions(world: &World, name: &str, lines: impl Iterator<Item = String>) -> PathBuf {
    let path = world.files.join(name);
    let text: String = lines.map(|line| line + " A\n").collect();
    fs::write(&path, text).unwrap();
    path
}

/// Asks for some seconds. Returns queries a second and how many were answered.
pub(crate) fn ask(
    world: &World,
    server: SocketAddr,
    questions: &Path,
    seconds: u32,
) -> Option<(f64, f64)> {
    let mut dnsperf = Command::new("dnsperf");
    dnsperf.args([
        "-s",
        &server.ip().to_string(),
        "-p",
        &server.port().to_string(),
    ]);
    dnsperf.args(CLIENTS).arg("-d").arg(questions);
    dnsperf.args(["-l", &seconds.to_string()]);
    let output = world.netns.run(|| dnsperf.output()).ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let figure = |label: &str| -> f64 {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(label));
        let words = line.and_then(|line| line.split_whitespace().next());
        let figure = words.and_then(|word| word.parse().ok());
        figure.unwrap_or_else(|| panic!("dnsperf: no {label} in\n{text}"))
    };
    let (sent, answered) = (figure("Queries sent:"), figure("Queries completed:"));
    assert!(
        answered >= 0.99 * sent,
        "{server} answered {answered} of {sent} queries"
    );
    let all_good = text.contains("Response codes:       NOERROR");
    assert!(all_good, "{server} gave no address:\n{text}");
    Some((figure("Queries per second:"), answered))
}
