//! D-Bus messages as bytes; pure. What is read came from elsewhere: every length is bounded, every nesting too.

/// A value of a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// The signature of its elements, and those.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    /// A dictionary entry.
    Entry(Box<Value>, Box<Value>),
    Variant(Box<Value>),
    /// An index into fds, of which this client takes none.
    Fd(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Call,
    Return,
    Error,
    Signal,
    /// Of a later protocol: to be passed over.
    Unknown,
}

/// A message without what this client has no use for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) serial: u32,
    pub(crate) reply_to: Option<u32>,
    pub(crate) path: Option<String>,
    pub(crate) interface: Option<String>,
    pub(crate) member: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) destination: Option<String>,
    pub(crate) body: Vec<Value>,
}

/// Why bytes are no message.
pub(crate) type Fault = &'static str;

/// The part of a message that says how long the rest is.
pub(crate) const PREFIX: usize = 16;
/// Much more than systemd says at once; the protocol would allow 128 MiB.
const LONGEST: usize = 1 << 20;
const DEEPEST: u32 = 32;
const LONGEST_SIGNATURE: usize = 255;
const LITTLE: u8 = b'l';
const BIG: u8 = b'B';

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Value::Text(text.into())
    }

    pub(crate) fn variant(value: Value) -> Self {
        Value::Variant(Box::new(value))
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Path(text) => Some(text),
            Value::Variant(value) => value.as_text(),
            _ => None,
        }
    }

    fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::I16(_) => "n".into(),
            Value::U16(_) => "q".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::F64(_) => "d".into(),
            Value::Text(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Fd(_) => "h".into(),
            Value::Variant(_) => "v".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => format!("({})", signature(fields)),
            Value::Entry(key, value) => format!("{{{}{}}}", key.signature(), value.signature()),
        }
    }
}

fn signature(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

impl Message {
    pub(crate) fn call(path: &str, interface: &str, member: &str, body: Vec<Value>) -> Self {
        Message {
            kind: Kind::Call,
            serial: 0,
            reply_to: None,
            path: Some(path.to_owned()),
            interface: Some(interface.to_owned()),
            member: Some(member.to_owned()),
            error: None,
            destination: None,
            body,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Encoder::default();
        self.body.iter().for_each(|value| body.value(value));
        let mut whole = Encoder::default();
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal => 4,
            Kind::Unknown => 0,
        };
        for byte in [LITTLE, kind, 0, 1] {
            whole.value(&Value::Byte(byte));
        }
        whole.value(&Value::U32(body.0.len() as u32));
        whole.value(&Value::U32(self.serial));
        whole.value(&Value::Array("(yv)".to_owned(), self.fields()));
        whole.align(8);
        whole.0.extend(body.0);
        whole.0
    }

    fn fields(&self) -> Vec<Value> {
        let text = |text: &Option<String>| text.clone().map(Value::Text);
        let signature = signature(&self.body);
        let fields = [
            (1, self.path.clone().map(Value::Path)),
            (2, text(&self.interface)),
            (3, text(&self.member)),
            (4, text(&self.error)),
            (5, self.reply_to.map(Value::U32)),
            (6, text(&self.destination)),
            (
                8,
                (!signature.is_empty()).then_some(Value::Signature(signature)),
            ),
        ];
        let field = |(code, value): (u8, Option<Value>)| {
            value.map(|value| Value::Struct(vec![Value::Byte(code), Value::variant(value)]))
        };
        fields.into_iter().filter_map(field).collect()
    }

    /// Reads a whole message.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let prefix = bytes.get(..PREFIX).ok_or("is cut off")?;
        if length(prefix)? != bytes.len() {
            return Err("has another length than it says");
        }
        let mut decoder = Decoder::new(bytes, prefix[0] == BIG);
        decoder.at = 4;
        let body_length = decoder.u32()? as usize;
        let mut message = Message {
            kind: kind(prefix[1]),
            serial: decoder.u32()?,
            reply_to: None,
            path: None,
            interface: None,
            member: None,
            error: None,
            destination: None,
            body: Vec::new(),
        };
        let Value::Array(_, fields) = decoder.one("a(yv)")? else {
            return Err("has no header fields");
        };
        let mut signature = String::new();
        for field in fields {
            message.take(field, &mut signature)?;
        }
        decoder.align(8)?;
        if bytes.len() - decoder.at != body_length {
            return Err("has a body of another length than it says");
        }
        message.body = decoder.body(&signature)?;
        Ok(message)
    }

    fn take(&mut self, field: Value, signature: &mut String) -> Result<(), Fault> {
        let Value::Struct(pair) = field else {
            return Err("has a header field that is none");
        };
        let (Some(Value::Byte(code)), Some(Value::Variant(value))) = (pair.first(), pair.get(1))
        else {
            return Err("has a header field that is none");
        };
        match (code, &**value) {
            (1, Value::Path(path)) => self.path = Some(path.clone()),
            (2, Value::Text(text)) => self.interface = Some(text.clone()),
            (3, Value::Text(text)) => self.member = Some(text.clone()),
            (4, Value::Text(text)) => self.error = Some(text.clone()),
            (5, Value::U32(serial)) => self.reply_to = Some(*serial),
            (6, Value::Text(text)) => self.destination = Some(text.clone()),
            (8, Value::Signature(text)) => signature.clone_from(text),
            (1..=6 | 8, _) => return Err("has a header field of the wrong type"),
            _ => {}
        }
        Ok(())
    }
}

