//! A D-Bus connection: one socket, one call at a time, each with a deadline.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::wire::{self, Kind, Message, Value};
use crate::error::{Error, ErrorKind, Result};

/// Where systemd listens: its private socket, or a message bus that it is on.
///
/// Nothing is read from the environment: who has a `DBUS_SESSION_BUS_ADDRESS` gives it to [`Bus::address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    socket: Socket,
    broker: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Socket {
    Path(PathBuf),
    Abstract(Vec<u8>),
}

impl Bus {
    /// The system's manager: `/run/systemd/private`, for root, else `/run/dbus/system_bus_socket`.
    ///
    /// # Errors
    /// `Unsupported` if there is neither: systemd is not running, or not where this process can see it.
    pub fn system() -> Result<Self> {
        let private = Path::new("/run/systemd/private");
        let broker = Path::new("/run/dbus/system_bus_socket");
        let private = Some(private).filter(|_| rustix::process::geteuid().is_root());
        Self::first(private, broker)
    }

    /// A user's manager: `/run/user/<uid>/systemd/private`, else `/run/user/<uid>/bus`.
    ///
    /// # Errors
    /// `Unsupported` if there is neither: the user has no session, nor does it linger.
    pub fn user(uid: u32) -> Result<Self> {
        let directory = PathBuf::from(format!("/run/user/{uid}"));
        let private = directory.join("systemd/private");
        Self::first(Some(&private), &directory.join("bus"))
    }

    /// The manager that is for this process: the system's for root, else its user's.
    ///
    /// # Errors
    /// As [`Bus::system`] and [`Bus::user`].
    pub fn find() -> Result<Self> {
        let user = rustix::process::geteuid();
        if user.is_root() {
            return Self::system();
        }
        Self::user(user.as_raw())
    }

    /// A message bus by its address, such as `unix:path=/run/user/1000/bus`: the first of those given that is a `path` or
    /// an `abstract` socket.
    ///
    /// # Errors
    /// `InvalidInput` if there is none.
    pub fn address(address: &str) -> Result<Self> {
        let socket = address.split(';').find_map(socket).ok_or_else(|| {
            Error::systemd(
                address,
                "is no unix:path= or unix:abstract=",
                ErrorKind::InvalidInput,
            )
        })?;
        Ok(Bus {
            socket,
            broker: true,
        })
    }

    /// A private socket of systemd's, without a message bus between.
    #[must_use]
    pub fn private(path: impl Into<PathBuf>) -> Self {
        Bus {
            socket: Socket::Path(path.into()),
            broker: false,
        }
    }

    fn first(private: Option<&Path>, broker: &Path) -> Result<Self> {
        if let Some(private) = private.filter(|path| path.exists()) {
            return Ok(Bus::private(private));
        }
        if !broker.exists() {
            let place = broker.display().to_string();
            let text = "no such socket: is systemd running, and has the user a session?";
            return Err(Error::systemd(&place, text, ErrorKind::Unsupported));
        }
        Ok(Bus {
            socket: Socket::Path(broker.to_owned()),
            broker: true,
        })
    }

    fn place(&self) -> String {
        match &self.socket {
            Socket::Path(path) => path.display().to_string(),
            Socket::Abstract(name) => format!("@{}", String::from_utf8_lossy(name)),
        }
    }

