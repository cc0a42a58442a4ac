//! The table's figures as charts: SVG with axes, units and a legend, readable on a light and on a dark page.

use std::fmt::Write as _;

use crate::figures::{Driver, Head, Role, Row, Table};

/// Colours, for a page or for a picture of its own.
pub const STYLE: &str = ":root{--ink:#1f2328;--faint:#656d76;--grid:#d8dee4;--paper:#ffffff;--good:#1a7f37;--bad:#cf222e;\
    --direct:#8c959f;--bouncer:#e8871e;--tokio:#2f6fde;--ring:#12a594;--ftokio:#a9c4f5;--fring:#9adbd3;--o0:#8250df;\
    --o1:#bf3989;--o2:#9a6700;--o3:#57606a}\
    @media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--faint:#9198a1;--grid:#343b44;--paper:#0d1117;--good:#3fb950;\
    --bad:#f85149;--direct:#8b949e;--bouncer:#f0a04b;--tokio:#5c98ff;--ring:#2dd4bf;--ftokio:#33548f;--fring:#1f6b63;\
    --o0:#b083f0;--o1:#f778ba;--o2:#d29922;--o3:#adbac7}}\
    svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .faint{fill:var(--faint)}\
    svg .title{font-weight:600;font-size:14px}svg .grid{stroke:var(--grid)}svg .spread{stroke:var(--ink);stroke-opacity:.65}\
    svg .line{fill:none;stroke-width:2}svg .end{text-anchor:end}svg .middle{text-anchor:middle}";

const WIDTH: f64 = 880.0;
/// A small chart's size.
const SMALL: (f64, f64) = (432.0, 300.0);
const LINE_HEIGHT: f64 = 18.0;

/// The colour of a subject, as a name of [`STYLE`].
fn colour(subjects: &[Head], number: usize) -> String {
    let name = match subjects[number].role {
        Role::Direct => "direct",
        Role::PgBouncer => "bouncer",
        Role::Pgweir(Driver::Tokio) => "tokio",
        Role::Pgweir(Driver::IoUring) => "ring",
        Role::Forwarder(Driver::Tokio) => "ftokio",
        Role::Forwarder(Driver::IoUring) => "fring",
        Role::Other => {
            const OTHERS: usize = 4;
            let before = subjects[..number].iter().filter(|it| it.role == Role::Other).count();
            return format!("var(--o{})", before % OTHERS);
        }
    };
    format!("var(--{name})")
}

/// Who has figures in any of these rows.
fn present(table: &Table, rows: &[&Row]) -> Vec<usize> {
    (0..table.subjects.len()).filter(|it| rows.iter().any(|row| row.samples.contains_key(it))).collect()
}

/// Who is which colour, in as many lines as it takes. Returns where it ends.
fn legend(table: &Table, who: &[usize], width: f64, top: f64, out: &mut String) -> f64 {
    const CHARACTER: f64 = 7.2;
    let (mut x, mut y) = (0.0, top);
    for &number in who {
        let name = &table.subjects[number].name;
        let needed = 26.0 + name.len() as f64 * CHARACTER;
        if x + needed > width && x > 0.0 {
            (x, y) = (0.0, y + LINE_HEIGHT);
        }
        let _ = write!(
            out,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
            y - 10.0,
            colour(&table.subjects, number),
            x + 16.0,
            escaped(name)
        );
        x += needed;
    }
    y + LINE_HEIGHT
}

/// Round numbers from 0 to at least `most`.
fn ticks(most: f64) -> Vec<f64> {
    const WANTED: f64 = 5.0;
    let rough = (most / WANTED).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|it| it * power).into_iter().find(|it| *it >= rough);
    let step = step.unwrap_or(rough);
    (0..=(most / step).ceil() as usize).map(|it| it as f64 * step).collect()
}

fn number(value: f64) -> String {
    let digits = if value >= 10.0 || value.fract() == 0.0 { 0 } else { 2 };
    let text = format!("{value:.digits$}");
    let whole = text.split('.').next().unwrap_or_default();
    if whole.len() < 5 {
        return if text.contains('.') { text.trim_end_matches('0').to_owned() } else { text };
    }
    let mut out = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    out
}

/// A finished chart and its size.
pub struct Chart {
    body: String,
    width: f64,
    height: f64,
}