fn kind(byte: u8) -> Kind {
    match byte {
        1 => Kind::Call,
        2 => Kind::Return,
        3 => Kind::Error,
        4 => Kind::Signal,
        _ => Kind::Unknown,
    }
}

/// How long the message is that begins so.
pub(crate) fn length(prefix: &[u8]) -> Result<usize, Fault> {
    let prefix = prefix.get(..PREFIX).ok_or("is cut off")?;
    if ![LITTLE, BIG].contains(&prefix[0]) {
        return Err("is of no byte order");
    }
    if prefix[3] != 1 {
        return Err("is of another protocol");
    }
    let mut decoder = Decoder::new(prefix, prefix[0] == BIG);
    decoder.at = 4;
    let body = decoder.u32()? as usize;
    decoder.at = 12;
    let fields = decoder.u32()? as usize;
    if body > LONGEST || fields > LONGEST {
        return Err("is longer than 1 MiB");
    }
    Ok((PREFIX + fields).next_multiple_of(8) + body)
}

/// Little-endian.
#[derive(Debug, Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn bytes<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.0.extend(bytes);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(byte) => self.0.push(*byte),
            Value::Bool(bool) => self.bytes(u32::from(*bool).to_le_bytes()),
            Value::I16(n) => self.bytes(n.to_le_bytes()),
            Value::U16(n) => self.bytes(n.to_le_bytes()),
            Value::I32(n) => self.bytes(n.to_le_bytes()),
            Value::U32(n) | Value::Fd(n) => self.bytes(n.to_le_bytes()),
            Value::I64(n) => self.bytes(n.to_le_bytes()),
            Value::U64(n) => self.bytes(n.to_le_bytes()),
            Value::F64(n) => self.bytes(n.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => {
                self.bytes((text.len() as u32).to_le_bytes());
                self.0.extend(text.as_bytes());
                self.0.push(0);
            }
            Value::Signature(text) => self.signature(text),
            Value::Array(element, items) => self.array(element, items),
            Value::Struct(fields) => {
                self.align(8);
                fields.iter().for_each(|field| self.value(field));
            }
            Value::Entry(key, value) => {
                self.align(8);
                self.value(key);
                self.value(value);
            }
            Value::Variant(value) => {
                self.signature(&value.signature());
                self.value(value);
            }
        }
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn array(&mut self, element: &str, items: &[Value]) {
        self.bytes([0; 4]);
        let length_at = self.0.len() - 4;
        self.align(alignment(
            element.as_bytes().first().copied().unwrap_or(b'y'),
        ));
        let start = self.0.len();
        items.iter().for_each(|item| self.value(item));
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

fn alignment(code: u8) -> usize {
    match code {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b'h' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

/// How many bytes the first complete type of a signature has.
fn complete(signature: &[u8], depth: u32) -> Result<usize, Fault> {
    if depth > DEEPEST {
        return Err("has types nested too deep");
    }
    let (close, mut at) = match signature.first() {
        Some(b'a') => return Ok(1 + complete(&signature[1..], depth + 1)?),
        Some(b'(') => (b')', 1),
        Some(b'{') => (b'}', 1),
        Some(code) if b"ybnqiuxtdsoghv".contains(code) => return Ok(1),
        _ => return Err("has a signature that is none"),
    };
    while signature.get(at).is_some_and(|code| *code != close) {
        at += complete(&signature[at..], depth + 1)?;
    }
    // Not cut off, and not empty: every value is to have at least a byte.
    match signature.get(at) {
        Some(_) if at > 1 => Ok(at + 1),
        _ => Err("has a signature that is none"),
    }
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8], big: bool) -> Self {
        Decoder { bytes, at: 0, big }
    }

    fn align(&mut self, to: usize) -> Result<(), Fault> {
        let at = self.at.next_multiple_of(to);
        if at > self.bytes.len() {
            return Err("is cut off");
        }
        self.at = at;
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).ok_or("is cut off")?;
        self.at += n;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.align(N)?;
        let mut number = [0; N];
        number.copy_from_slice(self.take(N)?);
        if self.big {
            number.reverse();
        }
        Ok(number)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.number().map(u32::from_le_bytes)
    }

    /// The values of a signature, up to the end.
    fn body(&mut self, signature: &str) -> Result<Vec<Value>, Fault> {
        let mut values = Vec::new();
        let mut rest = signature.as_bytes();
        while !rest.is_empty() {
            let (first, more) = rest.split_at(complete(rest, 0)?);
            values.push(self.value(first, 0)?);
            rest = more;
        }
        if self.at == self.bytes.len() {
            Ok(values)
        } else {
            Err("has more in its body than its signature says")
        }
    }

    fn one(&mut self, signature: &str) -> Result<Value, Fault> {
        self.value(signature.as_bytes(), 0)
    }

    /// A value of one complete type.
    fn value(&mut self, signature: &[u8], depth: u32) -> Result<Value, Fault> {
        if depth > DEEPEST {
            return Err("has values nested too deep");
        }
        let inner = signature.get(1..).unwrap_or_default();
        Ok(match signature.first().copied().unwrap_or_default() {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => match self.u32()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err("has a boolean that is neither"),
            },
            b'n' => Value::I16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::U16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::I32(i32::from_le_bytes(self.number()?)),
            b'u' => Value::U32(self.u32()?),
            b'x' => Value::I64(i64::from_le_bytes(self.number()?)),
            b't' => Value::U64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::F64(f64::from_le_bytes(self.number()?)),
            b's' => Value::Text(self.text()?),
            b'o' => Value::Path(self.text()?),
            b'g' => Value::Signature(self.signature()?),
            b'h' => Value::Fd(self.u32()?),
            b'v' => self.variant(depth)?,
            b'a' => self.array(inner, depth)?,
            b'(' => Value::Struct(self.fields(inner, depth)?),
            b'{' => self.entry(inner, depth)?,
            _ => return Err("has a signature that is none"),
        })
    }

    fn text(&mut self) -> Result<String, Fault> {
        let n = self.u32()? as usize;
        self.ended(n)
    }

    fn signature(&mut self) -> Result<String, Fault> {
        let n = usize::from(self.take(1)?[0]);
        self.ended(n)
    }

    fn ended(&mut self, n: usize) -> Result<String, Fault> {
        let text = self.take(n)?;
        if self.take(1)? != [0] || text.contains(&0) {
            return Err("has a text with a NUL or without one at its end");
        }
        let text = std::str::from_utf8(text).ok();
        text.map(str::to_owned)
            .ok_or("has a text that is not UTF-8")
    }

    fn variant(&mut self, depth: u32) -> Result<Value, Fault> {
        let signature = self.signature()?;
        if signature.is_empty() || complete(signature.as_bytes(), 0)? != signature.len() {
            return Err("has a variant of no one type");
        }
        let value = self.value(signature.as_bytes(), depth + 1)?;
        Ok(Value::variant(value))
    }

    fn array(&mut self, element: &[u8], depth: u32) -> Result<Value, Fault> {
        let n = self.u32()? as usize;
        self.align(alignment(element.first().copied().unwrap_or(b'y')))?;
        let end = self.at.saturating_add(n);
        if end > self.bytes.len() {
            return Err("is cut off");
        }
        let mut items = Vec::new();
        while self.at < end {
            items.push(self.value(element, depth + 1)?);
        }
        if self.at != end {
            return Err("has an array of another length than it says");
        }
        Ok(Value::Array(
            String::from_utf8_lossy(element).into_owned(),
            items,
        ))
    }

    /// Up to the closing bracket.
    fn fields(&mut self, mut signature: &[u8], depth: u32) -> Result<Vec<Value>, Fault> {
        self.align(8)?;
        let mut fields = Vec::new();
        while signature.len() > 1 {
            let (first, more) = signature.split_at(complete(signature, 0)?);
            fields.push(self.value(first, depth + 1)?);
            signature = more;
        }
        Ok(fields)
    }

    fn entry(&mut self, signature: &[u8], depth: u32) -> Result<Value, Fault> {
        let mut fields = self.fields(signature, depth)?.into_iter();
        match (fields.next(), fields.next(), fields.next()) {
            (Some(key), Some(value), None) => Ok(Value::Entry(Box::new(key), Box::new(value))),
            _ => Err("has a dictionary entry that is no pair"),
        }
    }
}

