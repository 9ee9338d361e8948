//! A cgroup with limits on memory, processes and CPU time: what the kernel's files say, and what becomes of a program that
//! wants more of each. Then what is refused.
//!
//! The programs are this very binary, started inside of the cgroup. It makes cgroups named `cofferdam-example-...` and
//! removes them; nothing else on the host changes. It takes root, or a delegated cgroup.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_cgroups::{Cgroup, CgroupName, Hierarchy, Limits, Resource};
use cofferdam_namespaces::{Command, Namespaces, Spawned, Stdio};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MIB: u64 = 1 << 20;
const MEMORY: u64 = 64 * MIB;
const PIDS: u32 = 16;
const CPUS: f64 = 0.5;

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("eat") => eat(),
        Some("fork") => fork(),
        Some("spin") => loop {
            std::hint::spin_loop();
        },
        Some("sleep") => {
            thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        _ => host(),
    }
}

fn host() -> Result<()> {
    let hierarchy = Hierarchy::detect()?;
    println!("this machine is {:?}", hierarchy.mode());
    let prefix = format!("cofferdam-example-{}", process::id());
    let name = CgroupName::new(prefix.as_str())?;
    let limits = Limits::new().memory_max(MEMORY).pids_max(PIDS).cpus(CPUS);
    let start = Instant::now();
    let cgroup = hierarchy.create(&name, &limits)?;
    println!("made in {:.1?}, with these limits:", start.elapsed());
    show(&cgroup);

    memory(&cgroup)?;
    cpu(&cgroup)?;
    pressure(&cgroup)?;
    processes(&cgroup)?;

    let start = Instant::now();
    cgroup.kill()?;
    cgroup.remove()?;
    println!("killed and removed in {:.1?}", start.elapsed());
    refusals(&hierarchy, &name)?;
    let left = hierarchy.find(&prefix)?;
    println!("left of it: {left:?}");
    if left.is_empty() {
        Ok(())
    } else {
        Err("something is left".into())
    }
}

/// The files that the limits went to.
fn show(cgroup: &Cgroup) {
    for path in cgroup.paths() {
        for file in [
            "memory.max",
            "memory.swap.max",
            "memory.limit_in_bytes",
            "pids.max",
            "cpu.max",
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
        ] {
            let file = path.join(file);
            if let Ok(text) = fs::read_to_string(&file) {
                println!("  {} {}", file.display(), text.trim_end());
            }
        }
    }
}

fn memory(cgroup: &Cgroup) -> Result<()> {
    let mut child = start(cgroup, "eat")?;
    let output = child.output()?;
    let signal = output.status.signal();
    let eaten = String::from_utf8_lossy(&output.stdout).lines().count();
    let kills = cgroup.oom_kills()?;
    println!(
        "memory: {eaten} MiB of {}, then signal {signal:?}; OOM kills: {kills}",
        MEMORY / MIB
    );
    if signal == Some(9) && kills > 0 && (eaten as u64) < MEMORY / MIB {
        Ok(())
    } else {
        Err("the memory limit did not hold".into())
    }
}

fn processes(cgroup: &Cgroup) -> Result<()> {
    let mut child = start(cgroup, "fork")?;
    let output = child.output()?;
    let answer = String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned();
    let inside = cgroup.procs()?.len();
    println!("processes: {answer}; {inside} are left inside");
    // One was the process that started the others.
    if answer.starts_with(&format!("{} started", PIDS - 1)) {
        Ok(())
    } else {
        Err("the limit of processes did not hold".into())
    }
}

fn cpu(cgroup: &Cgroup) -> Result<()> {
    let time = Duration::from_secs(2);
    let mut stats = cgroup.stats()?;
    let mut used = || -> Result<Duration> {
        let cpu = stats.sample()?.cpu;
        Ok(cpu.ok_or("no CPU time is told")?.usage)
    };
    let child = start(cgroup, "spin")?;
    let (start, before) = (Instant::now(), used()?);
    thread::sleep(time);
    let share = (used()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
    child.kill()?;
    let throttling = stats.sample()?.throttling;
    let periods = throttling.map_or(0, |times| times.throttled_periods);
    println!("cpu: {share:.2} of a CPU where {CPUS} were allowed; throttled in {periods} periods");
    if share < CPUS * 1.3 {
        Ok(())
    } else {
        Err("the limit of CPU time did not hold".into())
    }
}

fn pressure(cgroup: &Cgroup) -> Result<()> {
    for resource in [Resource::Cpu, Resource::Memory] {
        match cgroup.pressure(resource)? {
            None => println!("pressure: this kernel does not count that of {resource:?} here"),
            Some(pressure) => {
                let total = pressure.some.map(|some| some.total).unwrap_or_default();
                println!("pressure: {total:.1?} waited for {resource:?}");
            }
        }
    }
    Ok(())
}

/// Each leaves nothing behind.
fn refusals(hierarchy: &Hierarchy, name: &CgroupName) -> Result<()> {
    println!("refused:");
    for limits in [
        Limits::new().memory_max(100),
        Limits::new().cpus(0.0),
        Limits::new().raw("gpu.max", "1"),
        Limits::new().misc_max("no-such-resource", 1),
    ] {
        match hierarchy.create(name, &limits) {
            Ok(_) => return Err(format!("was not refused: {limits:?}").into()),
            Err(error) => println!("  {:?}: {error}", error.kind()),
        }
    }
    match CgroupName::new("../escape") {
        Ok(_) => Err("a name that leads out was not refused".into()),
        Err(error) => {
            println!("  {:?}: {error}", error.kind());
            Ok(())
        }
    }
}

/// This binary, inside of the cgroup from its first instruction on.
fn start(cgroup: &Cgroup, what: &str) -> Result<Spawned> {
    let entry = cgroup.entry();
    let mut command = Command::new(std::env::current_exe()?)
        .arg(what)
        .namespaces(Namespaces::none())
        .stdout(Stdio::piped());
    if let Some(dir) = entry.dir {
        command = command.cgroup(dir.try_clone_to_owned()?);
    }
    for tasks in entry.tasks {
        command = command.cgroup_procs(tasks.try_clone_to_owned()?);
    }
    Ok(command.spawn()?)
}

/// Takes more and more memory, and says so.
fn eat() -> Result<()> {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1u8; MIB as usize]);
        println!("{} MiB", eaten.len());
    }
}

/// Starts programs until it cannot.
fn fork() -> Result<()> {
    let this = std::env::current_exe()?;
    for started in 0..2 * PIDS {
        let mut command = process::Command::new(&this);
        // Its end is the end of our output.
        command.arg("sleep").stdout(process::Stdio::null());
        if let Err(error) = command.spawn() {
            println!("{started} started, then: {error}");
            return Ok(());
        }
    }
    println!("{} started, and no end", 2 * PIDS);
    Ok(())
}
