//! Many bytes: large results, and COPY both ways.

use std::time::Duration;

use super::{Work, less};
use crate::figures::{Measure, Row};
use crate::pgbench::{self, Entry};
use crate::pooler::{Layout, Subject};
use crate::process::processor_time;
use crate::site::{DATABASE, Site, tool};

const CPU_PER_GB: Measure = less("CPU s per GB", 2, Some("CPU per GB, s"));
const MB: usize = 1_000_000;
/// pgbench's clients.
const CLIENTS: usize = 4;

pub fn works(site: &Site) -> Vec<Work> {
    let bytes = site.plan.transfer_mb.min(100) * MB;
    let line = "x".repeat(99) + "\n";
    let file = site.write("lines", &line.repeat(bytes / line.len()));
    let rows = bytes / 1000;
    let out = format!("\\copy (SELECT repeat('x', 999) FROM generate_series(1, {rows})) to '/dev/null'");
    vec![
        transfer(
            ("10,000 rows of 1 kB", 0.45),
            "SELECT repeat('x', 1000) FROM generate_series(1, 10000);\n",
            10 * MB,
        ),
        transfer(
            ("results of 100 kB", 0.5),
            "SELECT repeat('x', 1000) FROM generate_series(1, 100);\n",
            MB / 10,
        ),
        transfer(("a row of 10 MB", 0.4), "SELECT repeat('x', 10000000);\n", 10 * MB),
        copy(("COPY in", 0.5), format!("\\copy sink from '{file}'"), bytes),
        copy(("COPY out", 0.6), out, bytes),
    ]
}

/// CPU for each GB of what `action` moves.
fn per_gb(
    subject: &Subject,
    site: &Site,
    action: impl FnOnce(u16) -> Result<usize, String>,
) -> Result<Vec<f64>, String> {
    let instance = subject.instance(&Layout::common(site), site)?;
    let pid = instance.process()?;
    let before = processor_time(pid)?;
    let bytes = action(instance.port)?;
    let spent = processor_time(pid)?.saturating_sub(before);
    Ok(vec![spent.as_secs_f64() / bytes as f64 * 1e9])
}

fn transfer((name, bar): (&'static str, f64), sql: &'static str, bytes: usize) -> Work {
    let rows = vec![Row::new(name, CPU_PER_GB).bar(bar, bar)];
    Work::new(name, rows, move |subject, site| {
        let script = site.write("transfer.sql", sql);
        let each = (site.plan.transfer_mb * MB).div_ceil(bytes * CLIENTS);
        let instance = subject.instance(&Layout::common(site), site)?;
        per_gb(subject, site, |_| {
            let arguments = ["-c", &CLIENTS.to_string(), "-f", &script, "-t", &each.to_string()];
            pgbench::run(site, &instance, Entry::PLAIN, &arguments)?;
            Ok(each * CLIENTS * bytes)
        })
    })
}

fn copy((name, bar): (&'static str, f64), command: String, bytes: usize) -> Work {
    const LIMIT: Duration = Duration::from_secs(60);
    let rows = vec![Row::new(name, CPU_PER_GB).bar(bar, bar)];
    Work::new(name, rows, move |subject, site| {
        // What an earlier round left is nobody's business.
        let mut clean = tool("psql", site.postgres_port);
        pgbench::finished(clean.args(["-X", "-q", "-d", DATABASE, "-c", "TRUNCATE sink"]), LIMIT)?;
        per_gb(subject, site, |port| {
            let mut psql = tool("psql", port);
            pgbench::finished(psql.args(["-X", "-q", "-d", DATABASE, "-c", &command]), LIMIT)?;
            Ok(bytes)
        })
    })
}
