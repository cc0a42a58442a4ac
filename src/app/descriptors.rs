//! How many file descriptors the system allows, beside how many there may be use for.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::ids::{PoolKey, UserName};

/// Listening sockets, the log, rings and the like.
const OTHERS: u64 = 64;

/// What to do where there are too few.
pub const ADVICE: &str =
    "raise the limit (LimitNOFILE of a systemd unit, ulimit -n) or lower max_client_conn";

/// Whether this failed for want of a descriptor.
pub fn were_lacking(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].into_iter().any(|it| error.raw_os_error() == Some(it.raw_os_error()))
}

/// Raises the limit where that is needed and allowed, and says in PgBouncer's words what it is (`check_limits` in
/// src/main.c there); in a warning, where clients or servers may have to be refused for it.
pub fn see_to_limit(config: &Config) {
    let wanted = wanted(config);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` is no limit.
    let raised = current.map(|it| it.max(wanted).min(maximum.unwrap_or(u64::MAX)));
    let has_raised =
        raised != current && setrlimit(Resource::Nofile, Rlimit { current: raised, maximum }).is_ok();
    let limit = if has_raised { raised } else { current };
    let show = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |it| it.to_string());
    let clients = config.settings.max_client_conn;
    let text = format!(
        "kernel file descriptor limit: {} (hard: {}); max_client_conn: {clients}, max expected fd use: {wanted}",
        show(limit),
        show(maximum)
    );
    if limit.is_some_and(|it| it < wanted) {
        tracing::warn!("{text}: {ADVICE}");
    } else {
        tracing::info!("{text}");
    }
}

/// The same where the configuration `new` takes the place of `old`, and there may be more.
pub fn follow(old: &Config, new: &Config) {
    if wanted(new) > wanted(old) {
        see_to_limit(new);
    }
}

/// Each client has one, and each server of the pools that are known by now.
fn wanted(config: &Config) -> u64 {
    let servers: usize = config
        .databases
        .iter()
        .map(|(name, entry)| {
            let user = entry.user.clone().unwrap_or_else(|| UserName::from(""));
            let settings = config.pool_settings(&PoolKey { database: name.clone(), user });
            settings.size.saturating_add(settings.reserve_size)
        })
        .fold(0, usize::saturating_add);
    let all = config.settings.max_client_conn.saturating_add(servers);
    u64::try_from(all).unwrap_or(u64::MAX).saturating_add(OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Database;

    #[test]
    fn clients_and_the_servers_of_all_entries_are_counted() {
        let mut config = Config::default();
        (config.settings.max_client_conn, config.settings.default_pool_size) = (100, 20);
        config.databases.insert("a".into(), Database::default());
        config.databases.insert("b".into(), Database { pool_size: Some(3), ..Database::default() });
        assert_eq!(wanted(&config), 100 + 20 + 3 + OTHERS);
    }
}