/// Whether a name may be in a message: the encoder writes lengths of one byte for signatures, of four for texts.
pub(crate) fn fits(message: &Message) -> bool {
    signature(&message.body).len() <= LONGEST_SIGNATURE && message.encode().len() <= LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Value> {
        let entry = |key: &str, value| {
            Value::Entry(Box::new(Value::text(key)), Box::new(Value::variant(value)))
        };
        vec![
            Value::Byte(1),
            Value::U64(u64::MAX),
            Value::Bool(true),
            Value::I16(-2),
            Value::U16(3),
            Value::Byte(9),
            Value::I32(-4),
            Value::U32(5),
            Value::I64(-6),
            Value::F64(0.5),
            Value::text("gr\u{fc}n"),
            Value::Path("/a/b".into()),
            Value::Signature("a{sv}".into()),
            Value::Array("t".into(), vec![]),
            Value::Array(
                "{sv}".into(),
                vec![entry("a", Value::U32(1)), entry("b", Value::text("x"))],
            ),
            Value::Struct(vec![Value::Byte(1), Value::Struct(vec![Value::text("")])]),
            Value::variant(Value::Array(
                "(sv)".into(),
                vec![Value::Struct(vec![
                    Value::text("PIDs"),
                    Value::variant(Value::Array("u".into(), vec![Value::U32(1), Value::U32(2)])),
                ])],
            )),
            Value::Fd(0),
        ]
    }

    fn message() -> Message {
        let mut message = Message::call("/p", "i.f", "M", all());
        message.serial = 7;
        message.destination = Some("org.x".into());
        message.reply_to = Some(6);
        message
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = message().encode();
        assert_eq!(length(&bytes).unwrap(), bytes.len());
        assert_eq!(Message::decode(&bytes).unwrap(), message());
        let empty = Message::call("/", "a.b", "C", vec![]);
        assert_eq!(Message::decode(&empty.encode()).unwrap(), empty);
    }

    #[test]
    fn a_hello_is_as_the_specification_says() {
        let mut hello = Message::call(
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "Hello",
            vec![],
        );
        hello.serial = 1;
        hello.destination = Some("org.freedesktop.DBus".into());
        let bytes = hello.encode();
        assert_eq!(&bytes[..16], b"l\x01\0\x01\0\0\0\0\x01\0\0\0\x6d\0\0\0");
        assert_eq!(&bytes[16..24], b"\x01\x01o\0\x15\0\0\0");
        assert_eq!(bytes.len() % 8, 0);
    }

    #[test]
    fn big_endian_is_read_too() {
        let bytes = b"B\x02\x01\x01\0\0\0\x09\0\0\0\x05\0\0\0\x0f\
            \x05\x01u\0\0\0\0\x07\x08\x01g\0\x01s\0\0\0\0\0\x04unit\0";
        let message = Message::decode(bytes).unwrap();
        assert_eq!(
            (message.kind, message.serial, message.reply_to),
            (Kind::Return, 5, Some(7))
        );
        assert_eq!(message.body, [Value::text("unit")]);
    }

    #[test]
    fn a_message_cut_off_anywhere_is_refused() {
        let bytes = message().encode();
        for n in 0..bytes.len() {
            assert!(Message::decode(&bytes[..n]).is_err(), "{n}");
        }
    }

    #[test]
    fn types_nested_without_end_are_refused() {
        for (open, close) in [("a", ""), ("(", ")"), ("a(", ")")] {
            let deep = format!("{}y{}", open.repeat(100), close.repeat(100));
            assert!(complete(deep.as_bytes(), 0).is_err());
        }
        let mut value = Value::Byte(1);
        for _ in 0..60 {
            value = Value::variant(value);
        }
        let message = Message::call("/", "a.b", "C", vec![value]);
        assert!(
            Message::decode(&message.encode())
                .unwrap_err()
                .contains("deep")
        );
        for bad in ["()", "(", "{", "a", "z", ")", "(y"] {
            assert!(complete(bad.as_bytes(), 0).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_bytes_whatever_break_the_parser() {
        let mut state = 0x0123_4567_89ab_cdef_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let good = message().encode();
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..1 + random() % 6 {
                let at = random() % bytes.len();
                bytes[at] = random() as u8;
            }
            if let Ok(message) = Message::decode(&bytes) {
                // What is understood can be said again.
                let _again = message.encode();
            }
        }
        for _ in 0..20_000 {
            let n = random() % 200;
            let mut bytes: Vec<u8> = (0..n).map(|_| random() as u8).collect();
            if n >= PREFIX {
                bytes[..4].copy_from_slice(b"l\x02\0\x01");
                bytes[4..8].copy_from_slice(&[0; 4]);
                bytes[12..16].copy_from_slice(&((n - PREFIX) as u32).to_le_bytes());
            }
            let _result = Message::decode(&bytes).is_ok();
        }
    }
}
