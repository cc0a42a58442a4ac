//! A PostgreSQL that does nothing: it lets everybody in and answers every query with one row.
//!
//! Not a model of PostgreSQL: it reads what pgbench and poolers send, and keeps nothing but the settings it reports.

use std::io;
use std::net::TcpListener;

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Numbers of requests that come in place of a protocol version: `src/include/libpq/pqcomm.h`.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// A start-up packet's length and version.
const START_BYTES: usize = 8;
/// A message's tag and length.
const HEADER_BYTES: usize = 5;

/// What is reported at start-up.
const SETTINGS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "on"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.0"),
    ("session_authorization", "postgres"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
];

pub fn answer(listener: TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            tokio::spawn(session(socket));
        }
    })
}

async fn session(mut socket: TcpStream) -> io::Result<()> {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    while !start(&mut input, &mut output)? {
        socket.write_all_buf(&mut output).await?;
        receive(&mut socket, &mut input).await?;
    }
    loop {
        while let Some((tag, body)) = message(&mut input) {
            if tag == b'X' {
                return Ok(());
            }
            reply(tag, &body, &mut output);
        }
        if !output.is_empty() {
            socket.write_all_buf(&mut output).await?;
        }
        receive(&mut socket, &mut input).await?;
    }
}

/// Not cancel safe.
async fn receive(socket: &mut TcpStream, input: &mut BytesMut) -> io::Result<()> {
    input.reserve(super::BUFFER_BYTES);
    match socket.read_buf(input).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Reads a start-up packet, if it is there. True: the session has begun.
fn start(input: &mut BytesMut, output: &mut BytesMut) -> io::Result<bool> {
    if input.len() < START_BYTES {
        return Ok(false);
    }
    let (length, version) = ((&input[..]).get_u32() as usize, (&input[4..]).get_u32());
    if input.len() < length {
        return Ok(false);
    }
    input.advance(length);
    match version {
        SSL_REQUEST | GSS_REQUEST => output.put_u8(b'N'),
        CANCEL_REQUEST => return Err(io::ErrorKind::ConnectionAborted.into()),
        _ => {
            put(output, b'R', &[&[0; 4]]);
            SETTINGS.iter().for_each(|(name, value)| report(output, name, value));
            put(output, b'K', &[&[0, 0, 0, 1, 0, 0, 0, 1]]);
            put(output, b'Z', &[b"I"]);
        }
    }
    Ok(version != SSL_REQUEST && version != GSS_REQUEST)
}

fn message(input: &mut BytesMut) -> Option<(u8, BytesMut)> {
    let mut header = input.get(..HEADER_BYTES)?;
    let (tag, length) = (header.get_u8(), header.get_u32() as usize);
    if input.len() <= length {
        return None;
    }
    let mut whole = input.split_to(length + 1);
    whole.advance(HEADER_BYTES);
    Some((tag, whole))
}

fn put(output: &mut BytesMut, tag: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|it| it.len()).sum();
    output.put_u8(tag);
    output.put_u32(u32::try_from(length + 4).unwrap_or(u32::MAX));
    parts.iter().for_each(|it| output.put_slice(it));
}

fn report(output: &mut BytesMut, name: &str, value: &str) {
    put(output, b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"]);
}

/// One column, an int4.
fn describe(output: &mut BytesMut) {
    const REST: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 23, 0, 4, 255, 255, 255, 255, 0, 0];
    put(output, b'T', &[&[0, 1], b"abalance\0", REST]);
}

fn row(output: &mut BytesMut) {
    put(output, b'D', &[&[0, 1, 0, 0, 0, 1], b"0"]);
    put(output, b'C', &[b"SELECT 1\0"]);
}

fn reply(tag: u8, body: &[u8], output: &mut BytesMut) {
    match tag {
        b'P' => put(output, b'1', &[]),
        b'B' => put(output, b'2', &[]),
        b'C' => put(output, b'3', &[]),
        b'D' => {
            if body.first() == Some(&b'S') {
                put(output, b't', &[&[0, 0]]);
            }
            describe(output);
        }
        b'E' => row(output),
        b'S' => put(output, b'Z', &[b"I"]),
        b'Q' => {
            query(body, output);
            put(output, b'Z', &[b"I"]);
        }
        // Flush, and passwords that were not asked for.
        _ => {}
    }
}

fn query(body: &[u8], output: &mut BytesMut) {
    if body.get(..6).is_some_and(|it| it.eq_ignore_ascii_case(b"SELECT")) {
        describe(output);
        return row(output);
    }
    let text = String::from_utf8_lossy(body);
    for statement in text.trim_end_matches('\0').split(';').map(str::trim).filter(|it| !it.is_empty()) {
        let set = statement.strip_prefix("SET ").and_then(|it| it.split_once('='));
        if let Some((name, value)) = set {
            report(output, name.trim(), value.trim().trim_matches('\''));
        }
        put(output, b'C', &[b"SET\0"]);
    }
}