    /// Connects until then at most: to wait in connect(2) for a peer that does not accept has no end.
    fn connect(&self, deadline: Instant) -> io::Result<UnixStream> {
        let address = match &self.socket {
            Socket::Path(path) => SocketAddrUnix::new(path)?,
            Socket::Abstract(name) => SocketAddrUnix::new_abstract_name(name)?,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let socket = rustix::net::socket_with(family, kind, flags, None)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                // More are waiting to be accepted than it lets wait.
                Err(Errno::AGAIN) if !left.is_zero() => thread::sleep(left.min(CONNECT_PAUSE)),
                Err(errno) => return Err(errno.into()),
            }
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

fn socket(address: &str) -> Option<Socket> {
    address
        .strip_prefix("unix:")?
        .split(',')
        .find_map(|pair| match pair.split_once('=')? {
            ("path", path) => {
                use std::os::unix::ffi::OsStringExt;
                let path = std::ffi::OsString::from_vec(unescaped(path)?);
                Some(Socket::Path(path.into()))
            }
            ("abstract", name) => unescaped(name).map(Socket::Abstract),
            _ => None,
        })
}

/// Decodes `%20` and the like.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    Some(bytes)
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    place: String,
    broker: bool,
    serial: u32,
    /// What was read and is no whole message yet.
    buffer: Vec<u8>,
    /// What came while a reply was waited for.
    signals: Vec<Message>,
    deadline: Instant,
}

/// How long to wait before it tries again to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// More than there are jobs between a call and its reply.
const MOST_SIGNALS: usize = 4096;
const LONGEST_LINE: usize = 4096;

impl Connection {
    /// Connects and says who this is, by the `EXTERNAL` mechanism: the kernel vouches for the uid.
    pub(super) fn open(bus: &Bus, deadline: Instant) -> Result<Self> {
        let place = bus.place();
        let stream = bus
            .connect(deadline)
            .map_err(|error| io_error(&place, "connect", &error))?;
        let mut connection = Connection {
            stream,
            place,
            broker: bus.broker,
            serial: 0,
            buffer: Vec::new(),
            signals: Vec::new(),
            deadline,
        };
        connection.authenticate()?;
        if bus.broker {
            let hello = Message::call(
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "Hello",
                Vec::new(),
            );
            connection.call_to("org.freedesktop.DBus", hello)?;
        }
        Ok(connection)
    }

    pub(super) fn is_broker(&self) -> bool {
        self.broker
    }

    /// Calls systemd and waits for the reply.
    pub(super) fn call(&mut self, message: Message) -> Result<Vec<Value>> {
        self.call_to("org.freedesktop.systemd1", message)
    }

    pub(super) fn call_to(
        &mut self,
        destination: &str,
        mut message: Message,
    ) -> Result<Vec<Value>> {
        self.serial += 1;
        message.serial = self.serial;
        if self.broker {
            message.destination = Some(destination.to_owned());
        }
        if !wire::fits(&message) {
            return Err(self.error("a call longer than 1 MiB", ErrorKind::InvalidInput));
        }
        self.write(&message.encode())?;
        loop {
            let reply = self
                .next(self.deadline)?
                .ok_or_else(|| io_error(&self.place, "wait", &Errno::TIMEDOUT.into()))?;
            if reply.reply_to != Some(self.serial) {
                self.keep(reply);
                continue;
            }
            return match reply.kind {
                Kind::Return => Ok(reply.body),
                _ => Err(self.refused(&message, &reply)),
            };
        }
    }

    /// The next signal, waiting for it until then at most.
    pub(super) fn signal(&mut self, until: Instant) -> Result<Option<Message>> {
        if !self.signals.is_empty() {
            return Ok(Some(self.signals.remove(0)));
        }
        match self.next(until)? {
            Some(message) if message.kind == Kind::Signal => Ok(Some(message)),
            _ => Ok(None),
        }
    }

