//! The tables of SHOW.
//!
//! Owns each table's columns, in the order and with the types of PgBouncer 1.25, which tools read by position. A table
//! is made from a [`View`] alone.

use super::View;
use super::table::{Table, Value};
use crate::wire::encode::Column;

mod config;
mod pools;
mod process;
mod sockets;
mod stats;

pub(super) use pools::{PoolCounts, pool_counts};
pub use process::help;
pub(super) use process::list_items;
pub(super) use sockets::client_state;
pub(super) use stats::per_database;

macro_rules! topics {
    ($($variant:ident $name:literal $columns:path, $rows:path;)*) => {
        /// What SHOW can show.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Topic {
            /// The list of commands, as a notice.
            Help,
            $(
                #[doc = $name]
                $variant,
            )*
        }

        impl Topic {
            /// All tables.
            pub const TABLES: &'static [Self] = &[$(Self::$variant,)*];

            /// The topic of that name, in lower case.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    "help" => Some(Self::Help),
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its name in lower case.
            pub fn name(self) -> &'static str {
                match self {
                    Self::Help => "help",
                    $(Self::$variant => $name,)*
                }
            }

            /// The columns of its table.
            pub fn columns(self) -> &'static [Column] {
                match self {
                    Self::Help => &[],
                    $(Self::$variant => $columns,)*
                }
            }

            fn rows(self, view: &View) -> Vec<Vec<Value>> {
                match self {
                    Self::Help => Vec::new(),
                    $(Self::$variant => $rows(view),)*
                }
            }
        }
    };
}

topics! {
    ActiveSockets "active_sockets" sockets::SOCKETS, sockets::active_sockets;
    Clients "clients" sockets::CONNECTIONS, sockets::clients;
    Config "config" config::CONFIG, config::config;
    Databases "databases" config::DATABASES, config::databases;
    DnsHosts "dns_hosts" process::DNS_HOSTS, process::dns_hosts;
    DnsZones "dns_zones" process::DNS_ZONES, process::dns_zones;
    Fds "fds" process::FDS, process::nothing;
    Handover "handover" process::HANDOVER, process::nothing;
    Lists "lists" process::LISTS, process::lists;
    Mem "mem" process::MEM, process::mem;
    PeerPools "peer_pools" pools::PEER_POOLS, pools::peer_pools;
    Peers "peers" config::PEERS, config::peers;
    Pools "pools" pools::POOLS, pools::pools;
    Servers "servers" sockets::CONNECTIONS, sockets::servers;
    Sockets "sockets" sockets::SOCKETS, sockets::sockets;
    State "state" process::STATE, process::state;
    Stats "stats" stats::STATS, stats::stats;
    StatsAverages "stats_averages" stats::AVERAGES, stats::averages;
    StatsTotals "stats_totals" stats::TOTALS, stats::totals;
    Totals "totals" stats::SUMS, stats::sums;
    Users "users" config::USERS, config::users;
    Version "version" process::VERSION, process::version;
}

impl Topic {
    /// Whether only `admin_users` may see it: FDS holds secrets.
    pub fn needs_admin(self) -> bool {
        self.is_of_sockets()
    }

    /// Whether its rows come from [`Source::sockets`](crate::admin::Source::sockets).
    pub fn is_of_sockets(self) -> bool {
        matches!(self, Self::Fds | Self::Handover)
    }

    /// The table whose name comes close to what somebody typed.
    pub fn resembling(typed: &str) -> Option<&'static str> {
        /// More unlike than this is no slip of the fingers.
        const LIKENESS: f64 = 0.8;
        let typed = typed.to_ascii_lowercase();
        let likeness = |it: &Self| strsim::jaro_winkler(it.name(), &typed);
        let nearest = Self::TABLES.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
        (likeness(nearest) >= LIKENESS).then(|| nearest.name())
    }

    /// Its table.
    pub(super) fn table(self, view: &View) -> Table {
        Table { columns: self.columns(), rows: self.rows(view) }
    }
}

/// A row of values of any kinds.
macro_rules! row {
    ($($value:expr),* $(,)?) => {
        vec![$($crate::admin::table::Value::from($value)),*]
    };
}
use row;
