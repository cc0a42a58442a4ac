//! What was measured: figures, their medians, and what they are held to.
//!
//! Owns the table. It refuses to know how a figure came about; `page` and `chart` draw it. Invariant: a ratio is one of
//! medians of the same row and run, and a cell that failed says so instead of being left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What drives the sockets of a pgweir or of a forwarder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    Tokio,
    IoUring,
}

impl Driver {
    pub const ALL: [Self; 2] = [Self::Tokio, Self::IoUring];

    /// As `relay_driver` has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tokio => "tokio",
            Self::IoUring => "io_uring",
        }
    }
}

/// What a subject is in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// PostgreSQL itself.
    Direct,
    PgBouncer,
    Pgweir(Driver),
    /// Bytes from one socket to another and no protocol: the least that anything in the middle can cost.
    Forwarder(Driver),
    /// Another pooler.
    Other,
}

/// Which way a figure is to go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

impl Better {
    fn sign(self) -> char {
        if self == Self::Less { '≤' } else { '≥' }
    }
}

/// A kind of figure.
#[derive(Clone, Copy)]
pub struct Measure {
    /// With its unit.
    pub name: &'static str,
    pub better: Better,
    pub digits: usize,
    /// The chart of bars that shows it.
    pub chart: Option<&'static str>,
}

/// What a bar is a multiple of.
#[derive(Clone, PartialEq, Eq)]
pub enum Against {
    PgBouncer,
    /// The forwarder with the same driver.
    Forwarder,
    /// The subject's own figure in the row of this work.
    Own(String),
    /// Nothing: the figure itself is held to the limit.
    Nothing,
}

/// What a pgweir is held to in a row.
#[derive(Clone)]
pub struct Bar {
    pub driver: Driver,
    pub against: Against,
    pub limit: f64,
}

/// Where a row's figures stand on the axis of a line chart, instead of in the table.
#[derive(Clone)]
pub struct Point {
    pub chart: String,
    pub label: String,
}

/// One line of the table: what was measured of each subject, round by round.
pub struct Row {
    pub work: String,
    pub measure: Measure,
    pub bars: Vec<Bar>,
    pub point: Option<Point>,
    pub samples: BTreeMap<usize, Vec<f64>>,
    pub failures: BTreeMap<usize, String>,
}

impl Row {
    pub fn new(work: &str, measure: Measure) -> Self {
        Self {
            work: work.to_owned(),
            measure,
            bars: Vec::new(),
            point: None,
            samples: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Holds each driver to its ratio to PgBouncer.
    pub fn bar(self, tokio: f64, io_uring: f64) -> Self {
        self.held(Against::PgBouncer, tokio, io_uring)
    }

    pub fn held(mut self, against: Against, tokio: f64, io_uring: f64) -> Self {
        for (driver, limit) in [(Driver::Tokio, tokio), (Driver::IoUring, io_uring)] {
            self.bars.push(Bar { driver, against: against.clone(), limit });
        }
        self
    }

    /// Makes it a point of a line chart.
    pub fn at(mut self, chart: &str, label: &str) -> Self {
        self.point = Some(Point { chart: chart.to_owned(), label: label.to_owned() });
        self
    }

    pub fn median(&self, subject: usize) -> Option<f64> {
        median(self.samples.get(&subject)?)
    }

    /// The least and the most.
    pub fn ends(&self, subject: usize) -> Option<(f64, f64)> {
        let values = self.samples.get(&subject)?;
        let least = values.iter().copied().min_by(f64::total_cmp)?;
        Some((least, values.iter().copied().max_by(f64::total_cmp)?))
    }

    /// A median with the least and the most, or why there is none.
    pub fn cell(&self, subject: usize) -> Option<String> {
        let digits = self.measure.digits;
        let found = self.median(subject).zip(self.ends(subject));
        let figures = found
            .map(|(middle, (least, most))| format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})"));
        match (figures, self.failures.get(&subject)) {
            (figures, None) => figures,
            (None, Some(why)) => Some(format!("failed: {why}")),
            (Some(figures), Some(why)) => Some(format!("{figures}, then failed: {why}")),
        }
    }
}

/// A subject's figure beside another.
pub struct Verdict {
    pub subject: usize,
    /// What the ratio is a multiple of, as it is written behind it.
    pub against: String,
    pub ratio: f64,
    pub limit: Option<f64>,
    pub better: Better,
}

impl Verdict {
    /// `None`: there is no bar.
    pub fn is_met(&self) -> Option<bool> {
        self.limit.map(|limit| match self.better {
            Better::Less => self.ratio <= limit,
            Better::More => self.ratio >= limit,
        })
    }

