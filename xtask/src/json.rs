//! As much of JSON as cargo's messages need.

use crate::Result;

#[derive(Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// As written: nothing here counts with one.
    Number(String),
    String(String),
    Array(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    pub(crate) fn parse(text: &str) -> Result<Value> {
        let mut parser = Parser { text, at: 0 };
        let value = parser.value()?;
        match parser.peek() {
            None => Ok(value),
            Some(_) => Err(parser.unexpected()),
        }
    }

    /// The member of an object, `Null` where there is none.
    pub(crate) fn field(&self, name: &str) -> &Value {
        let Value::Object(members) = self else {
            return &Value::Null;
        };
        let found = members.iter().find(|(key, _)| key == name);
        found.map_or(&Value::Null, |(_, value)| value)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The items of an array, none of anything else.
    pub(crate) fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) => items,
            _ => &[],
        }
    }

    /// The names of an object's members.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let members: &[(String, Value)] = match self {
            Value::Object(members) => members,
            _ => &[],
        };
        members.iter().map(|(key, _)| key.as_str())
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Value> {
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(_) => self.word(),
            None => Err(self.unexpected()),
        }
    }

    fn object(&mut self) -> Result<Value> {
        let mut members = Vec::new();
        self.expect(b'{')?;
        if self.took(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            members.push((key, self.value()?));
            if self.took(b'}') {
                return Ok(Value::Object(members));
            }
            self.expect(b',')?;
        }
    }

    fn array(&mut self) -> Result<Value> {
        let mut items = Vec::new();
        self.expect(b'[')?;
        if self.took(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.took(b']') {
                return Ok(Value::Array(items));
            }
            self.expect(b',')?;
        }
    }

    fn string(&mut self) -> Result<String> {
        self.expect(b'"')?;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let stop = rest.find(['"', '\\']).ok_or_else(|| self.unexpected())?;
            out.push_str(&rest[..stop]);
            self.at += stop + 1;
            if rest.as_bytes()[stop] == b'"' {
                return Ok(out);
            }
            out.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char> {
        let letter = self.text.as_bytes().get(self.at).copied();
        self.at += 1;
        Ok(match letter {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'u') => self.unicode()?,
            Some(plain @ (b'"' | b'\\' | b'/')) => char::from(plain),
            _ => return Err(self.unexpected()),
        })
    }

    fn unicode(&mut self) -> Result<char> {
        let digits = self.text.get(self.at..self.at + 4);
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4;
        // Half of a surrogate pair stands in rendered messages only, which nothing here reads.
        let code = code.ok_or_else(|| self.unexpected())?;
        Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn word(&mut self) -> Result<Value> {
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c))
            .unwrap_or(rest.len());
        let word = &rest[..end];
        self.at += end;
        match word {
            "null" => Ok(Value::Null),
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            number if number.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                Ok(Value::Number(number.to_owned()))
            }
            _ => Err(self.unexpected()),
        }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn took(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.took(byte) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn unexpected(&self) -> Box<dyn std::error::Error> {
        format!("malformed JSON at byte {}", self.at).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_cargo_writes() {
        let text = r#" {"reason":"compiler-artifact","n":-1.5e3,"profile":{"test":true,"x":null},
            "kind":["lib","té\"\\\u0041\n"],"none":[],"executable":"/a/b"} "#;
        let value = Value::parse(text).unwrap();
        assert_eq!(value.field("executable").text(), Some("/a/b"));
        assert_eq!(value.field("profile").field("test"), &Value::Bool(true));
        assert_eq!(value.field("kind").items()[1].text(), Some("té\"\\A\n"));
        assert_eq!(value.field("n"), &Value::Number("-1.5e3".into()));
        assert_eq!(value.field("absent"), &Value::Null);
        assert_eq!(
            value.field("profile").keys().collect::<Vec<_>>(),
            ["test", "x"]
        );
    }

    #[test]
    fn refuses_what_is_cut_or_wrong() {
        for text in [
            "",
            "{",
            "[1,",
            "\"abc",
            "{\"a\" 1}",
            "[1] 2",
            "nul",
            "\"\\u00",
            "\"\\x\"",
        ] {
            assert!(Value::parse(text).is_err(), "{text:?}");
        }
    }
}
