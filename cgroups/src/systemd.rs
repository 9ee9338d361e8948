//! Scopes of systemd: a cgroup that systemd makes and then leaves to its caller (feature `systemd`).
//!
//! On a machine that systemd manages, a cgroup made behind its back is at its mercy. A [`Scope`] with `Delegate=yes` is
//! what it grants instead, to ordinary users too: by their own manager, with the controllers that one has (`cpu`,
//! `memory` and `pids`, unless `user@.service` says otherwise). One scope for all containers of a program is enough, and
//! spares systemd a job for each.
//!
//! ```no_run
//! use std::time::Duration;
//! use cofferdam_cgroups::systemd::{Bus, Scope, ScopeOptions};
//! use cofferdam_cgroups::{CgroupName, Limits, Others};
//!
//! # fn main() -> cofferdam_cgroups::Result<()> {
//! let options = ScopeOptions::new("containers.scope").pid(std::process::id());
//! let scope = Scope::start(&Bus::find()?, &options, Duration::from_secs(5))?;
//!
//! // This process is in the scope now: in the way of children with limits.
//! let limits = Limits::new().memory_max(64 << 20);
//! let supervisor = CgroupName::new("supervisor")?;
//! let own = scope.hierarchy()?.own_subtree(&supervisor, &limits, Others::Refuse)?;
//! let cgroup = own.hierarchy().create(&CgroupName::new("web-1")?, &limits)?;
//! # cgroup.remove()?;
//! # Ok(())
//! # }
//! ```

mod bus;
mod wire;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use bus::Bus;
use bus::Connection;
use wire::{Message, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::hierarchy::Hierarchy;
use crate::wait;

/// What a scope is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct ScopeOptions {
    name: String,
    slice: Option<String>,
    description: String,
    pids: Vec<u32>,
}

/// A scope that this value had started.
///
/// systemd ends a scope with its last process, and then removes its cgroup with all that was made inside. Dropping this
/// value stops the scope, which kills what is in it, unless the calling process was put into it; it waits for systemd's
/// answer a second at most. [`Scope::stop`] tells how that went, [`Scope::abandon`] ends systemd's care for it,
/// [`Scope::persist`] leaves it as it is.
#[derive(Debug)]
#[must_use = "dropping a Scope stops it"]
pub struct Scope {
    bus: Bus,
    name: String,
    control_group: PathBuf,
    has_caller: bool,
    armed: bool,
}

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const SCOPE: &str = "org.freedesktop.systemd1.Scope";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
/// How often the state is asked for, should the signal not come.
const PAUSE: Duration = Duration::from_millis(200);
const DROP_WITHIN: Duration = Duration::from_secs(1);

impl ScopeOptions {
    /// A scope of this name, which ends with `.scope`. It needs at least one process.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        ScopeOptions {
            description: name.clone(),
            name,
            slice: None,
            pids: Vec::new(),
        }
    }

    /// A process to move into it, with all its threads.
    pub fn pid(mut self, pid: u32) -> Self {
        self.pids.push(pid);
        self
    }

    /// The slice it goes into, such as `app.slice`; without one systemd chooses.
    pub fn slice(mut self, slice: impl Into<String>) -> Self {
        self.slice = Some(slice.into());
        self
    }

    /// What `systemctl status` shows.
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Checks it. [`Scope::start`] does it before it connects.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is no unit's or does not end with `.scope`, or a slice's with `.slice`; for no
    /// process or the pid 0; for a description longer than 4096 bytes or with a NUL.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: &str, text| Err(Error::systemd(what, text, ErrorKind::InvalidInput));
        if !is_unit(&self.name, ".scope") {
            return refuse(
                &self.name.escape_debug().to_string(),
                "is no name of a scope",
            );
        }
        if let Some(slice) = self
            .slice
            .as_ref()
            .filter(|slice| !is_unit(slice, ".slice"))
        {
            return refuse(&slice.escape_debug().to_string(), "is no name of a slice");
        }
        if self.pids.is_empty() || self.pids.contains(&0) {
            return refuse(&self.name, "a scope needs a process, and 0 is none");
        }
        if self.description.len() > 4096 || self.description.contains('\0') {
            return refuse(
                &self.name,
                "its description is longer than 4096 bytes or has a NUL",
            );
        }
        Ok(())
    }

    /// The arguments of `StartTransientUnit`.
    fn arguments(&self) -> Vec<Value> {
        let pids = self.pids.iter().copied().map(Value::U32).collect();
        let mut properties = vec![
            property("Description", Value::text(&self.description)),
            property("Delegate", Value::Bool(true)),
            property("PIDs", Value::Array("u".to_owned(), pids)),
        ];
        if let Some(slice) = &self.slice {
            properties.push(property("Slice", Value::text(slice)));
        }
        vec![
            Value::text(&self.name),
            Value::text("fail"),
            Value::Array("(sv)".to_owned(), properties),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ]
    }
}

