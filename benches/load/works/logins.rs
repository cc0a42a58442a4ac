//! Clients that connect anew for each query.

use super::{Work, less};
use crate::figures::{Measure, Row};
use crate::pgbench::{self, Entry};
use crate::pooler::Layout;
use crate::site::{DATABASE, Site};

const CPU_PER_CONNECTION: Measure = less("CPU µs per connection", 0, Some("CPU per connection, µs"));

type Choice = fn(&Site) -> Layout;

pub fn works(_: &Site) -> Vec<Work> {
    let table: [(&str, Choice, &str, f64); 4] = [
        ("connections, trust, plain", Layout::common, "disable", 1.0),
        ("connections, SCRAM, plain", Layout::scram, "disable", 1.0),
        ("connections, trust, TLS", Layout::common, "require", 0.65),
        ("connections, SCRAM, TLS", Layout::scram, "require", 0.75),
    ];
    table.map(|(name, layout, ssl_mode, bar)| connections(name, layout, ssl_mode, bar)).into()
}

fn connections(name: &str, layout: Choice, ssl_mode: &'static str, bar: f64) -> Work {
    let rows = vec![Row::new(name, CPU_PER_CONNECTION).bar(bar, bar)];
    Work::new(name, rows, move |subject, site| {
        let instance = subject.instance(&layout(site), site)?;
        let each = site.plan.connections.to_string();
        let entry = Entry { database: DATABASE, ssl_mode };
        let run = pgbench::run(site, &instance, entry, &["-S", "-C", "-c", "8", "-t", &each])?;
        Ok(vec![run.spent()?])
    })
}
