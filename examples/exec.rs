//! A program started in a container that runs already, as `docker exec` does: the same namespaces and mounts, a user,
//! an environment and a terminal of its own; then one that shares only the container's network.
//!
//! The root is the machine's own `/`, read-only, with a tmpfs at `/mnt`; the programs are this very binary. Nothing of the host
//! changes. As an ordinary user it does the same in a user namespace.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_namespaces::{Command, IdMap, Mount, Namespace, Namespaces, RootFs, Stdio, User};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(),
        Some("look") => look(),
        _ => host(),
    }
}

fn host() -> Result<()> {
    let mut container = this("serve")?
        .mount(Mount::tmpfs("/mnt", 1 << 20))
        .hostname("box")
        .init(true)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut ready = [0; 6];
    if let Some(out) = &mut container.stdout {
        out.read_exact(&mut ready)?;
    }
    println!("a container runs as pid {}", container.pid());

    let program = std::env::current_exe()?;
    let look = Command::new(&program).arg("look").stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = look.clone().env("WHO", "exec").enter(&container)?;
    println!("entered as pid {} in {:.2?}", child.pid(), start.elapsed());
    print(&child.output()?.stdout);

    if is_root()? {
        let mut child = look.clone().user(User::id(1000, 1000)).enter(&container)?;
        println!("entered as user 1000");
        print(&child.output()?.stdout);
    }
    let mut child = Command::new(&program)
        .arg("look")
        .terminal(24, 80)
        .enter(&container)?;
    println!("entered with a terminal");
    let mut shown = Vec::new();
    if let Some(mut terminal) = child.terminal.take() {
        terminal.read_to_end(&mut shown)?;
    }
    print(&shown);
    println!("it ended with {}", child.wait()?);

    let net = container.as_fd().try_clone_to_owned()?;
    let beside = if is_root()? {
        this("look")?.namespaces(Namespaces::default().join(Namespace::Net, net))
    } else {
        // A network belongs to its user namespace: who joins the one joins the other.
        let user = container.as_fd().try_clone_to_owned()?;
        let namespaces = Namespaces::default()
            .join(Namespace::User, user)
            .join(Namespace::Net, net);
        rooted(Command::new(&program).arg("look")).namespaces(namespaces)
    };
    println!("beside it, in its network alone");
    print(&beside.stdout(Stdio::piped()).spawn()?.output()?.stdout);

    let error = match Command::new("/nowhere").enter(&container) {
        Ok(_) => return Err("a program that is not there was started".into()),
        Err(error) => error,
    };
    println!("{:?}: {error}", error.kind());
    let child = Command::new(&program).arg("serve").enter(&container)?;
    drop(container);
    let ended = child.wait_timeout(Duration::from_secs(5))?;
    println!("the container is dropped; who was in it ended with {ended:?}");
    Ok(())
}

fn this(what: &str) -> Result<Command> {
    let command = rooted(Command::new(std::env::current_exe()?).arg(what));
    if is_root()? {
        return Ok(command);
    }
    Ok(command.id_map(IdMap::current_user()))
}

fn rooted(command: Command) -> Command {
    command.root(RootFs::directory("/").read_only())
}

fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(status.contains("\nUid:\t0\t"))
}

/// Leaves a file that who comes later finds, and stays.
fn serve() -> Result<()> {
    fs::write("/mnt/of-the-container", "")?;
    println!("ready");
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

fn look() -> Result<()> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let status = fs::read_to_string("/proc/self/status")?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t"));
    let uid = uid.and_then(|ids| ids.split('\t').next());
    println!("pid {}, user {}", std::process::id(), uid.unwrap_or("?"));
    println!("host name {}", name.trim());
    let there = Path::new("/mnt/of-the-container").exists();
    println!(
        "the container's file is {}there",
        if there { "" } else { "not " }
    );
    println!("network {}", fs::read_link("/proc/self/ns/net")?.display());
    if let Ok(who) = std::env::var("WHO") {
        println!("WHO={who}");
    }
    println!("stdout is {}", fs::read_link("/proc/self/fd/1")?.display());
    Ok(())
}

fn print(bytes: &[u8]) {
    for line in String::from_utf8_lossy(bytes).lines() {
        println!("  inside: {line}");
    }
}
