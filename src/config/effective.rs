//! What is in force for a pool, a client, a database or a user, once all overrides are resolved.
//!
//! The user comes before the database, the database before the global setting. For a pool's size and mode "the user"
//! is the one whose servers they are (the forced one, if any); for a client's limits it is the one who logged in.

use crate::ids::{DatabaseName, PoolKey, UserName};

use super::{ClientSettings, Config, Database, PoolSettings, User};

/// The name of the console's database, and of the user its sessions are counted under.
pub const CONSOLE: &str = "pgbouncer";

/// The names under which the console is reached; no entry of `[databases]` may have one.
const CONSOLE_DATABASES: [&str; 2] = [CONSOLE, "pgweir"];

/// Whether clients reach the console by this name.
pub fn is_console(database: &str) -> bool {
    CONSOLE_DATABASES.contains(&database)
}

impl Config {
    /// The entry for a database as clients name it: its own, else `*`.
    pub fn database(&self, name: &DatabaseName) -> Option<&Database> {
        self.databases.get(name).or(self.any_database.as_ref())
    }

    /// What servers call the database that clients know as `name`.
    pub fn server_dbname<'a>(&'a self, name: &'a DatabaseName) -> &'a str {
        self.database(name).and_then(|entry| entry.dbname.as_deref()).unwrap_or(name.as_str())
    }

    /// Whose servers a client gets: the database's forced user, else the one who logged in.
    pub fn pool_user(&self, database: &DatabaseName, login: &UserName) -> UserName {
        self.database(database).and_then(|entry| entry.user.as_ref()).unwrap_or(login).clone()
    }

    /// The pool of a client who logged in as `login`.
    pub fn pool_key(&self, database: &DatabaseName, login: &UserName) -> PoolKey {
        PoolKey { database: database.clone(), user: self.pool_user(database, login) }
    }

    /// What is in force for a pool.
    pub fn pool_settings(&self, pool: &PoolKey) -> PoolSettings {
        let global = &self.settings;
        let user = self.user(&pool.user);
        let database = self.database(&pool.database);
        let of_database = |field: fn(&Database) -> Option<usize>| database.and_then(field);
        PoolSettings {
            mode: user.pool_mode.or(database.and_then(|it| it.pool_mode)).unwrap_or(global.pool_mode),
            size: user.pool_size.or(of_database(|it| it.pool_size)).unwrap_or(global.default_pool_size),
            min_size: of_database(|it| it.min_pool_size).unwrap_or(global.min_pool_size),
            reserve_size: user
                .reserve_pool_size
                .or(of_database(|it| it.reserve_pool_size))
                .unwrap_or(global.reserve_pool_size),
            reserve_timeout: global.reserve_pool_timeout,
            server_lifetime: database.and_then(|it| it.server_lifetime).unwrap_or(global.server_lifetime),
            server_idle_timeout: global.server_idle_timeout,
            server_login_retry: global.server_login_retry,
            switchover_timeout: global.switchover_timeout,
            server_round_robin: global.server_round_robin,
            connecting_max: global.server_connecting_max,
            check_after: global.server_check_query.as_ref().map(|_| global.server_check_delay),
        }
    }

    /// What is in force for a client who logged in as `login`.
    pub fn client_settings(&self, database: &DatabaseName, login: &UserName) -> ClientSettings {
        let global = &self.settings;
        let user = self.user(login);
        let of_database = self.database(database).and_then(|it| it.query_wait_timeout);
        ClientSettings {
            query_wait_timeout: user.query_wait_timeout.or(of_database).unwrap_or(global.query_wait_timeout),
            query_wait_notify: global.query_wait_notify,
            query_timeout: user.query_timeout.unwrap_or(global.query_timeout),
            idle_transaction_timeout: user
                .idle_transaction_timeout
                .unwrap_or(global.idle_transaction_timeout),
            transaction_timeout: user.transaction_timeout.unwrap_or(global.transaction_timeout),
            client_idle_timeout: user.client_idle_timeout.unwrap_or(global.client_idle_timeout),
            send_bytes_max: match usize::try_from(global.tcp_socket_buffer) {
                Ok(0) | Err(_) => usize::MAX,
                Ok(size) => size,
            },
        }
    }

    /// Most servers of a database over all its pools; 0: no limit.
    pub fn max_db_connections(&self, name: &DatabaseName) -> usize {
        let own = self.database(name).and_then(|it| it.max_db_connections);
        own.unwrap_or(self.settings.max_db_connections)
    }

    /// Most clients of a database; 0: no limit.
    pub fn max_db_client_connections(&self, name: &DatabaseName) -> usize {
        let own = self.database(name).and_then(|it| it.max_db_client_connections);
        own.unwrap_or(self.settings.max_db_client_connections)
    }

    /// Most servers of a user (a pool's user) over all its pools; 0: no limit.
    pub fn max_user_connections(&self, user: &UserName) -> usize {
        self.user(user).max_user_connections.unwrap_or(self.settings.max_user_connections)
    }

    /// Most clients of a login user; 0: no limit.
    pub fn max_user_client_connections(&self, user: &UserName) -> usize {
        self.user(user).max_user_client_connections.unwrap_or(self.settings.max_user_client_connections)
    }

    /// Whether the user may use all of the console.
    pub fn is_admin(&self, user: &UserName) -> bool {
        self.settings.admin_users.contains(user)
    }

    /// Whether the user may look at the console.
    pub fn may_see_stats(&self, user: &UserName) -> bool {
        self.is_admin(user) || self.settings.stats_users.contains(user)
    }

    fn user(&self, name: &UserName) -> &User {
        static NONE: User = User::NONE;
        self.users.get(name).unwrap_or(&NONE)
    }
}