impl Chart {
    pub fn svg(&self) -> String {
        self.at(0.0, 0.0)
    }

    fn at(&self, x: f64, y: f64) -> String {
        let Self { body, width, height } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" x=\"{x:.0}\" y=\"{y:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">{body}</svg>\n"
        )
    }
}

/// Bars for the rows whose measure belongs to this chart: as long as the medians, with a line from the least to the
/// most. `title` has the unit.
pub fn bars(table: &Table, title: &str, wanted: impl Fn(&Row) -> bool) -> Option<Chart> {
    const LEFT: f64 = 290.0;
    const RIGHT: f64 = 70.0;
    const BAR: f64 = 13.0;
    const GAP: f64 = 9.0;
    let rows: Vec<&Row> = table
        .lines()
        .filter(|it| it.measure.chart == Some(title) && !it.samples.is_empty() && wanted(it))
        .collect();
    let most = rows.iter().flat_map(|it| it.samples.values().flatten()).copied().reduce(f64::max)?;
    let ticks = ticks(most);
    let end = *ticks.last()?;
    let x = |value: f64| LEFT + value.max(0.0) / end * (WIDTH - LEFT - RIGHT);
    let mut out = format!("<text x=\"0\" y=\"15\" class=\"title\">{title}</text>");
    let top = legend(table, &present(table, &rows), WIDTH, 38.0, &mut out) - 4.0;
    let mut y = top + GAP / 2.0;
    let mut drawn = String::new();
    for row in rows {
        let bars: Vec<usize> = row.samples.keys().copied().collect();
        let middle = y + bars.len() as f64 * BAR / 2.0 + 4.0;
        let _ = write!(
            drawn,
            "<text x=\"{:.1}\" y=\"{middle:.1}\" class=\"end\">{}</text>",
            LEFT - 8.0,
            escaped(&row.work)
        );
        for subject in bars {
            bar(row, (subject, &colour(&table.subjects, subject)), (y, BAR), &x, &mut drawn);
            y += BAR;
        }
        y += GAP;
    }
    for tick in ticks {
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"middle faint\" x=\"{0:.1}\" y=\"{1:.1}\">{2}</text>",
            x(tick),
            y + 15.0,
            number(tick)
        );
    }
    Some(Chart { body: out + &drawn, width: WIDTH, height: y + 22.0 })
}

/// One bar, `y` and its height given, in a colour.
fn bar(
    row: &Row,
    (subject, colour): (usize, &str),
    (y, height): (f64, f64),
    x: &impl Fn(f64) -> f64,
    out: &mut String,
) {
    let (Some(middle), Some((least, most))) = (row.median(subject), row.ends(subject)) else { return };
    let _ = write!(
        out,
        "<rect x=\"{zero:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{tall:.1}\" fill=\"{colour}\"/>\
         <line class=\"spread\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{line:.1}\" y2=\"{line:.1}\"/>\
         <text x=\"{after:.1}\" y=\"{text:.1}\" class=\"faint\">{value}</text>",
        zero = x(0.0),
        top = y + 1.0,
        width = (x(middle) - x(0.0)).max(0.5),
        tall = height - 2.0,
        from = x(least),
        to = x(most),
        line = y + height / 2.0,
        after = x(most.max(middle)) + 5.0,
        text = y + height - 2.5,
        value =
            if row.measure.digits == 0 { number(middle) } else { format!("{middle:.*}", row.measure.digits) },
    );
}

/// The line charts there are.
pub fn line_charts(table: &Table) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for point in table.rows.iter().filter_map(|it| it.point.as_ref()) {
        if !found.contains(&point.chart.as_str()) {
            found.push(&point.chart);
        }
    }
    found
}

/// How far up a value stands, from 0 to 1, and which values are written beside the axis.
struct Scale {
    ticks: Vec<f64>,
    logarithmic: bool,
}

impl Scale {
    fn new(values: &[f64], logarithmic: bool) -> Option<Self> {
        let most = values.iter().copied().reduce(f64::max)?;
        if !logarithmic {
            return Some(Self { ticks: ticks(most), logarithmic });
        }
        let least = values.iter().copied().filter(|it| *it > 0.0).reduce(f64::min)?;
        let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        let powers = (low..=high.max(low + 1)).map(|it| 10_f64.powi(it));
        Some(Self { ticks: powers.collect(), logarithmic })
    }

