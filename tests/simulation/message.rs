//! Messages of the protocol, written and cut by code that shares nothing with what is under test.

use std::fmt;

#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    pub fn new(tag: u8, body: impl Into<Vec<u8>>) -> Self {
        Self { tag, body: body.into() }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.body.len() + 4).expect("messages are small");
        out.push(self.tag);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.body);
    }

    /// The fields of an ErrorResponse.
    pub fn field(&self, code: u8) -> String {
        let mut fields = self.body.split(|it| *it == 0);
        let found = fields.find(|it| it.first() == Some(&code)).map(|it| &it[1..]);
        String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
    }

    pub fn is_fatal(&self) -> bool {
        self.tag == b'E' && self.field(b'S') == "FATAL"
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(120)];
        write!(f, "{}:{}({})", self.tag as char, shown.escape_ascii(), self.body.len())
    }
}

/// Bytes that come at one end and leave at the other.
#[derive(Clone, Default, Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Those before it have left.
    start: usize,
}

impl Buffer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn put(&mut self, message: &Message) {
        message.encode(&mut self.bytes);
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub fn drop_front(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    pub fn take_front(&mut self, count: usize) -> Vec<u8> {
        let taken = self.as_slice()[..count].to_vec();
        self.drop_front(count);
        taken
    }

    pub fn truncate(&mut self, count: usize) {
        self.bytes.truncate(self.start + count);
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Cuts a stream of bytes into messages.
#[derive(Clone, Default, Debug)]
pub struct Framer(Buffer);

impl Framer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The bytes of the first message, if it is whole.
    fn first(&self) -> Option<usize> {
        let &[tag, a, b, c, d] = self.0.as_slice().first_chunk::<5>()?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        assert!((4..1 << 28).contains(&length), "{:?} has a length without sense: {length}", tag as char);
        (self.0.len() > length).then_some(1 + length)
    }

    pub fn next(&mut self) -> Option<Message> {
        let size = self.first()?;
        let whole = &self.0.as_slice()[..size];
        let message = Message { tag: whole[0], body: whole[5..].to_vec() };
        self.0.drop_front(size);
        Some(message)
    }

    /// The tags of the messages in it; `None` where the last one is cut off.
    pub fn tags(&self) -> Option<Vec<u8>> {
        let mut rest = self.clone();
        let tags = std::iter::from_fn(|| rest.next()).map(|it| it.tag).collect();
        rest.is_empty().then_some(tags)
    }

    /// Whether the first message is whole.
    pub fn is_ready(&self) -> bool {
        self.first().is_some()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn c_strings(list: &[&[u8]]) -> Vec<u8> {
    list.iter().flat_map(|it| it.iter().copied().chain([0])).collect()
}

pub fn query(sql: &str) -> Message {
    Message::new(b'Q', c_strings(&[sql.as_bytes()]))
}

pub fn parse(name: &str, sql: &str) -> Message {
    let mut body = c_strings(&[name.as_bytes(), sql.as_bytes()]);
    body.extend([0, 0]);
    Message::new(b'P', body)
}

pub fn bind(portal: &str, statement: &str, value: Option<&str>) -> Message {
    let mut body = c_strings(&[portal.as_bytes(), statement.as_bytes()]);
    body.extend([0, 0]);
    match value {
        None => body.extend([0, 0]),
        Some(value) => {
            body.extend([0, 1]);
            body.extend(u32::try_from(value.len()).expect("values are small").to_be_bytes());
            body.extend(value.bytes());
        }
    }
    body.extend([0, 0]);
    Message::new(b'B', body)
}

/// Describe or Close, of a statement (`S`) or a portal (`P`).
pub fn target(tag: u8, kind: u8, name: &str) -> Message {
    let mut body = vec![kind];
    body.extend(c_strings(&[name.as_bytes()]));
    Message::new(tag, body)
}

pub fn execute(portal: &str, rows_max: u32) -> Message {
    let mut body = c_strings(&[portal.as_bytes()]);
    body.extend(rows_max.to_be_bytes());
    Message::new(b'E', body)
}

pub fn sync() -> Message {
    Message::new(b'S', [])
}

pub fn row(values: &[&[u8]]) -> Message {
    let mut body = u16::try_from(values.len()).expect("few columns").to_be_bytes().to_vec();
    for value in values {
        body.extend(u32::try_from(value.len()).expect("values are small").to_be_bytes());
        body.extend_from_slice(value);
    }
    Message::new(b'D', body)
}

pub fn complete(tag: &str) -> Message {
    Message::new(b'C', c_strings(&[tag.as_bytes()]))
}

pub fn status(name: &str, value: &str) -> Message {
    Message::new(b'S', c_strings(&[name.as_bytes(), value.as_bytes()]))
}

/// An ErrorResponse or, with severity `NOTICE`, a NoticeResponse.
pub fn report(severity: &str, sqlstate: &str, message: &str, routine: &str) -> Message {
    let fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", message), ("R", routine)];
    let mut body: Vec<u8> = Vec::new();
    for (code, value) in fields {
        body.extend(code.bytes().chain(value.bytes()).chain([0]));
    }
    body.push(0);
    Message::new(if severity == "NOTICE" { b'N' } else { b'E' }, body)
}

/// Takes fields off the front of a body.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn text(&mut self) -> &'a str {
        let end = self.0.iter().position(|it| *it == 0).expect("strings end");
        let text = &self.0[..end];
        self.0 = &self.0[end + 1..];
        std::str::from_utf8(text).expect("the simulation speaks UTF-8")
    }

    pub fn u8(&mut self) -> u8 {
        let byte = self.0[0];
        self.0 = &self.0[1..];
        byte
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes([self.u8(), self.u8(), self.u8(), self.u8()])
    }
}