    pub(super) fn error(&self, text: &str, kind: ErrorKind) -> Error {
        Error::systemd(&self.place, text, kind)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    fn keep(&mut self, message: Message) {
        if message.kind == Kind::Signal && self.signals.len() < MOST_SIGNALS {
            self.signals.push(message);
        }
    }

    fn refused(&self, call: &Message, reply: &Message) -> Error {
        let name = reply.error.as_deref().unwrap_or("an error without a name");
        let member = call.member.as_deref().unwrap_or_default();
        let text = reply
            .body
            .first()
            .and_then(Value::as_text)
            .unwrap_or_default();
        // It is another's text, and is to stay in one line.
        let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
        self.error(&format!("{member}: {name}: {text}"), kind_of(name))
    }

    fn authenticate(&mut self) -> Result<()> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let line = self.line()?;
        if !line.starts_with("OK ") && line != "OK" {
            let line: String = line.chars().filter(|c| !c.is_control()).take(100).collect();
            let text = format!("AUTH EXTERNAL as uid {uid}: {line}");
            return Err(self.error(&text, ErrorKind::PermissionDenied));
        }
        self.write(b"BEGIN\r\n")
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(self.error("a line longer than 4 KiB", ErrorKind::Malformed));
            }
            if !self.fill(self.deadline)? {
                return Err(io_error(&self.place, "wait", &Errno::TIMEDOUT.into()));
            }
        }
    }

    /// The next message, or `None` if none came until then.
    fn next(&mut self, until: Instant) -> Result<Option<Message>> {
        loop {
            if let Some(prefix) = self.buffer.get(..wire::PREFIX) {
                let length = wire::length(prefix).map_err(|fault| self.malformed(fault))?;
                if self.buffer.len() >= length {
                    let rest = self.buffer.split_off(length);
                    let bytes = std::mem::replace(&mut self.buffer, rest);
                    let message = Message::decode(&bytes);
                    return message.map(Some).map_err(|fault| self.malformed(fault));
                }
            }
            if !self.fill(until)? {
                return Ok(None);
            }
        }
    }

    fn malformed(&self, fault: wire::Fault) -> Error {
        self.error(&format!("a message {fault}"), ErrorKind::Malformed)
    }

    /// Reads more; says whether something came until then.
    fn fill(&mut self, until: Instant) -> Result<bool> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut piece = [0; 4096];
        let read = self
            .stream
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .and_then(|()| self.stream.read(&mut piece));
        match read {
            Ok(0) => Err(self.error("the connection was closed", ErrorKind::Os)),
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(io_error(&self.place, "read from", &error)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        send_all(&self.stream, bytes, self.deadline)
            .map_err(|error| io_error(&self.place, "write to", &error))
    }
}

/// Until then at most, however slowly the peer reads. Without SIGPIPE, which may end an embedder that has not asked for
/// it.
fn send_all(stream: &UnixStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT.into());
        }
        stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        match rustix::net::send(stream, bytes, SendFlags::NOSIGNAL) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

pub(super) fn kind_of(name: &str) -> ErrorKind {
    match name.rsplit('.').next().unwrap_or(name) {
        "UnitExists" => ErrorKind::AlreadyExists,
        "AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired" => {
            ErrorKind::PermissionDenied
        }
        "NoSuchUnit" | "NoSuchProcess" | "UnknownObject" | "UnixProcessIdUnknown" => {
            ErrorKind::NotFound
        }
        "ServiceUnknown" | "UnknownMethod" | "UnknownInterface" | "NotSupported" => {
            ErrorKind::Unsupported
        }
        "InvalidArgs" | "PropertyReadOnly" => ErrorKind::InvalidInput,
        "TransactionIsDestructive" | "LimitsExceeded" => ErrorKind::Busy,
        _ => ErrorKind::Os,
    }
}

fn io_error(place: &str, op: &'static str, error: &io::Error) -> Error {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    // A timeout of the socket.
    let errno = if errno == Errno::AGAIN {
        Errno::TIMEDOUT
    } else {
        errno
    };
    if matches!(errno, Errno::ACCESS | Errno::PERM) {
        let text = format!("{op}: it is another user's");
        return Error::systemd(place, &text, ErrorKind::PermissionDenied);
    }
    Error::sys(op, Path::new(place), errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_specification_says() {
        let path = |path: &str| Some(Socket::Path(path.into()));
        assert_eq!(
            socket("unix:path=/run/user/1000/bus"),
            path("/run/user/1000/bus")
        );
        assert_eq!(socket("unix:guid=1f,path=/a%20b"), path("/a b"));
        assert_eq!(
            socket("unix:abstract=/tmp/x,guid=00"),
            Some(Socket::Abstract(b"/tmp/x".to_vec()))
        );
        assert_eq!(
            Bus::address("tcp:host=x;unix:path=/b").unwrap().place(),
            "/b"
        );
        for bad in [
            "",
            "tcp:host=x,port=1",
            "unix:",
            "unix:path",
            "unix:path=%zz",
            "/run/bus",
        ] {
            let error = Bus::address(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