impl Scope {
    /// Starts a transient scope with `Delegate=yes`, by systemd's `StartTransientUnit`, and waits until its job is done:
    /// all of it within `within`.
    ///
    /// # Errors
    /// `InvalidInput` as [`ScopeOptions::validate`]; `AlreadyExists` if a unit of that name is there; `NotFound` if a
    /// process is not; `PermissionDenied` with what systemd says; `Os` with `ETIMEDOUT` if it does not answer in time, and
    /// `Os` when the job fails or is not done in time; `Malformed` for an answer that is none. A scope whose job was not done in time may come
    /// up later.
    #[doc(alias = "StartTransientUnit")]
    pub fn start(bus: &Bus, options: &ScopeOptions, within: Duration) -> Result<Self> {
        options.validate()?;
        let mut connection = Connection::open(bus, wait::end(Instant::now(), within))?;
        subscribe(&mut connection)?;
        let call = manager("StartTransientUnit", options.arguments());
        let reply = connection.call(call)?;
        let job = path_in(&connection, &reply)?;
        wait_for(&mut connection, &options.name, &job, Wanted::Up)?;
        let control_group = control_group(&mut connection, &options.name)?;
        Ok(Scope {
            bus: bus.clone(),
            name: options.name.clone(),
            control_group,
            has_caller: options.pids.contains(&std::process::id()),
            armed: true,
        })
    }

    /// Its name as a unit.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cgroup, from the root of the hierarchy, as systemd says it.
    #[must_use]
    pub fn control_group(&self) -> &Path {
        &self.control_group
    }

    /// The hierarchy to make cgroups with, for [`Hierarchy::own_subtree`] if this process is in the scope; with
    /// [`Hierarchy::create_in`] and [`Scope::control_group`] if not.
    ///
    /// # Errors
    /// As [`Hierarchy::detect`].
    pub fn hierarchy(&self) -> Result<Hierarchy> {
        Hierarchy::detect()
    }

    /// Stops it: systemd ends all processes in it, by SIGTERM and then SIGKILL. Waits for the job within `within`.
    ///
    /// # Errors
    /// As [`Scope::start`]. One that has ended already is success.
    pub fn stop(mut self, within: Duration) -> Result<()> {
        self.armed = false;
        self.stop_within(within)
    }

    /// Ends systemd's care for it: the processes stay, and the scope has none of systemd's any more.
    ///
    /// # Errors
    /// As [`Scope::start`].
    pub fn abandon(mut self, within: Duration) -> Result<()> {
        self.armed = false;
        let mut connection = Connection::open(&self.bus, wait::end(Instant::now(), within))?;
        let path = unit(&mut connection, &self.name)?;
        let abandon = Message::call(&path, SCOPE, "Abandon", Vec::new());
        connection.call(abandon).map(drop)
    }

    /// Leaves it as it is and gives its name.
    pub fn persist(mut self) -> String {
        self.armed = false;
        std::mem::take(&mut self.name)
    }

