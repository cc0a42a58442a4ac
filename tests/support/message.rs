//! The protocol's messages: built byte by byte for sending, and rendered as text for comparing.
//!
//! Written from the PostgreSQL manual's chapter "Message Formats", not from pgweir.

use std::fmt;

/// Protocol 3.0, as in a start-up packet.
pub const PROTOCOL_3_0: u32 = 0x0003_0000;
/// Protocol 3.2: longer cancel keys.
pub const PROTOCOL_3_2: u32 = 0x0003_0002;

/// A message from a client.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a test's message is small");
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn untagged(body: &[u8]) -> Vec<u8> {
    message(0, body).split_off(1)
}

fn c_string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn count(of: usize) -> [u8; 2] {
    u16::try_from(of).expect("a test's list is short").to_be_bytes()
}

pub fn startup(protocol: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = protocol.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(c_string(name));
        body.extend(c_string(value));
    }
    body.push(0);
    untagged(&body)
}

pub fn ssl_request() -> Vec<u8> {
    untagged(&80_877_103_u32.to_be_bytes())
}

pub fn gss_request() -> Vec<u8> {
    untagged(&80_877_104_u32.to_be_bytes())
}

pub fn cancel_request(pid: u32, key: &[u8]) -> Vec<u8> {
    untagged(&[&80_877_102_u32.to_be_bytes(), &pid.to_be_bytes()[..], key].concat())
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &c_string(sql))
}

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [c_string(name), c_string(sql)].concat();
    body.extend(count(types.len()));
    types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    message(b'P', &body)
}

/// A Bind with parameters and results as text.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let mut body = [c_string(portal), c_string(statement), vec![0, 0]].concat();
    body.extend(count(values.len()));
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(text) => {
                body.extend(u32::try_from(text.len()).expect("a test's value is small").to_be_bytes());
                body.extend(text.as_bytes());
            }
        }
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

pub fn describe_statement(name: &str) -> Vec<u8> {
    message(b'D', &[vec![b'S'], c_string(name)].concat())
}

pub fn describe_portal(name: &str) -> Vec<u8> {
    message(b'D', &[vec![b'P'], c_string(name)].concat())
}

pub fn close_statement(name: &str) -> Vec<u8> {
    message(b'C', &[vec![b'S'], c_string(name)].concat())
}

pub fn close_portal(name: &str) -> Vec<u8> {
    message(b'C', &[vec![b'P'], c_string(name)].concat())
}

pub fn execute(portal: &str, rows_max: u32) -> Vec<u8> {
    message(b'E', &[c_string(portal), rows_max.to_be_bytes().to_vec()].concat())
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &c_string(reason))
}

/// A FunctionCall with arguments and result as text.
pub fn function_call(oid: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(count(arguments.len()));
    for text in arguments {
        body.extend(u32::try_from(text.len()).expect("a test's value is small").to_be_bytes());
        body.extend(text.as_bytes());
    }
    body.extend([0, 0]);
    message(b'F', &body)
}

pub fn password(text: &str) -> Vec<u8> {
    message(b'p', &c_string(text))
}

/// Parse, Bind, Describe, Execute of an unnamed statement, without the Sync.
pub fn extended(sql: &str, values: &[Option<&str>]) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", values), describe_portal(""), execute("", 0)].concat()
}

/// A message from a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse.
    pub fn field(&self, wanted: u8) -> Option<String> {
        let mut rest = &self.body[..];
        while let [code, tail @ ..] = rest {
            let end = tail.iter().position(|&byte| byte == 0)?;
            if *code == wanted {
                return Some(String::from_utf8_lossy(&tail[..end]).into_owned());
            }
            rest = &tail[end + 1..];
        }
        None
    }

    /// The SQLSTATE of an error or notice.
    pub fn sqlstate(&self) -> String {
        self.field(b'C').unwrap_or_default()
    }

    /// The text of an error or notice.
    pub fn text(&self) -> String {
        self.field(b'M').unwrap_or_default()
    }

    /// The columns of a DataRow.
    pub fn columns(&self) -> Vec<Option<String>> {
        let mut rest = Reader(&self.body);
        (0..rest.u16()).map(|_| rest.value()).collect()
    }

    /// The names in a RowDescription.
    pub fn names(&self) -> Vec<String> {
        let mut rest = Reader(&self.body);
        (0..rest.u16())
            .map(|_| {
                let name = rest.c_string();
                rest.take(18);
                name
            })
            .collect()
    }

    /// The OIDs of the column types in a RowDescription.
    pub fn types(&self) -> Vec<u32> {
        let mut rest = Reader(&self.body);
        (0..rest.u16())
            .map(|_| {
                rest.c_string();
                rest.take(6);
                let oid = rest.u32();
                rest.take(8);
                oid
            })
            .collect()
    }
}

/// The message as text: everything in it, in its order, but for what differs between any two servers' processes.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = Reader(&self.body);
        write!(f, "{}", char::from(self.tag))?;
        match self.tag {
            b'C' => write!(f, " {}", rest.c_string())?,
            b'Z' => write!(f, " {}", char::from(rest.take(1)[0]))?,
            b'S' => write!(f, " {}={}", rest.c_string(), rest.c_string())?,
            b'D' => {
                for _ in 0..rest.u16() {
                    match rest.value() {
                        Some(text) => write!(f, " {}", short(&text))?,
                        None => write!(f, " NULL")?,
                    }
                }
            }
            b'E' | b'N' => {
                while rest.0.len() > 1 {
                    write!(f, " {}={:?}", char::from(rest.take(1)[0]), rest.c_string())?;
                }
                // One who hung up has said nothing at all.
                rest.take(rest.0.len().min(1));
            }
            // The pid is another through a pooler.
            b'A' => {
                rest.take(4);
                write!(f, " {} {:?}", rest.c_string(), rest.c_string())?;
            }
            b'K' => write!(f, " (key of {} bytes)", rest.take(self.body.len()).len())?,
            b'R' => write!(f, " {}", rest.u32())?,
            _ => {}
        }
        match rest.0 {
            [] => Ok(()),
            more => write!(f, " {}", short(&more.escape_ascii().to_string())),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A long text as its beginning, its length and a sum over all of it.
fn short(text: &str) -> String {
    if text.len() <= 200 {
        return format!("{text:?}");
    }
    let sum = text.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    format!("{:?}… ({} bytes, sum {sum:x})", text.chars().take(40).collect::<String>(), text.len())
}

/// The tags of messages as one text, such as `12DCZ`.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

/// All rows among the messages.
pub fn rows(messages: &[Message]) -> Vec<Vec<Option<String>>> {
    messages.iter().filter(|message| message.tag == b'D').map(Message::columns).collect()
}

/// The only error among the messages.
#[track_caller]
pub fn error(messages: &[Message]) -> &Message {
    let mut errors = messages.iter().filter(|message| message.tag == b'E');
    let first = errors.next().unwrap_or_else(|| panic!("no error in {messages:?}"));
    assert!(errors.next().is_none(), "more than one error in {messages:?}");
    first
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(count).expect("the message is as long as it says");
        self.0 = rest;
        taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn value(&mut self) -> Option<String> {
        let length = self.u32();
        (length != u32::MAX).then(|| String::from_utf8_lossy(self.take(length as usize)).into_owned())
    }

    fn c_string(&mut self) -> String {
        let end = self.0.iter().position(|&byte| byte == 0).expect("a string ends");
        let text = String::from_utf8_lossy(self.take(end)).into_owned();
        self.take(1);
        text
    }
}
