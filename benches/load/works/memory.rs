//! Memory of clients that say nothing, and of users who are only known.

use std::thread;
use std::time::{Duration, Instant};

use super::{Work, less};
use crate::certs;
use crate::clients::{Client, crowd, login};
use crate::figures::{Against, Measure, Row};
use crate::pooler::{Instance, Layout};
use crate::process::resident;
use crate::site::{DATABASE, Site};

const IDLE: Measure = less("bytes per idle client", 0, Some("Resident memory per idle client, bytes"));
const RESIDENT: Measure = less("resident MB with them", 1, None);
const LEFT: Measure = less("memory after they left : before", 2, None);
const CROWD: Measure = less("bytes per client", 0, None);
const PER_USER: Measure = less("bytes per user", 0, None);

/// Clients that are there before memory is measured: they make what all share.
const FIRST_CLIENTS: usize = 50;
/// Parts of all clients at which memory is looked at.
const PARTS: usize = 4;
/// Until what has just been done is over.
const SETTLING: Duration = Duration::from_millis(300);
/// How long a process may take to give memory back.
const RETURNING_MAX: Duration = Duration::from_secs(4);

pub fn works(site: &Site) -> Vec<Work> {
    let count = site.plan.idle_clients;
    vec![
        idle(count, "plain", (0.85, 0.85)),
        idle(count, "TLS 1.3", (0.45, 0.45)),
        at_once(count),
        users(site.plan.users),
    ]
}

fn idle(count: usize, way: &'static str, bar: (f64, f64)) -> Work {
    let name = format!("{count} idle clients, {way}");
    let mut rows = vec![
        Row::new(&name, IDLE).bar(bar.0, bar.1),
        Row::new(&name, RESIDENT),
        Row::new(&name, LEFT).held(Against::Nothing, 1.2, 1.2),
    ];
    let chart = format!("Resident memory by clients, {way}, MB");
    for part in 0..=PARTS {
        let clients = if part == 0 { FIRST_CLIENTS } else { count * part / PARTS };
        rows.push(Row::new(&name, RESIDENT).at(&chart, &clients.to_string()));
    }
    Work::new(name, rows, move |subject, site| {
        let instance = subject.start(&Layout::common(site), site)?;
        memory(&instance, count, way != "plain").map_err(|error| error.to_string())
    })
    .a_few_times()
}

/// One client's share, all of it, what is left after they have gone, and all of it at each part of them.
fn memory(instance: &Instance, count: usize, encrypted: bool) -> Result<Vec<f64>, String> {
    let pid = instance.process()?;
    let tls = encrypted.then(|| certs::client_config(None));
    let mut clients: Vec<Client> = Vec::new();
    let mut look = |wanted: usize| {
        while clients.len() < wanted {
            let client = login(instance.port, DATABASE, tls.as_ref());
            clients.push(client.map_err(|error| format!("client {}: {error}", clients.len()))?);
        }
        thread::sleep(SETTLING);
        resident(pid)
    };
    let before = look(FIRST_CLIENTS)?;
    let mut looks = vec![before];
    for part in 1..=PARTS {
        looks.push(look(count * part / PARTS)?);
    }
    let with = *looks.last().expect("there was a look");
    drop(clients);
    let left = lowest(pid, before)?;
    let each = (with - before).max(0.0) / (count - FIRST_CLIENTS) as f64;
    let points = looks.into_iter().map(|it| it / 1e6);
    Ok([each, with / 1e6, left / before].into_iter().chain(points).collect())
}

/// What memory comes down to within a while; `enough` is all that can be hoped for.
fn lowest(pid: i32, enough: f64) -> Result<f64, String> {
    let deadline = Instant::now() + RETURNING_MAX;
    let mut lowest = resident(pid)?;
    while lowest > enough && Instant::now() < deadline {
        thread::sleep(SETTLING);
        lowest = lowest.min(resident(pid)?);
    }
    Ok(lowest)
}

/// Those who come and ask at once, as after a restart of whatever is in front.
fn at_once(count: usize) -> Work {
    let name = format!("{count} clients that log in and ask at once");
    let rows = vec![Row::new(&name, CROWD)];
    Work::new(name, rows, move |subject, site| {
        let instance = subject.start(&Layout::common(site), site)?;
        let pid = instance.process()?;
        let _first = crowd(instance.port, DATABASE, FIRST_CLIENTS).map_err(|error| error.to_string())?;
        let before = resident(pid)?;
        let _all = crowd(instance.port, DATABASE, count).map_err(|error| error.to_string())?;
        thread::sleep(SETTLING);
        Ok(vec![(resident(pid)? - before).max(0.0) / count as f64])
    })
    .a_few_times()
}

fn users(count: usize) -> Work {
    /// One kB.
    const BAR: f64 = 1000.0;
    let name = format!("{count} users in auth_file");
    let rows = vec![Row::new(&name, PER_USER).held(Against::Nothing, BAR, BAR)];
    Work::new(name, rows, move |subject, site| {
        let with = |users: usize| {
            let instance = subject.start(&Layout::users(site, users), site)?;
            login(instance.port, DATABASE, None).map_err(|error| error.to_string())?;
            thread::sleep(SETTLING);
            resident(instance.process()?)
        };
        Ok(vec![(with(count)? - with(0)?) / count as f64])
    })
    .a_few_times()
}
