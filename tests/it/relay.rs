//! The relay: both directions always open, in bounded memory, for well-behaved and other peers.

use crate::support::cluster::Cluster;
use crate::support::pooler::Pooler;

#[test]
fn a_query_is_answered() {
    let pooler = Pooler::of(Cluster::shared());
    assert_eq!(pooler.app().value("SELECT 40 + 2"), "42");
}
