//! The settings of the entries of `[databases]`, `[users]` and `[peers]`.

use super::{Effect, Reload, Setting, Zero};
use crate::config::{Database, Peer, User, kinds};

/// Declares the table of an entry whose struct stands elsewhere.
macro_rules! rows {
    (
        $(#[$doc:meta])* $table:ident: $holder:ident;
        $($name:ident $(alias $alias:literal)? $(in $field:ident)? = $kind:ident, $reload:ident $(, $zero:ident)?; $help:literal)*
    ) => {
        $(#[$doc])*
        pub const $table: &[Setting<$holder>] = &[
            $(Setting {
                name: stringify!($name),
                alias: rows!(@alias $($alias)?),
                default: None,
                default_ini: None,
                facts: kinds::$kind.facts,
                zero: rows!(@zero $($zero)?),
                reload: Reload::$reload,
                effect: Effect::Full,
                help: $help,
                read: |it, text| (kinds::$kind.read)(text).map(|value| rows!(@field it, $name $($field)?) = value),
                show: |it| (kinds::$kind.show)(&rows!(@field it, $name $($field)?)),
                same: |a, b| rows!(@field a, $name $($field)?) == rows!(@field b, $name $($field)?),
                copy: |to, from| rows!(@field to, $name $($field)?) = rows!(@field from, $name $($field)?).clone(),
            },)*
        ];
    };
    (@alias) => { None };
    (@alias $alias:literal) => { Some($alias) };
    (@zero) => { Zero::Value };
    (@zero $zero:ident) => { Zero::$zero };
    (@field $it:ident, $name:ident) => { $it.$name };
    (@field $it:ident, $name:ident $field:ident) => { $it.$field };
}

rows! {
    /// The settings of an entry of `[databases]`.
    DATABASE: Database;
    dbname = MAYBE_TEXT, Live; "The server's name for the database. Without it: the entry's own name."
    host in hosts = HOSTS, Live; "Where the server is: names or addresses with commas between them, `/directory` or `@name` of a Unix socket. Without it: the socket in `unix_socket_dir`."
    port = MAYBE_PORT, Live; "The server's port. Without it: 5432."
    user = USER, Live; "Log in to the server as this user whoever the client is; all clients share one pool."
    password = SECRET, NewConnections; "The password of `user`."
    password_file in password = SECRET_IN_FILE, NewConnections; "File with the password of `user`; a line end at its end does not count."
    schema = MAYBE_TEXT, Live; "Sets `search_path` of the entry's servers from their start on, so that RESET and DISCARD ALL come back to it."
    auth_user = USER, Live; "Overrides `auth_user`."
    auth_dbname = DATABASE, Live; "Overrides `auth_dbname`."
    auth_query = MAYBE_TEXT, Live; "Overrides `auth_query`."
    pool_size = MAYBE_COUNT, Live, InheritBelow; "Overrides `default_pool_size`."
    min_pool_size = MAYBE_COUNT, Live, InheritBelow; "Overrides `min_pool_size`."
    reserve_pool_size alias "reserve_pool" = MAYBE_COUNT, Live, InheritBelow; "Overrides `reserve_pool_size`."
    pool_mode = MAYBE_POOL_MODE, NewConnections; "Overrides `pool_mode`."
    max_db_connections = MAYBE_COUNT, Live, Inherit; "Overrides `max_db_connections`. 0: no limit."
    max_db_client_connections = MAYBE_COUNT, Live, Inherit; "Overrides `max_db_client_connections`. 0: no limit."
    server_lifetime = MAYBE_SECONDS, Live, Inherit; "Overrides `server_lifetime`."
    query_wait_timeout = MAYBE_SECONDS, Live, Inherit; "Overrides `query_wait_timeout`."
    load_balance_hosts = LOAD_BALANCE, Live; "With several hosts: `round-robin` uses each in turn, `disable` stays with one until a connect to it fails."
    connect_query = MAYBE_TEXT, Live; "Query to run on each new server connection, and again when one was cleaned of what a client left behind; its errors are only logged."
    client_encoding = MAYBE_TEXT, Live; "`client_encoding` that new servers start with."
    datestyle = MAYBE_TEXT, Live; "`DateStyle` that new servers start with."
    timezone = MAYBE_TEXT, Live; "`TimeZone` that new servers start with."
    application_name = MAYBE_TEXT, Live; "`application_name` that new servers start with."
    disabled = FLAG, Live; "Refuse logins from the start, as the console's DISABLE does."
}

rows! {
    /// The settings of an entry of `[users]`.
    USER: User;
    password = SECRET, NewConnections; "The user's secret, in place of a line in `auth_file`: plain, `md5…` or `SCRAM-SHA-256$…`."
    password_file in password = SECRET_IN_FILE, NewConnections; "File with the user's secret; a line end at its end does not count."
    pool_size = MAYBE_COUNT, Live, InheritBelow; "Overrides `default_pool_size` and a database's `pool_size`."
    reserve_pool_size = MAYBE_COUNT, Live, InheritBelow; "Overrides `reserve_pool_size`."
    pool_mode = MAYBE_POOL_MODE, NewConnections; "Overrides `pool_mode`."
    max_user_connections = MAYBE_COUNT, Live, InheritBelow; "Overrides `max_user_connections`. 0: no limit."
    max_user_client_connections = MAYBE_COUNT, Live, InheritBelow; "Overrides `max_user_client_connections`. 0: no limit."
    query_timeout = MAYBE_SECONDS, Live, Inherit; "Overrides `query_timeout`."
    query_wait_timeout = MAYBE_SECONDS, Live, Inherit; "Overrides `query_wait_timeout`."
    idle_transaction_timeout = MAYBE_SECONDS, Live, Inherit; "Overrides `idle_transaction_timeout`."
    transaction_timeout = MAYBE_SECONDS, Live, Inherit; "Overrides `transaction_timeout`."
    client_idle_timeout = MAYBE_SECONDS, Live, Inherit; "Overrides `client_idle_timeout`."
}

rows! {
    /// The settings of an entry of `[peers]`.
    PEER: Peer;
    host = HOST, Live; "Where the peer listens: a name, an address or the directory of its Unix socket."
    port = SERVER_PORT, Live; "Its `listen_port`. Without it: 6432."
    pool_size = MAYBE_COUNT, Live, InheritBelow; "Most connections for passing on cancel requests. Without it: `default_pool_size`. 0: no limit."
}
