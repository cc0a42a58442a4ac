//! How cost grows: with workers, with clients that do nothing, with pools. And the pooler's own cost, behind which no
//! PostgreSQL works.

use std::thread;
use std::time::{Duration, Instant};

use super::{CPU, RATE, Who, Work, less};
use crate::clients::{self, Client, Crowd};
use crate::figures::{Against, Measure, Row};
use crate::pgbench::{self, Entry};
use crate::pooler::{Instance, Layout};
use crate::process::processor_time;
use crate::site::{DATABASE, Site};

const CPU_PER_REQUEST: Measure = less("CPU µs per request", 1, Some("CPU per request, no PostgreSQL, µs"));

pub fn works(site: &Site) -> Vec<Work> {
    vec![mock("simple"), mock("prepared"), workers(), beside_idle(site), many_pools(site)]
}

/// CPU for a request that is answered at once.
fn request(site: &Site, instance: &Instance, mode: &str) -> Result<f64, String> {
    let script = site.write("one.sql", "SELECT 1;\n");
    let run = pgbench::for_seconds(site, instance, Entry::PLAIN, &["-M", mode, "-f", &script, "-c", "64"])?;
    run.spent()
}

fn mock(mode: &'static str) -> Work {
    let name = format!("no PostgreSQL behind, {mode}, 64 clients");
    let rows = vec![Row::new(&name, CPU_PER_REQUEST).bar(0.95, 0.7)];
    Work::new(name, rows, move |subject, site| {
        let instance = subject.instance(&Layout::mock(site), site)?;
        Ok(vec![request(site, &instance, mode)?])
    })
}

fn workers() -> Work {
    let (one, two) = ("prepared, 64 clients, 1 worker", "prepared, 64 clients, 2 workers");
    let rows = vec![
        Row::new(one, CPU_PER_REQUEST),
        Row::new(two, CPU_PER_REQUEST).held(Against::Own(one.into()), 1.1, 1.1),
    ];
    Work::new("2 workers against 1", rows, |subject, site| {
        let with = |workers: &str| {
            let instance = subject.instance(&Layout::mock(site).own("workers", workers), site)?;
            request(site, &instance, "prepared")
        };
        Ok(vec![with("1")?, with("2")?])
    })
    .by(Who::Pgweir)
}

fn beside_idle(site: &Site) -> Work {
    let count = site.plan.idle_clients;
    let (without, with) =
        ("prepared, 8 clients alone", format!("prepared, 8 clients beside {count} idle ones"));
    let rows =
        vec![Row::new(without, RATE), Row::new(&with, RATE).held(Against::Own(without.into()), 0.97, 0.97)];
    Work::new(format!("8 clients beside {count} idle ones"), rows, move |subject, site| {
        let instance = subject.instance(&Layout::common(site), site)?;
        let rate = || {
            let arguments = ["-S", "-M", "prepared", "-c", "8"];
            pgbench::for_seconds(site, &instance, Entry::PLAIN, &arguments).map(|it| it.rate())
        };
        let alone = rate()?;
        let idle: Result<Vec<Client>, _> =
            (0..count).map(|_| clients::login(instance.port, DATABASE, None)).collect();
        let idle = idle.map_err(|error| format!("an idle client: {error}"))?;
        let beside = rate()?;
        drop(idle);
        Ok(vec![alone, beside])
    })
    .a_few_times()
}

fn many_pools(site: &Site) -> Work {
    let count = site.plan.pools;
    let (one, many) = (format!("{count} clients, 1 pool"), format!("{count} clients, {count} pools"));
    // Both have as many servers as clients: nobody waits, and only the number of pools differs.
    let rows = vec![Row::new(&one, CPU), Row::new(&many, CPU).held(Against::Own(one.clone()), 1.1, 1.1)];
    Work::new(many, rows, move |subject, site| {
        let one = subject.start(&Layout::pools(site, 1, count), site)?;
        let alone = crowd(&one, site, count, |_| "p0".into())?;
        drop(one);
        let many = subject.start(&Layout::pools(site, count, 1), site)?;
        let beside = crowd(&many, site, count, |number| format!("p{number}"))?;
        Ok(vec![alone, beside])
    })
    .a_few_times()
}

/// CPU for a transaction of clients that ask again as soon as they are answered.
fn crowd(
    instance: &Instance,
    site: &Site,
    clients: usize,
    database: impl Fn(usize) -> String,
) -> Result<f64, String> {
    let pid = instance.process()?;
    let crowd =
        Crowd::start(instance.port, clients, database).map_err(|error| format!("a client: {error}"))?;
    // Until each has had its server.
    let deadline = Instant::now() + Duration::from_secs(10);
    while crowd.answers() < 3 * clients as u64 {
        if Instant::now() > deadline {
            drop(crowd);
            return Err("clients get no answer".into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    let (before, first) = (processor_time(pid)?, crowd.answers());
    thread::sleep(Duration::from_secs(site.plan.seconds));
    let (after, last) = (processor_time(pid)?, crowd.answers());
    crowd.end()?;
    Ok((after - before).as_secs_f64() * 1e6 / (last - first) as f64)
}
