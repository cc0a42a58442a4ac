//! SHOW STATS, STATS_TOTALS, STATS_AVERAGES and TOTALS.
//!
//! 1.25's columns: 23 in STATS, which tools read by position. Later figures are in the metrics only.

use std::collections::BTreeMap;

use super::super::View;
use super::Value;
use super::row;
use crate::ids::DatabaseName;
use crate::stats::{Recent, Totals};
use crate::wire::encode::Column;

/// A figure; its names in the other tables are in their columns.
struct Figure {
    value: fn(&Totals) -> u64,
    /// TOTALS: `total_…`, `avg_…`.
    sum: [&'static str; 2],
}

/// The columns of four tables from one list.
macro_rules! figures {
    ($($field:ident $total:literal $average:literal $in_totals:literal $in_averages:literal $sum:literal,)*) => {
        const FIGURES: &[Figure] = &[$(Figure {
            value: |it| it.$field,
            sum: [concat!("total_", $sum), concat!("avg_", $sum)],
        },)*];

        pub(super) const STATS: &[Column] =
            &[Column::text("database"), $(Column::numeric($total),)* $(Column::numeric($average),)*];
        pub(super) const TOTALS: &[Column] = &[Column::text("database"), $(Column::numeric($in_totals),)*];
        pub(super) const AVERAGES: &[Column] = &[Column::text("database"), $(Column::numeric($in_averages),)*];
    };
}

figures! {
    server_assignment_count "total_server_assignment_count" "avg_server_assignment_count"
        "server_assignment_count" "server_assignment_count" "server_assignment_count",
    xact_count "total_xact_count" "avg_xact_count" "xact_count" "xact_count" "xact_count",
    query_count "total_query_count" "avg_query_count" "query_count" "query_count" "query_count",
    bytes_received "total_received" "avg_recv" "bytes_received" "bytes_received" "client_bytes",
    bytes_sent "total_sent" "avg_sent" "bytes_sent" "bytes_sent" "server_bytes",
    xact_time "total_xact_time" "avg_xact_time" "xact_time" "xact_time" "xact_time",
    query_time "total_query_time" "avg_query_time" "query_time" "query_time" "query_time",
    wait_time "total_wait_time" "avg_wait_time" "wait_time" "wait_time" "wait_time",
    client_parse_count "total_client_parse_count" "avg_client_parse_count"
        "client_parse_count" "avg_client_parse_count" "ps_client_parse_count",
    server_parse_count "total_server_parse_count" "avg_server_parse_count"
        "server_parse_count" "avg_server_parse_count" "ps_server_parse_count",
    bind_count "total_bind_count" "avg_bind_count" "bind_count" "avg_bind_count" "ps_bind_count",
}

pub(super) const SUMS: &[Column] = &[Column::text("name"), Column::numeric("value")];

/// The figures of each database over its pools.
pub(in crate::admin) fn per_database(view: &View) -> BTreeMap<DatabaseName, (Totals, Recent)> {
    let mut databases: BTreeMap<DatabaseName, (Totals, Recent)> = BTreeMap::new();
    for (key, stats) in &view.pools {
        let (totals, recent) = databases.entry(key.database.clone()).or_default();
        totals.merge(&stats.totals());
        recent.merge(&stats.recent(view.now));
    }
    databases
}

fn values(figures: &Totals) -> impl Iterator<Item = Value> {
    FIGURES.iter().map(|it| Value::from((it.value)(figures)))
}

pub(super) fn stats(view: &View) -> Vec<Vec<Value>> {
    let row = |(database, (totals, recent)): (&DatabaseName, &(Totals, Recent))| {
        row![database.as_str()].into_iter().chain(values(totals)).chain(values(&recent.averages())).collect()
    };
    per_database(view).iter().map(row).collect()
}

pub(super) fn totals(view: &View) -> Vec<Vec<Value>> {
    let row = |(database, (totals, _)): (&DatabaseName, &(Totals, Recent))| {
        row![database.as_str()].into_iter().chain(values(totals)).collect()
    };
    per_database(view).iter().map(row).collect()
}

pub(super) fn averages(view: &View) -> Vec<Vec<Value>> {
    let row = |(database, (_, recent)): (&DatabaseName, &(Totals, Recent))| {
        row![database.as_str()].into_iter().chain(values(&recent.averages())).collect()
    };
    per_database(view).iter().map(row).collect()
}

pub(super) fn sums(view: &View) -> Vec<Vec<Value>> {
    let (mut totals, mut recent) = (Totals::default(), Recent::default());
    for (of_one, recent_of_one) in per_database(view).values() {
        totals.merge(of_one);
        recent.merge(recent_of_one);
    }
    let averages = recent.averages();
    let rows_of = |figures: Totals, which: usize| {
        FIGURES.iter().map(move |it| row![it.sum[which], (it.value)(&figures)]).collect::<Vec<_>>()
    };
    [rows_of(totals, 0), rows_of(averages, 1)].concat()
}
