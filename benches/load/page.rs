//! The report: the whole table and its charts as one page that needs nothing else.

use std::fmt::Write as _;

use crate::chart::{self, escaped};
use crate::figures::{Row, Table};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;\
    background:var(--paper);color:var(--ink)}h1{margin-bottom:.2rem}h2{margin:2.4rem 0 .6rem}\
    ul{color:var(--faint);padding-left:1.1rem;font-size:14px}.scroll{overflow-x:auto}\
    table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}\
    td,th{padding:3px 10px;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}\
    td:nth-child(-n+3),th:nth-child(-n+3){text-align:left}\
    th{position:sticky;top:0;background:var(--paper)}small{color:var(--faint)}.met{color:var(--good)}\
    .missed{color:var(--bad)}.failed{color:var(--bad);white-space:normal;min-width:12em}\
    .charts{display:flex;flex-wrap:wrap;gap:16px}svg{max-width:100%;height:auto}pre{white-space:pre-wrap;font-size:13px}";

/// The whole of it.
pub fn page(table: &Table) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\"><title>pgweir under load</title>\
         <style>{}{STYLE}</style></head><body>\n<h1>pgweir under load</h1>\n<ul>",
        chart::STYLE
    );
    for line in &table.setting {
        let _ = write!(out, "<li>{}</li>", escaped(line));
    }
    out.push_str("</ul>\n");
    let wide = |out: &mut String, heading: &str, charts: Vec<chart::Chart>| {
        if !charts.is_empty() {
            let _ = write!(out, "<h2>{heading}</h2>\n<div class=\"charts\">");
            charts.iter().for_each(|it| out.push_str(&it.svg()));
            out.push_str("</div>\n");
        }
    };
    let mut titles: Vec<&str> = Vec::new();
    for title in table.lines().filter_map(|it| it.measure.chart) {
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    let bars = titles.iter().filter_map(|it| chart::bars(table, it, |_| true)).collect();
    wide(&mut out, "Cost and throughput", bars);
    let lines = |word: &str| {
        let found = chart::line_charts(table).into_iter().filter(|it| it.contains(word));
        found.filter_map(|it| chart::lines(table, it)).collect()
    };
    wide(&mut out, "Latency", lines("Latency"));
    wide(&mut out, "Memory", lines("memory"));
    let _ = write!(
        out,
        "<h2>All figures</h2>\n<p>Medians (least–most), and before them the ratio to PgBouncer, or to what is named, with \
         its bar.</p>\n<pre>{}</pre>\n<div class=\"scroll\"><table><tr><th>work<th>figure<th>ratio (bar)",
        escaped(&table.summary())
    );
    let is_there = |subject: &usize| table.lines().any(|row| row.cell(*subject).is_some());
    let present: Vec<usize> = (0..table.subjects.len()).filter(is_there).collect();
    for subject in &present {
        let _ = write!(out, "<th>{}", escaped(&table.subjects[*subject].name));
    }
    out.push_str("</tr>\n");
    table.lines().for_each(|row| line(table, row, &present, &mut out));
    out + "</table></div>\n</body></html>\n"
}

fn line(table: &Table, row: &Row, present: &[usize], out: &mut String) {
    let texts: Vec<String> = table
        .verdicts(row)
        .iter()
        .map(|it| {
            let class = match it.is_met() {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            };
            let name = escaped(table.subjects[it.subject].name.trim_start_matches("pgweir "));
            format!("<span class=\"{class}\">{name}: {}</span>", escaped(&it.text()))
        })
        .collect();
    let (work, figure) = (escaped(&row.work), escaped(row.measure.name));
    let _ = write!(out, "<tr><td>{work}<td>{figure}<td>{}", texts.join("<br>"));
    for subject in present {
        let cell = row.cell(*subject).unwrap_or_else(|| "–".into());
        let class = if row.failures.contains_key(subject) { " class=\"failed\"" } else { "" };
        let figures = match cell.split_once(" (") {
            Some((middle, rest)) => format!("{} <small>({}</small>", escaped(middle), escaped(rest)),
            None => escaped(&cell),
        };
        let _ = write!(out, "<td{class}>{figures}");
    }
    out.push_str("</tr>\n");
}