    pub fn text(&self) -> String {
        let Self { against, ratio, .. } = self;
        // What would read like the bar itself is told more exactly.
        let is_close = self.limit.is_some_and(|it| (it - ratio).abs() < 0.005);
        let digits = if is_close { 4 } else { 2 };
        let ratio = format!("{ratio:.digits$} {against}");
        match (self.limit, self.is_met()) {
            (Some(limit), Some(met)) => {
                let missed = if met { "" } else { "missed: " };
                format!("{} ({missed}{} {limit:.2})", ratio.trim(), self.better.sign())
            }
            _ => ratio.trim().to_owned(),
        }
    }
}

/// Who was measured.
pub struct Head {
    pub name: String,
    pub role: Role,
}

/// All lines, and who the subjects are.
pub struct Table {
    pub subjects: Vec<Head>,
    /// How the figures came about, a line each.
    pub setting: Vec<String>,
    pub rows: Vec<Row>,
}

impl Table {
    pub fn place(&self, role: Role) -> Option<usize> {
        self.subjects.iter().position(|it| it.role == role)
    }

    /// The lines of the table proper.
    pub fn lines(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|it| it.point.is_none())
    }

    /// All that can be said of a row's figures beside others.
    pub fn verdicts(&self, row: &Row) -> Vec<Verdict> {
        let mut found = Vec::new();
        for (subject, head) in self.subjects.iter().enumerate() {
            let driver = match head.role {
                Role::Pgweir(driver) => Some(driver),
                Role::Other => None,
                _ => continue,
            };
            let bars: Vec<&Bar> = row.bars.iter().filter(|it| Some(it.driver) == driver).collect();
            let plain = (!bars.iter().any(|it| it.against == Against::PgBouncer)).then_some(None);
            let wanted = plain.into_iter().chain(bars.into_iter().map(Some));
            found.extend(wanted.filter_map(|bar| self.verdict(row, subject, bar)));
        }
        found
    }

    fn verdict(&self, row: &Row, subject: usize, bar: Option<&Bar>) -> Option<Verdict> {
        let (reference, against) = match bar.map_or(&Against::PgBouncer, |it| &it.against) {
            Against::PgBouncer => (row.median(self.place(Role::PgBouncer)?)?, "× PgBouncer".to_owned()),
            Against::Forwarder => {
                let Role::Pgweir(driver) = self.subjects[subject].role else { return None };
                (row.median(self.place(Role::Forwarder(driver))?)?, "× forwarder".to_owned())
            }
            Against::Own(work) => {
                let mut others = self.rows.iter().filter(|it| it.measure.name == row.measure.name);
                (others.find(|it| it.work == *work)?.median(subject)?, format!("× {work}"))
            }
            Against::Nothing => (1.0, String::new()),
        };
        let ratio = row.median(subject)? / reference;
        let better = row.measure.better;
        // Nothing is a multiple of nothing: growth of zero, latency below the noise.
        let comparable = reference > 0.0 && ratio >= 0.0 && ratio.is_finite();
        comparable.then(|| Verdict { subject, against, ratio, limit: bar.map(|it| it.limit), better })
    }

    /// A row for who watches: a line for each subject.
    pub fn block(&self, row: &Row) -> String {
        let mut out = format!("{}: {}\n", row.work, row.measure.name);
        let verdicts = self.verdicts(row);
        for (subject, head) in self.subjects.iter().enumerate() {
            let Some(cell) = row.cell(subject) else { continue };
            let texts: Vec<String> =
                verdicts.iter().filter(|it| it.subject == subject).map(Verdict::text).collect();
            let line = format!("  {:20} {cell:26} {}", head.name, texts.join(", "));
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }

    /// How many bars were met, missed and not measured, and which.
    pub fn summary(&self) -> String {
        let (mut met, mut missed) = (0, Vec::new());
        for row in self.lines() {
            for verdict in self.verdicts(row) {
                let name = &self.subjects[verdict.subject].name;
                match verdict.is_met() {
                    Some(true) => met += 1,
                    Some(false) => {
                        missed.push(format!(
                            "{}, {}: {name}: {}",
                            row.work,
                            row.measure.name,
                            verdict.text()
                        ));
                    }
                    None => {}
                }
            }
        }
        let failed: usize = self.lines().map(|it| it.failures.len()).sum();
        let mut out = format!("{met} bars met, {} missed; {failed} cells failed\n", missed.len());
        for line in missed {
            let _ = writeln!(out, "  {line}");
        }
        out
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
