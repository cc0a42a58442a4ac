//! What happened and who is connected.
//!
//! Owns the counters and histograms of each pool and the [`Roster`] of connections. It refuses to act and to look at
//! the clock: owners write into it, `admin` reads. Invariant: a counter has a single writer, the worker whose cell it
//! is in, so that counting takes no locked instruction; readers sum the cells.

mod address;
mod counters;
mod events;
mod histogram;
mod replication;
mod roster;
mod serving;

pub use events::{client_event, server_event, server_span};

pub use address::Address;
pub use counters::{Cell, Field, Histograms, LoggingIn, PoolStats, Recent, Totals};
pub use histogram::{BOUNDS_US, BUCKETS, Bucket, Histogram, Snapshot};
pub use replication::Replication;
pub use roster::{
    CancelOf, ClientConnected, ClientEntry, ClientLogin, ClientSeat, ClientState, Disconnect, Roster,
    ServerConnected, ServerEntry, ServerSeat, ServerState,
};
pub use serving::{Served, name_client};
