//! What each fuzz target does with its bytes. `tests/fuzz_corpus.rs` compiles this file too and runs every body over
//! the corpus, so that what was found once stays fixed without a fuzzer.
//!
//! A body panics where pgweir breaks a promise: no bytes make it panic, what it writes it can read, and what it
//! relays stays in messages.

use std::num::NonZeroU32;
use std::path::Path;

use bytes::BytesMut;
use pgweir::auth::scram::{self, ClientStart, ServerExchange, message};
use pgweir::auth::{Credentials, Stored, Upstream};
use pgweir::config::{Dialect, Nowhere, hba, ident, read};
use pgweir::session::residue;
use pgweir::wire::frame::{Fields, HEADER, Header};
use pgweir::wire::frontend::{BindHead, Parse, Target};
use pgweir::wire::startup::{First, encode_startup};
use pgweir::wire::{Backend, Report};

mod relay;

/// A fuzz target.
pub type Body = fn(&[u8]);

/// All targets, by the names of their corpora.
pub const TARGETS: [(&str, Body); 11] = [
    ("frame", frame),
    ("startup", startup),
    ("frontend", frontend),
    ("backend", backend),
    ("relay", relay::relay),
    ("scram", scram),
    ("toml", toml),
    ("ini", ini),
    ("hba", hba),
    ("residue", residue),
    ("stored", stored),
];

/// Runs the target of that name.
pub fn run(name: &str, data: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(it, _)| *it == name).expect("a target of that name");
    body(data);
}

fn frame(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(header)) = Header::peek(rest) {
        assert_eq!(header.total(), HEADER + header.body);
        let Some(body) = rest.get(HEADER..header.total()) else { break };
        let mut fields = Fields::of(body);
        while fields.c_str().is_some() {}
        let left = fields.rest().len();
        assert!(fields.bytes(left + 1).is_none() && fields.bytes(left).is_some());
        rest = &rest[header.total()..];
    }
}

fn startup(data: &[u8]) {
    let Ok(Some(size)) = First::size(data) else { return };
    let Some(packet) = data.get(..size) else { return };
    let Ok(First::Startup(startup)) = First::decode(packet) else { return };
    let parameters = || startup.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut out = BytesMut::new();
    encode_startup(&mut out, startup.minor, parameters());
    let Ok(First::Startup(again)) = First::decode(&out) else { panic!("what was written can't be read") };
    assert_eq!((again.minor, &again.parameters), (startup.minor, &startup.parameters));
    assert!(startup.minor_spoken() <= startup.minor);
}

fn frontend(data: &[u8]) {
    if let Ok(parse) = Parse::decode(data) {
        assert!(data.ends_with(parse.rest) && parse.rest.starts_with(parse.text));
    }
    if let Some(head) = BindHead::peek(data) {
        assert_eq!(head.size, head.portal.len() + head.statement.len() + 2);
        assert!(head.size <= data.len());
    }
    if let Ok(Target::Statement(name) | Target::Portal(name)) = Target::decode(data) {
        assert_eq!(name.len() + 2, data.len());
    }
}

fn backend(data: &[u8]) {
    let Some((tag, body)) = data.split_first() else { return };
    match Backend::decode(*tag, body) {
        Ok(Backend::ErrorResponse(report) | Backend::NoticeResponse(report)) => {
            let mut out = BytesMut::new();
            report.encode(&mut out);
            assert_eq!(Report::parse(&out[HEADER..]).as_ref(), Ok(&report));
        }
        Ok(Backend::DataRow(values)) => {
            let bytes: usize = values.iter().map(|it| 4 + it.map_or(0, <[u8]>::len)).sum();
            assert!(bytes + 2 <= body.len());
        }
        _ => {}
    }
}

fn scram(data: &[u8]) {
    const ITERATIONS: NonZeroU32 = NonZeroU32::new(1).expect("one is not zero");
    let _ = message::ClientFirst::parse(data);
    let _ = message::ClientFinal::parse(data);
    let _ = message::ServerFirst::parse(data);
    let _ = message::ServerFinal::parse(data);
    // Two messages of one side, the second after a zero byte.
    let mut parts = data.splitn(2, |it| *it == 0);
    let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if let Ok((exchange, _)) = ServerExchange::begin(first, b"salt", ITERATIONS, "nonce")
        && let Ok(proof) = exchange.receive(second)
    {
        assert!(proof.verify(&[1; 32], &[2; 32]).is_err(), "nobody can guess a proof");
    }
    let (start, _) = ClientStart::new(scram::nonce([7; scram::NONCE_BYTES]));
    let _ = start.receive(first);
    // And the same through a whole login to a server, message by message.
    let mut upstream = Upstream::new("user", Credentials::password("secret"), [7; scram::NONCE_BYTES]);
    for part in data.split(|it| *it == 0xff) {
        if let Ok(message) = Backend::decode(b'R', part) {
            let _ = upstream.on_auth(&message);
        }
    }
}

fn configuration(data: &[u8], dialect: Dialect) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.split('\n').count();
    if let Err(found) = read(Path::new("fuzz"), text, dialect, &Nowhere) {
        assert!(!found.is_empty(), "a file is refused for a reason");
        assert!(found.iter().all(|it| it.line <= lines + 1), "{found:?}");
    }
}

fn toml(data: &[u8]) {
    configuration(data, Dialect::Toml);
}

fn ini(data: &[u8]) {
    configuration(data, Dialect::Ini);
}

fn hba(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (maps, _) = ident::Maps::read(text);
    let nothing = |_: &Path| Err("there are no files here".to_owned());
    let context = hba::Context { file: Path::new("fuzz"), maps: &maps, text: &nothing };
    let (_, findings) = hba::Rules::read(text, &context);
    assert!(findings.iter().all(|it| it.line <= text.split('\n').count()));
}

fn residue(data: &[u8]) {
    let reported = |name: &str| name == "timezone";
    let found = residue::of_statement(data, reported);
    // What stands alone leaves no less when something harmless precedes it.
    let longer: Vec<u8> = [&b"select 1;"[..], data].concat();
    assert!(
        residue::of_statement(&longer, reported).state().contains(found.state()),
        "{}",
        data.escape_ascii()
    );
    let _ = residue::of_tag(data);
    let _ = found.cleaning();
}

fn stored(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(secret) = Stored::parse(text) {
        assert!(!format!("{secret:?}").contains("SCRAM-SHA-256$"), "a secret is not shown");
    }
}