    fn stop_within(&self, within: Duration) -> Result<()> {
        let mut connection = Connection::open(&self.bus, wait::end(Instant::now(), within))?;
        subscribe(&mut connection)?;
        let call = manager(
            "StopUnit",
            vec![Value::text(&self.name), Value::text("fail")],
        );
        let job = match connection.call(call) {
            Ok(reply) => path_in(&connection, &reply)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        wait_for(&mut connection, &self.name, &job, Wanted::Down)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.armed && !self.has_caller {
            let _stopped = self.stop_within(DROP_WITHIN).is_ok();
        }
    }
}

fn property(name: &str, value: Value) -> Value {
    Value::Struct(vec![Value::text(name), Value::variant(value)])
}

fn is_unit(name: &str, suffix: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    name.len() <= 255
        && name
            .strip_suffix(suffix)
            .is_some_and(|rest| !rest.is_empty())
        && name.bytes().all(allowed)
}

fn manager(member: &str, arguments: Vec<Value>) -> Message {
    Message::call(MANAGER_PATH, MANAGER, member, arguments)
}

/// Asks for the signals about jobs, which is to be done before there is one.
fn subscribe(connection: &mut Connection) -> Result<()> {
    if connection.is_broker() {
        let rule = "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
        let (path, name) = ("/org/freedesktop/DBus", "org.freedesktop.DBus");
        let call = Message::call(path, name, "AddMatch", vec![Value::text(rule)]);
        connection.call_to(name, call)?;
    }
    match connection.call(manager("Subscribe", Vec::new())) {
        // A private socket may have it by itself; without signals the state is asked for.
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error().is_none() && error.kind() != ErrorKind::Malformed => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Where a job takes a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Up,
    Down,
}

/// Waits for the end of a job: for its signal, or for a state that shows it.
fn wait_for(connection: &mut Connection, name: &str, job: &str, wanted: Wanted) -> Result<()> {
    let deadline = connection.deadline();
    let mut ask = Instant::now() + PAUSE;
    loop {
        let signal = connection.signal(ask.min(deadline))?;
        if let Some(result) = signal.as_ref().and_then(|signal| removed(signal, job)) {
            return match result {
                "done" => Ok(()),
                other => {
                    let text = format!("the job for {name} ended with {other:?}");
                    Err(connection.error(&text, ErrorKind::Os))
                }
            };
        }
        let now = Instant::now();
        if now >= deadline {
            let text = format!("the job for {name} was not done in time");
            return Err(connection.error(&text, ErrorKind::Os));
        }
        if now >= ask {
            if is_there(connection, name, wanted)? {
                return Ok(());
            }
            ask = now + PAUSE;
        }
    }
}

/// The result in a `JobRemoved` of this job.
fn removed<'a>(signal: &'a Message, job: &str) -> Option<&'a str> {
    if signal.member.as_deref() != Some("JobRemoved") {
        return None;
    }
    match signal.body.as_slice() {
        [_, path, _, result, ..] if path.as_text() == Some(job) => result.as_text(),
        _ => None,
    }
}

/// Whether a unit has got where its job takes it.
fn is_there(connection: &mut Connection, name: &str, wanted: Wanted) -> Result<bool> {
    let path = match unit(connection, name) {
        Ok(path) => path,
        // Stopped and forgotten; or not loaded yet.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(wanted == Wanted::Down),
        Err(error) => return Err(error),
    };
    let state = get(connection, &path, UNIT, "ActiveState")?;
    Ok(match wanted {
        Wanted::Up => state == "active",
        Wanted::Down => state == "inactive" || state == "failed",
    })
}

fn control_group(connection: &mut Connection, name: &str) -> Result<PathBuf> {
    let path = unit(connection, name)?;
    let group = PathBuf::from(get(connection, &path, SCOPE, "ControlGroup")?);
    let up = group.components().any(|part| part.as_os_str() == "..");
    if !group.is_absolute() || up {
        let text = format!("ControlGroup of {name} is {group:?}");
        return Err(connection.error(&text, ErrorKind::Malformed));
    }
    Ok(group)
}

fn unit(connection: &mut Connection, name: &str) -> Result<String> {
    let reply = connection.call(manager("GetUnit", vec![Value::text(name)]))?;
    path_in(connection, &reply)
}

fn get(connection: &mut Connection, path: &str, interface: &str, name: &str) -> Result<String> {
    let arguments = vec![Value::text(interface), Value::text(name)];
    let call = Message::call(path, "org.freedesktop.DBus.Properties", "Get", arguments);
    let reply = connection.call(call)?;
    path_in(connection, &reply)
}

/// The text or path that a reply consists of.
fn path_in(connection: &Connection, reply: &[Value]) -> Result<String> {
    let text = reply.first().and_then(Value::as_text).map(str::to_owned);
    text.ok_or_else(|| connection.error("a reply of another type", ErrorKind::Malformed))
}

#[cfg(test)]
mod tests;
