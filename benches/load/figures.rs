//! What was measured: figures, their medians and ratios, as text and as a page to be read in a browser.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Which way a figure is to go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

/// A kind of figure.
#[derive(Clone, Copy)]
pub struct Measure {
    /// With its unit.
    pub name: &'static str,
    pub better: Better,
    pub digits: usize,
    /// Whether the page draws it.
    pub chart: bool,
}

/// One line of the table: what was measured of each subject, round by round.
pub struct Row {
    pub work: String,
    pub measure: Measure,
    /// What the ratio to PgBouncer is to be, at most or at least.
    pub bar: Option<f64>,
    pub samples: BTreeMap<usize, Vec<f64>>,
}

/// All lines, and who the subjects are.
pub struct Table {
    pub subjects: Vec<String>,
    /// How the figures came about.
    pub setting: String,
    pub rows: Vec<Row>,
}

impl Row {
    /// Ours divided by theirs, of medians.
    fn ratio(&self, ours: usize, theirs: usize) -> Option<f64> {
        Some(median(self.samples.get(&ours)?)? / median(self.samples.get(&theirs)?)?)
    }

    fn meets_bar(&self, ratio: f64) -> Option<bool> {
        self.bar.map(|bar| match self.measure.better {
            Better::Less => ratio <= bar,
            Better::More => ratio >= bar,
        })
    }

    fn verdict(&self, ratio: Option<f64>) -> String {
        let Some(ratio) = ratio else { return String::new() };
        let sign = if self.measure.better == Better::Less { '≤' } else { '≥' };
        match (self.bar, self.meets_bar(ratio)) {
            (Some(bar), Some(true)) => format!("{ratio:.2} ({sign} {bar:.2})"),
            (Some(bar), _) => format!("{ratio:.2} (missed: {sign} {bar:.2})"),
            _ => format!("{ratio:.2}"),
        }
    }
}

impl Table {
    fn place(&self, name: &str) -> Option<usize> {
        self.subjects.iter().position(|it| it == name)
    }

    fn ratio(&self, row: &Row) -> Option<f64> {
        row.ratio(self.place("pgweir")?, self.place("PgBouncer")?)
    }

    /// One line of it, for who watches.
    pub fn line(&self, row: &Row) -> String {
        let mut out = format!("{:32} {:28}", row.work, row.measure.name);
        for number in 0..self.subjects.len() {
            let values = row.samples.get(&number).map_or(&[][..], Vec::as_slice);
            let _ = write!(out, " {:>26}", spread(values, row.measure.digits));
        }
        let _ = write!(out, "  {}", row.verdict(self.ratio(row)));
        out
    }

    /// The heads of the columns.
    pub fn heads(&self) -> String {
        let mut out = format!("{:32} {:28}", "", "");
        for subject in &self.subjects {
            let _ = write!(out, " {subject:>26}");
        }
        out + "  pgweir : PgBouncer"
    }

    /// The whole of it as a page that needs nothing else.
    pub fn page(&self) -> String {
        let mut out = String::from(PAGE_HEAD);
        let _ = write!(out, "<p>{}</p>\n<table><tr><th>work<th>figure", escaped(&self.setting));
        for subject in &self.subjects {
            let _ = write!(out, "<th>{}", escaped(subject));
        }
        out.push_str("<th>pgweir : PgBouncer</tr>\n");
        for row in &self.rows {
            let ratio = self.ratio(row);
            let class = match ratio.and_then(|it| row.meets_bar(it)) {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            };
            let _ = write!(out, "<tr><td>{}<td>{}", escaped(&row.work), row.measure.name);
            for number in 0..self.subjects.len() {
                let values = row.samples.get(&number).map_or(&[][..], Vec::as_slice);
                let _ = write!(out, "<td>{}", spread(values, row.measure.digits));
            }
            let _ = writeln!(out, "<td class=\"{class}\">{}</tr>", row.verdict(ratio));
        }
        out.push_str("</table>\n");
        let mut measures: Vec<&str> = Vec::new();
        for row in self.rows.iter().filter(|it| it.measure.chart) {
            if !measures.contains(&row.measure.name) {
                measures.push(row.measure.name);
            }
        }
        measures.into_iter().for_each(|it| self.chart(it, &mut out));
        out + "</body></html>\n"
    }

    /// Bars for one kind of figure, as long as the medians, with a line from the least to the most.
    fn chart(&self, measure: &str, out: &mut String) {
        const WIDTH: f64 = 560.0;
        const HEIGHT: usize = 16;
        let rows: Vec<&Row> = self.rows.iter().filter(|it| it.measure.name == measure).collect();
        let all = rows.iter().flat_map(|row| row.samples.values().flatten());
        let most = all.copied().fold(f64::MIN_POSITIVE, f64::max);
        let lines: usize = rows.iter().map(|row| row.samples.len() + 2).sum();
        let _ = writeln!(out, "<h2>{measure}</h2>\n<svg width=\"900\" height=\"{}\">", lines * HEIGHT);
        let mut y = 0;
        for row in rows {
            y += HEIGHT;
            let _ = writeln!(out, "<text x=\"0\" y=\"{y}\" class=\"work\">{}</text>", escaped(&row.work));
            for (number, values) in &row.samples {
                let (Some(middle), Some((least, greatest))) = (median(values), ends(values)) else {
                    continue;
                };
                let at = |value: f64| 110.0 + value / most * WIDTH;
                let _ = writeln!(
                    out,
                    "<text x=\"0\" y=\"{text}\">{name}</text><rect x=\"110\" y=\"{top}\" width=\"{width:.1}\" \
                     height=\"12\" class=\"s{number}\"/><line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{line}\" \
                     y2=\"{line}\"/><text x=\"{after:.1}\" y=\"{text}\">{middle:.digits$}</text>",
                    name = escaped(&self.subjects[*number]),
                    text = y + 15,
                    top = y + 5,
                    width = at(middle) - 110.0,
                    from = at(least),
                    to = at(greatest),
                    line = y + 11,
                    after = at(greatest) + 6.0,
                    digits = row.measure.digits,
                );
                y += HEIGHT;
            }
            y += HEIGHT;
        }
        out.push_str("</svg>\n");
    }
}

const PAGE_HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>pgweir under load</title>\
    <style>body{font:14px/1.4 sans-serif;margin:2em}td,th{padding:2px 10px;text-align:right;border-bottom:1px solid #ddd}\
    td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}.met{color:#070}.missed{color:#b00}svg text{font-size:12px}\
    .work{font-weight:bold}line{stroke:#222}.s0{fill:#999}.s1{fill:#2a7de1}.s2{fill:#e08a1e}.s3{fill:#5a9e4b}\
    .s4{fill:#a05ac8}.s5{fill:#c84b4b}</style></head><body><h1>pgweir under load</h1>\n";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn ends(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    Some((least, values.iter().copied().max_by(f64::total_cmp)?))
}

/// A median with the least and the most.
fn spread(values: &[f64], digits: usize) -> String {
    match (median(values), ends(values)) {
        (Some(middle), Some((least, most))) => {
            format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})")
        }
        _ => "–".into(),
    }
}
