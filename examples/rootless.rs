//! Containers of an ordinary user: with the one id it has, with the ids that `/etc/subuid` delegates to it, by name, and
//! what it is told where it has no right.
//!
//! Run as root, it starts itself again as the user 65534, nobody. The root is the machine's own `/`, read-only; the program
//! is this very binary. Nothing of the host changes. Ids for nobody, to see more of it:
//! `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 nobody`, and the package `uidmap`.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::fs;
use std::os::unix::process::CommandExt;

use cofferdam_namespaces::{Command, IdMap, RootFs, Spawned, Stdio, User};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const NOBODY: u32 = 65_534;

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("look") => look(),
        _ if is_the_hosts_root()? => {
            let mut command = std::process::Command::new(std::env::current_exe()?);
            Err(command.uid(NOBODY).gid(NOBODY).exec().into())
        }
        _ => ordinary(),
    }
}

/// Not that of a user namespace, which `cargo run` makes for an ordinary user.
fn is_the_hosts_root() -> Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    Ok(all && ids("/proc/self/status")?.starts_with("uid 0,"))
}

fn ordinary() -> Result<()> {
    println!("outside: {}", ids("/proc/self/status")?);

    println!("\none id, which is root inside:");
    let mut child = this()?.id_map(IdMap::current_user()).spawn()?;
    print(&mut child)?;

    println!("\nthe ids that are delegated, as rootless Docker uses them:");
    match IdMap::subordinate() {
        Ok(map) => {
            print(&mut this()?.id_map(map.clone()).spawn()?)?;
            println!("and as the user 1000 inside:");
            let user = User::id(1000, 1000).groups([44]);
            print(&mut this()?.id_map(map).user(user).spawn()?)?;
        }
        Err(error) => println!("  {:?}: {error}", error.kind()),
    }

    println!("\na user by name, looked up in the container's own /etc/passwd:");
    let map = IdMap::current_user();
    print(&mut this()?.id_map(map.clone()).user("root".parse()?).spawn()?)?;

    println!("\nwhat it cannot have:");
    refused("no user namespace", this()?);
    refused(
        "an id it has not",
        this()?.id_map(map.clone()).user(User::id(1000, 1000)),
    );
    refused(
        "nobody's name",
        this()?.id_map(map).user("no-such-user".parse()?),
    );
    refused("ids of others", this()?.id_map(IdMap::range(1, 1000)));
    for text in ["1000:", "-1", "4294967295"] {
        match text.parse::<User>() {
            Ok(user) => println!("  {text:?} is {user}"),
            Err(error) => println!("  {error}"),
        }
    }
    Ok(())
}

/// This binary as it looks at itself, in the machine's root.
fn this() -> Result<Command> {
    Ok(Command::new(std::env::current_exe()?)
        .arg("look")
        .root(RootFs::directory("/").read_only())
        .stdout(Stdio::piped()))
}

fn look() -> Result<()> {
    println!("  inside: {}", ids("/proc/self/status")?);
    for file in ["uid_map", "gid_map", "setgroups"] {
        let text = fs::read_to_string(format!("/proc/self/{file}"))?;
        let lines: Vec<_> = text.lines().map(words).collect();
        println!("  {file}: {}", lines.join(", "));
    }
    Ok(())
}

fn print(child: &mut Spawned) -> Result<()> {
    print!("{}", String::from_utf8_lossy(&child.output()?.stdout));
    Ok(())
}

fn refused(what: &str, command: Command) {
    match command.spawn() {
        Ok(child) => println!("  {what}: it runs as pid {}", child.pid()),
        Err(error) => println!("  {what}: {:?}: {error}", error.kind()),
    }
}

/// The effective ids and the groups of a process.
fn ids(status: &str) -> Result<String> {
    let text = fs::read_to_string(status)?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        words(line.unwrap_or_default())
    };
    let effective = |name: &str| field(name).split(' ').nth(1).unwrap_or("?").to_owned();
    let (uid, gid) = (effective("Uid:"), effective("Gid:"));
    Ok(format!(
        "uid {uid}, gid {gid}, groups [{}]",
        field("Groups:")
    ))
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
