//! A name server of a test's own: what it says can be changed at any time.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a name server says.
#[derive(Default)]
pub struct Answers {
    /// Addresses and time to live of each name, in lower case and without a dot at its end.
    pub names: BTreeMap<String, (Vec<Ipv4Addr>, u32)>,
    /// Serial numbers of zones.
    pub serials: BTreeMap<String, u32>,
    /// Whether UDP answers are cut short, so that TCP must be asked.
    pub truncates: bool,
    /// Whether it says nothing at all.
    pub is_silent: bool,
    /// Questions for addresses of version 4 so far, over UDP and over TCP.
    pub asked: (usize, usize),
}

/// A running name server. It ends with the test process.
pub struct NameServer {
    answers: Arc<Mutex<Answers>>,
    port: u16,
}

const A: u16 = 1;
const SOA: u16 = 6;
const NXDOMAIN: u8 = 3;
const TRUNCATED: u8 = 0x02;

impl NameServer {
    /// One that knows nothing yet.
    pub fn start() -> Self {
        let answers = Arc::new(Mutex::new(Answers::default()));
        let (listener, socket) = (0..64)
            .find_map(|_| {
                let listener = TcpListener::bind("127.0.0.1:0").ok()?;
                let socket = UdpSocket::bind(listener.local_addr().ok()?).ok()?;
                Some((listener, socket))
            })
            .expect("some port is free for UDP and TCP");
        let port = listener.local_addr().expect("it is bound").port();
        let known = Arc::clone(&answers);
        std::thread::spawn(move || {
            let mut question = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                if let Some(answer) =
                    respond(&mut known.lock().expect("nobody panics"), &question[..length], true)
                {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        let known = Arc::clone(&answers);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let known = Arc::clone(&known);
                std::thread::spawn(move || over_tcp(stream, &known));
            }
        });
        Self { answers, port }
    }

    /// What it says; it may be changed.
    pub fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().expect("nobody panics")
    }

    /// Gives a name these addresses, for so many seconds.
    pub fn put(&self, name: &str, addresses: &[&str], ttl: u32) {
        let addresses = addresses.iter().map(|it| it.parse().expect("an address")).collect();
        self.answers().names.insert(name.to_owned(), (addresses, ttl));
    }

    /// A `resolv.conf` that leads to it.
    pub fn resolv_conf(&self) -> String {
        format!("nameserver 127.0.0.1:{}\noptions timeout:1 attempts:1\n", self.port)
    }
}

fn over_tcp(mut stream: TcpStream, known: &Mutex<Answers>) -> Option<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question).ok()?;
        let answer = respond(&mut known.lock().expect("nobody panics"), &question, false)?;
        stream.write_all(&u16::try_from(answer.len()).ok()?.to_be_bytes()).ok()?;
        stream.write_all(&answer).ok()?;
    }
}

/// RFC 1035, section 4: a header, the question again, and records that point to its name.
fn respond(known: &mut Answers, question: &[u8], is_udp: bool) -> Option<Vec<u8>> {
    if known.is_silent {
        return None;
    }
    let (name, end) = name_at(question, 12)?;
    let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
    let mut records: Vec<Vec<u8>> = Vec::new();
    let mut is_known = known.names.contains_key(&name);
    if kind == A {
        *(if is_udp { &mut known.asked.0 } else { &mut known.asked.1 }) += 1;
        let found = known.names.get(&name).into_iter();
        let each =
            found.flat_map(|(addresses, ttl)| addresses.iter().map(|it| record(A, *ttl, &it.octets())));
        records.extend(each);
    }
    if let (SOA, Some(serial)) = (kind, known.serials.get(&name)) {
        is_known = true;
        let numbers = [*serial, 3600, 600, 86400, 60].map(u32::to_be_bytes).concat();
        records.push(record(SOA, 60, &[&[0, 0], &*numbers].concat()));
    }
    let cut = is_udp && known.truncates && kind == A;
    if cut {
        records.clear();
    }
    let mut answer = question[..2].to_vec();
    answer.push(0x85 | if cut { TRUNCATED } else { 0 });
    answer.push(0x80 | if is_known { 0 } else { NXDOMAIN });
    let count = u8::try_from(records.len()).ok()?;
    answer.extend([0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(&question[12..end + 4]);
    answer.extend(records.concat());
    Some(answer)
}

fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("short");
    let head = [&[0xC0, 12][..], &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &length.to_be_bytes()];
    [&head.concat(), data].concat()
}

/// The name that begins there, and where it ends.
fn name_at(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_lowercase());
        at += length;
    }
}
