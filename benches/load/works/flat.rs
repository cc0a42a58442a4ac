//! What must not grow: memory while much is sent before one Sync, and while a client reads slowly. And what the
//! relay allocates, which is held elsewhere.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::{Who, Work, less};
use crate::clients::{message, plain, until_ready};
use crate::figures::{Against, Measure, Row};
use crate::pooler::{Instance, Layout};
use crate::process::{Watch, resident};
use crate::site::{DATABASE, Site};

const GROWTH: Measure = less("growth of resident memory, MB", 2, None);
const ALLOCATIONS: Measure = less("allocations: held to 0 by `cargo test --test cost`", 0, None);
/// Megabytes.
const BAR: f64 = 1.0;
const MB: f64 = 1e6;

pub fn works(site: &Site) -> Vec<Work> {
    let batch = format!("{} MB before one Sync", site.plan.batch_mb);
    let allocations = "a transaction in steady state";
    vec![
        Work::new(allocations, vec![Row::new(allocations, ALLOCATIONS)], |_, _| Ok(Vec::new()))
            .by(Who::Nobody),
        grows(batch, |instance, site| send_batch(instance, site.plan.batch_mb)),
        grows("1 byte a second of 1 GB".into(), |instance, site| {
            read_slowly(instance, site.plan.slow_seconds).map_err(|error| error.to_string())
        }),
    ]
}

fn grows(name: String, action: fn(&Instance, &Site) -> Result<(), String>) -> Work {
    let rows = vec![Row::new(&name, GROWTH).held(Against::Nothing, BAR, BAR)];
    Work::new(name, rows, move |subject, site| {
        let instance = subject.start(&Layout::common(site), site)?;
        // Whatever is set up once is there afterwards.
        send_batch(&instance, 1)?;
        read_all(&instance).map_err(|error| error.to_string())?;
        let pid = instance.process()?;
        let before = resident(pid)?;
        let watch = Watch::of(pid);
        action(&instance, site)?;
        Ok(vec![(watch.most_resident() - before).max(0.0) / MB])
    })
    .a_few_times()
}

/// Binds and executes a statement with large parameters, again and again, and says Sync at last.
fn send_batch(instance: &Instance, megabytes: usize) -> Result<(), String> {
    const PARAMETER: usize = 100_000;
    let mut client = plain(instance.port, DATABASE).map_err(|error| error.to_string())?;
    let mut reader = client.try_clone().map_err(|error| error.to_string())?;
    let reading = thread::spawn(move || until_ready(&mut reader));
    let parameter = vec![b'x'; PARAMETER];
    let length = u32::try_from(PARAMETER).expect("below 4 GB").to_be_bytes();
    let mut turn = message(b'B', &[b"\0\0", &[0, 0, 0, 1], &length, &parameter, &[0, 0]]);
    turn.extend_from_slice(&message(b'E', &[b"\0", &[0; 4]]));
    let mut send = || {
        client.write_all(&message(b'P', &[b"\0SELECT length($1::text)\0", &[0, 0]]))?;
        for _ in 0..megabytes * 10 {
            client.write_all(&turn)?;
        }
        client.write_all(&message(b'S', &[]))
    };
    let sent = send();
    let answered = reading.join().map_err(|_| "the reader panicked")?;
    sent.and(answered).map_err(|error| error.to_string())
}

/// A result of 20 MB, as fast as it comes.
fn read_all(instance: &Instance) -> std::io::Result<()> {
    let mut client: TcpStream = plain(instance.port, DATABASE)?;
    let sql = b"SELECT repeat('x', 1000) FROM generate_series(1, 20000)\0";
    client.write_all(&message(b'Q', &[sql]))?;
    until_ready(&mut client)
}

fn read_slowly(instance: &Instance, seconds: u64) -> std::io::Result<()> {
    let mut client: TcpStream = plain(instance.port, DATABASE)?;
    let sql = b"SELECT repeat('x', 1000) FROM generate_series(1, 1000000)\0";
    client.write_all(&message(b'Q', &[sql]))?;
    for _ in 0..seconds {
        client.read_exact(&mut [0])?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}
