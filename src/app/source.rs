//! What the console shows of the process.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::handing;
use super::process::{Phase, Process};
use crate::admin::{Activity, Audience, Certificate, DatabaseState, SocketRow, Source};
use crate::config::Config;
use crate::ids::{PeerId, PoolKey};
use crate::net::Names;
use crate::stats::{PoolStats, Roster};

impl Source for Process {
    fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster)
    }

    fn pools(&self) -> Vec<(PoolKey, Arc<PoolStats>)> {
        self.pools.all().iter().map(|pool| (pool.key().clone(), Arc::clone(pool.stats()))).collect()
    }

    fn databases(&self) -> Vec<DatabaseState> {
        let state = |it: crate::pool::DatabaseView| DatabaseState {
            name: it.name,
            paused: it.paused,
            disabled: it.disabled,
        };
        self.pools.databases().into_iter().map(state).collect()
    }

    fn peer_pools(&self) -> Vec<PeerId> {
        self.peers.used()
    }

    fn names(&self) -> Names {
        self.connector.dialer.names().clone()
    }

    fn activity(&self) -> Activity {
        match (self.pools.suspension().is_on(), self.pools.is_paused(None)) {
            (true, _) => Activity::Suspended,
            (false, true) => Activity::Paused,
            (false, false) => Activity::Active,
        }
    }

    fn ready(&self) -> Result<(), String> {
        match *self.phase.borrow() {
            Phase::Running => Ok(()),
            Phase::WaitingForClients | Phase::WaitingForServers => Err("draining".to_owned()),
            Phase::Stopped => Err("stopped".to_owned()),
        }
    }

    fn sockets(self: Arc<Self>, audience: Audience) -> mpsc::Receiver<SocketRow> {
        handing::sockets(self, audience)
    }

    fn workers_at_work(&self) -> u32 {
        self.staffing.at_work()
    }

    fn certificates(&self) -> Vec<Certificate> {
        let expires = self.tls.load().clients.certificate_expires();
        expires.map(|expires| Certificate { setting: "client_tls_cert_file", expires }).into_iter().collect()
    }
}
