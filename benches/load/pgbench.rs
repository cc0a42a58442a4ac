//! pgbench: runs it, and reads from its log which transactions were done when.
//!
//! What is counted lies in a window from which beginning and end are cut off, so that logins and leaving count neither
//! as time nor as processor time.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::place;
use crate::pooler::Instance;
use crate::process::Watch;
use crate::site::{DATABASE, PASSWORD, Site, tool};

/// The part of a run that is cut off at either end.
const MARGIN: f64 = 0.06;
/// How much longer than it should a run may take before it counts as hanging.
const GRACE: Duration = Duration::from_secs(20);

/// How clients come in.
#[derive(Clone, Copy)]
pub struct Entry {
    pub database: &'static str,
    /// libpq's sslmode.
    pub ssl_mode: &'static str,
}

impl Entry {
    pub const PLAIN: Self = Self { database: DATABASE, ssl_mode: "disable" };
}

/// What came of a run.
pub struct Run {
    /// Transactions in the window.
    pub count: f64,
    /// Its length in seconds.
    pub seconds: f64,
    /// Processor time of the process in the middle, for each of them, in microseconds.
    pub spent: Option<f64>,
    /// In microseconds, the shortest first.
    latencies: Vec<u32>,
}

impl Run {
    pub fn rate(&self) -> f64 {
        self.count / self.seconds
    }

    /// A percentile of the latencies in milliseconds.
    pub fn latency(&self, part: f64) -> f64 {
        let place = (self.latencies.len() as f64 * part) as usize;
        self.latencies.get(place).or(self.latencies.last()).map_or(f64::NAN, |it| f64::from(*it) / 1000.0)
    }

    /// Processor time for each transaction, or why it isn't known.
    pub fn spent(&self) -> Result<f64, String> {
        self.spent.ok_or_else(|| "too short to be measured, or the process ended".into())
    }
}

/// Runs pgbench for so long against an instance.
pub fn for_seconds(
    site: &Site,
    instance: &Instance,
    entry: Entry,
    arguments: &[&str],
) -> Result<Run, String> {
    let seconds = site.plan.seconds.to_string();
    run(site, instance, entry, &[arguments, &["-T", &seconds]].concat())
}

/// Runs pgbench against an instance; `arguments` say how long.
pub fn run(site: &Site, instance: &Instance, entry: Entry, arguments: &[&str]) -> Result<Run, String> {
    let logs = site.directory.join("logs");
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir(&logs).map_err(|error| error.to_string())?;
    place::give_away(&logs);
    let mut command = tool("pgbench", instance.port);
    command.env("PGSSLMODE", entry.ssl_mode).env("PGPASSWORD", PASSWORD);
    command.args(["-n", "-j", "2", "-l", "--log-prefix"]).arg(logs.join("l"));
    command.args(arguments).arg(entry.database);
    let watch = instance.pid.map(Watch::of);
    finished(&mut command, Duration::from_secs(site.plan.seconds) + GRACE)?;
    let mut done: Vec<(Duration, u32)> = Vec::new();
    for file in fs::read_dir(&logs).map_err(|error| error.to_string())? {
        let path = file.map_err(|error| error.to_string())?.path();
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        done.extend(text.lines().filter_map(transaction));
    }
    summed(&mut done, watch.as_ref()).ok_or_else(|| "no transaction was done".into())
}

/// A line of pgbench's log: client, transaction, microseconds, script, and when it was done in seconds and microseconds.
fn transaction(line: &str) -> Option<(Duration, u32)> {
    let mut words = line.split(' ');
    let latency = words.nth(2)?.parse().ok()?;
    let (seconds, micros) = (words.nth(1)?.parse().ok()?, words.next()?.parse().ok()?);
    Some((Duration::from_secs(seconds) + Duration::from_micros(micros), latency))
}

fn summed(done: &mut [(Duration, u32)], watch: Option<&Watch>) -> Option<Run> {
    done.sort_unstable();
    let (first, last) = (done.first()?.0, done.last()?.0);
    let margin = (last - first).mul_f64(MARGIN);
    let (from, to) = (first + margin, last - margin);
    let inside = done.partition_point(|it| it.0 < from)..done.partition_point(|it| it.0 <= to);
    let mut latencies: Vec<u32> = done[inside].iter().map(|it| it.1).collect();
    latencies.sort_unstable();
    let count = latencies.len() as f64;
    let at = |time: Duration| -> SystemTime { UNIX_EPOCH + time };
    // A few large transactions may all be done at its ends.
    let spent = watch.and_then(|it| it.spent(at(from), at(to))).filter(|_| count > 0.0);
    let spent = spent.map(|it| it * 1e6 / count);
    Some(Run { count, seconds: (to - from).as_secs_f64(), spent, latencies })
}

/// What a program prints, if it ends well and in time. Else its last words.
pub fn finished(command: &mut Command, patience: Duration) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("{name}: {error}"))?;
    let readers = (child.stdout.take().map(drain), child.stderr.take().map(drain));
    let deadline = Instant::now() + patience;
    let status = loop {
        match child.try_wait().map_err(|error| format!("{name}: {error}"))? {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let text =
        |reader: Option<thread::JoinHandle<String>>| reader.and_then(|it| it.join().ok()).unwrap_or_default();
    let (output, errors) = (text(readers.0), text(readers.1));
    match status {
        None => Err(format!("{name} did not end")),
        Some(status) if !status.success() => {
            let words = errors.lines().find(|it| it.contains("error")).or_else(|| errors.lines().last());
            let words = words.unwrap_or("failed");
            Err(format!("{name}: {}", words.trim_start_matches(&format!("{name}: "))))
        }
        Some(_) => Ok(output),
    }
}

fn drain(mut pipe: impl std::io::Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
