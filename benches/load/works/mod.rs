//! The works: what is done to each subject, and which figures come of it.
//!
//! A work is a row of [`all`]: its name, its lines of the table with their bars, who takes part and how often, and a
//! function that does it once. It fails for one subject without hindering the others.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::figures::{Better, Measure, Role, Row, Table};
use crate::pooler::Subject;
use crate::site::Site;

mod bulk;
mod flat;
mod loads;
mod logins;
mod memory;
mod scale;

/// Who takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Poolers,
    /// PostgreSQL itself as well, whose figures are taken off those of the others, round by round.
    OverDirect,
    PoolersAndForwarders,
    Pgweir,
    Nobody,
}

impl Who {
    fn takes(self, subject: &Subject) -> bool {
        match self {
            Self::Poolers => subject.pools(),
            Self::OverDirect => subject.pools() || subject.role == Role::Direct,
            Self::PoolersAndForwarders => subject.role != Role::Direct,
            Self::Pgweir => matches!(subject.role, Role::Pgweir(_)),
            Self::Nobody => false,
        }
    }
}

/// How often a work is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rounds {
    /// As often as the plan says.
    All,
    /// A few times: what is measured hardly changes.
    Few,
}

/// Does a work once and returns a figure for each of its rows.
type Action = Box<dyn Fn(&Subject, &Site) -> Result<Vec<f64>, String>>;

pub struct Work {
    pub name: String,
    pub rows: Vec<Row>,
    pub who: Who,
    pub rounds: Rounds,
    pub action: Action,
}

impl Work {
    pub fn new(
        name: impl Into<String>,
        rows: Vec<Row>,
        action: impl Fn(&Subject, &Site) -> Result<Vec<f64>, String> + 'static,
    ) -> Self {
        let action = Box::new(action);
        Self { name: name.into(), rows, who: Who::Poolers, rounds: Rounds::All, action }
    }

    pub fn by(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    pub fn a_few_times(mut self) -> Self {
        self.rounds = Rounds::Few;
        self
    }

    /// Measures all subjects in turn, each going first in one round after the other, and adds the rows to the table.
    pub fn measure(self, site: &Site, subjects: &[Subject], table: &mut Table) {
        let Self { name, mut rows, who, rounds, action } = self;
        let begun = Instant::now();
        let rounds = if rounds == Rounds::All { site.plan.rounds } else { site.plan.few_rounds };
        for round in 0..rounds {
            let mut found: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
            for number in 0..subjects.len() {
                let number = (number + round) % subjects.len();
                let subject = &subjects[number];
                // Who has failed once is not waited for again.
                let failed = rows.iter().any(|it| it.failures.contains_key(&number));
                if failed || !who.takes(subject) {
                    continue;
                }
                match action(subject, site) {
                    Ok(figures) => drop(found.insert(number, figures)),
                    Err(error) => {
                        subject.stop();
                        rows.iter_mut().for_each(|it| drop(it.failures.insert(number, error.clone())));
                    }
                }
            }
            if who == Who::OverDirect {
                take_off_direct(&mut found, table);
            }
            for (number, figures) in found {
                for (row, figure) in rows.iter_mut().zip(figures) {
                    row.samples.entry(number).or_default().push(figure);
                }
            }
        }
        let first = table.rows.len();
        table.rows.extend(rows);
        for row in table.rows[first..].iter().filter(|it| it.point.is_none()) {
            println!("{}", table.block(row));
        }
        println!("({name}: {:.0} s)\n", begun.elapsed().as_secs_f64());
    }
}

/// Leaves of each figure what is more than PostgreSQL's own.
fn take_off_direct(found: &mut BTreeMap<usize, Vec<f64>>, table: &Table) {
    let direct = table.place(Role::Direct).and_then(|it| found.get(&it)).cloned().unwrap_or_default();
    for (number, figures) in found {
        if table.subjects[*number].role != Role::Direct {
            figures.iter_mut().zip(&direct).for_each(|(figure, own)| *figure -= own);
        }
    }
}

pub const CPU: Measure = less("CPU µs per transaction", 1, Some("CPU per transaction, µs"));
pub const RATE: Measure = Measure {
    name: "transactions/s",
    better: Better::More,
    digits: 0,
    chart: Some("Throughput, transactions per second"),
};

/// A figure that is to be small.
pub const fn less(name: &'static str, digits: usize, chart: Option<&'static str>) -> Measure {
    Measure { name, better: Better::Less, digits, chart }
}

/// All of them.
pub fn all(site: &Site) -> Vec<Work> {
    let groups = [
        loads::works(site),
        scale::works(site),
        bulk::works(site),
        logins::works(site),
        flat::works(site),
        memory::works(site),
    ];
    groups.into_iter().flatten().collect()
}