    fn part(&self, value: f64) -> f64 {
        let (Some(&first), Some(&last)) = (self.ticks.first(), self.ticks.last()) else { return 0.0 };
        if self.logarithmic {
            ((value / first).log10() / (last / first).log10()).clamp(0.0, 1.0)
        } else {
            value / last
        }
    }
}

/// Lines through the medians of a chart's points.
pub fn lines(table: &Table, title: &str) -> Option<Chart> {
    const LEFT: f64 = 52.0;
    let (width, height) = SMALL;
    let rows: Vec<(&Row, &str)> = table
        .rows
        .iter()
        .filter_map(|row| Some((row, row.point.as_ref().filter(|it| it.chart == title)?.label.as_str())))
        .collect();
    let only: Vec<&Row> = rows.iter().map(|it| it.0).collect();
    let who = present(table, &only);
    let values: Vec<f64> = only.iter().flat_map(|row| who.iter().filter_map(|it| row.median(*it))).collect();
    let is_latency = title.starts_with("Latency");
    let scale = Scale::new(&values, is_latency)?;
    let mut out = format!("<text x=\"0\" y=\"15\" class=\"title\">{}</text>", escaped(title));
    let top = legend(table, &who, width, 38.0, &mut out);
    let bottom = height - 42.0;
    let y = |value: f64| bottom - scale.part(value) * (bottom - top);
    let steps = (rows.len().max(2) - 1) as f64;
    let x = |place: usize| LEFT + 14.0 + place as f64 / steps * (width - LEFT - 34.0);
    for &tick in &scale.ticks {
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{width}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>\
             <text class=\"end faint\" x=\"{1:.1}\" y=\"{2:.1}\">{3}</text>",
            y(tick),
            LEFT - 6.0,
            y(tick) + 4.0,
            number(tick)
        );
    }
    for (place, (_, label)) in rows.iter().enumerate() {
        let _ = write!(
            out,
            "<text class=\"middle faint\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x(place),
            bottom + 16.0,
            label.parse().map_or_else(|_| (*label).to_owned(), number)
        );
    }
    let axis = if is_latency { "percentile of transactions" } else { "clients" };
    let _ = write!(
        out,
        "<text class=\"middle faint\" x=\"{:.1}\" y=\"{:.1}\">{axis}</text>",
        (LEFT + width) / 2.0,
        height - 8.0
    );
    for subject in who {
        let colour = colour(&table.subjects, subject);
        let medians = only.iter().enumerate().filter_map(|it| Some((x(it.0), y(it.1.median(subject)?))));
        let mut path = String::new();
        for (x, y) in medians {
            let _ = write!(path, "{x:.1},{y:.1} ");
            let _ = write!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        let _ = write!(out, "<polyline class=\"line\" stroke=\"{colour}\" points=\"{}\"/>", path.trim_end());
    }
    Some(Chart { body: out, width, height })
}

/// The picture for the README: CPU per transaction, and memory by clients.
pub fn picture(table: &Table) -> String {
    const MARGIN: f64 = 16.0;
    let is_select = |row: &Row| {
        let mode = row.work.split(',').next().unwrap_or_default();
        ["simple", "extended", "prepared"].contains(&mode) && row.work.ends_with("clients")
    };
    let mut y = MARGIN;
    let mut body = String::new();
    if let Some(chart) = bars(table, super::works::CPU.chart.unwrap_or_default(), is_select) {
        body.push_str(&chart.at(MARGIN, y));
        y += chart.height + MARGIN;
    }
    let memory = line_charts(table).into_iter().filter(|it| it.contains("memory"));
    let memory: Vec<Chart> = memory.filter_map(|it| lines(table, it)).collect();
    for (place, chart) in memory.iter().enumerate() {
        body.push_str(&chart.at(MARGIN + place as f64 * (WIDTH - SMALL.0), y));
    }
    if !memory.is_empty() {
        y += SMALL.1 + MARGIN;
    }
    let width = WIDTH + 2.0 * MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{y:.0}\" viewBox=\"0 0 {width:.0} {y:.0}\" \
         role=\"img\" aria-label=\"CPU per transaction and memory by clients\"><style>{STYLE}</style>\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"var(--paper)\"/>\n{body}</svg>\n"
    )
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
