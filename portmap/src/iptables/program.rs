//! Running iptables' programs: found once at fixed places, without the caller's environment, without a shell.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};

use super::chains::Family;
use crate::error::{Failure, Inner, Result};
use crate::netns::NetNs;

/// Which of iptables' two kernel interfaces to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Variant {
    /// What the host's administrator chose: `iptables-restore`.
    #[default]
    Default,
    /// nf_tables: `iptables-nft-restore`.
    Nft,
    /// ip_tables: `iptables-legacy-restore`.
    Legacy,
}

/// Where iptables' programs are: `iptables-restore`, `iptables-save`, and those of ip6tables.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "Programs do nothing until an Iptables is opened with them"]
pub struct Programs {
    restore: [PathBuf; 2],
    save: [PathBuf; 2],
}

impl Programs {
    const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

    /// Looks in `/usr/sbin`, `/sbin`, `/usr/bin` and `/bin`; `PATH` is not asked.
    ///
    /// # Errors
    /// `NotFound` if no directory has all four.
    pub fn find(variant: Variant) -> Result<Self> {
        let mut found = Self::DIRECTORIES
            .iter()
            .filter_map(|directory| Self::in_directory(directory, variant).ok());
        found
            .next()
            .ok_or_else(|| missing(variant, &Self::DIRECTORIES.join(", ")))
    }

    /// Those in a directory, which is given from the root.
    ///
    /// # Errors
    /// `NotFound` if one of the four is not there; `InvalidInput` for a relative path.
    pub fn in_directory(directory: impl AsRef<Path>, variant: Variant) -> Result<Self> {
        let directory = directory.as_ref();
        if !directory.is_absolute() {
            let value = directory.display().to_string();
            let (what, reason) = ("directory of iptables", "not absolute");
            return Err(Inner::Input {
                what,
                value,
                reason,
            }
            .into());
        }
        let [restore, save] = ["restore", "save"].map(|verb| {
            ["iptables", "ip6tables"].map(|family| directory.join(name(family, variant, verb)))
        });
        match restore.iter().chain(&save).all(|program| program.is_file()) {
            true => Ok(Programs { restore, save }),
            false => Err(missing(variant, &directory.display().to_string())),
        }
    }

    /// Applies the text: all or nothing of each table in it.
    pub(super) fn restore(
        &self,
        netns: &NetNs,
        family: Family,
        text: &str,
    ) -> std::result::Result<(), Failure> {
        // -w: others of iptables may hold its lock for a moment; -w is nothing to the variant that needs none.
        let arguments = ["--noflush", "-w", "10"];
        let program = &self.restore[family as usize];
        run(netns, program, &arguments, text).map(|_nothing| ())
    }

    /// All rules of the family.
    pub(super) fn save(
        &self,
        netns: &NetNs,
        family: Family,
    ) -> std::result::Result<String, Failure> {
        run(netns, &self.save[family as usize], &[], "")
    }
}

fn name(family: &str, variant: Variant, verb: &str) -> String {
    match variant {
        Variant::Default => format!("{family}-{verb}"),
        Variant::Nft => format!("{family}-nft-{verb}"),
        Variant::Legacy => format!("{family}-legacy-{verb}"),
    }
}

fn missing(variant: Variant, place: &str) -> crate::Error {
    let names = ["iptables", "ip6tables"].map(|family| name(family, variant, "restore"));
    Inner::NoProgram {
        names: names.join(" and "),
        place: place.to_owned(),
    }
    .into()
}

/// Runs a program in the namespace, and returns what it printed.
fn run(
    netns: &NetNs,
    program: &Path,
    arguments: &[&str],
    input: &str,
) -> std::result::Result<String, Failure> {
    let failed =
        |error: io::Error| Failure::call(format_args!("run {}", program.display()), &error);
    let input = file(input).map_err(failed)?;
    let output = file("").map_err(failed)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(input)
        .stdout(output.try_clone().map_err(failed)?)
        .stderr(Stdio::piped());
    let (said, status) = netns.run(|| listen(command.spawn()?)).map_err(failed)?;
    if !status.success() {
        return Err(refused(program, status, said));
    }
    read(output).map_err(failed)
}

/// What the program says of errors, up to a bound, and how it ended.
fn listen(mut child: Child) -> io::Result<(String, ExitStatus)> {
    const AT_MOST: u64 = 2048;
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        let heard = stderr.by_ref().take(AT_MOST).read_to_end(&mut said);
        let drained = io::copy(&mut stderr, &mut io::sink());
        heard.and(drained)?;
    }
    let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
    Ok((said, child.wait()?))
}

fn refused(program: &Path, status: ExitStatus, said: String) -> Failure {
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    Failure::Program {
        program: program.to_owned(),
        ended,
        said,
    }
}

/// A file without a name: a program may take what is in it at any pace, or not at all.
fn file(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("iptables", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn read(mut file: File) -> io::Result<String> {
    const AT_MOST: u64 = 256 << 20;
    file.rewind()?;
    if file.metadata()?.len() > AT_MOST {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}
