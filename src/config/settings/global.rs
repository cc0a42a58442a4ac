//! The global settings: `[pgweir]` in a TOML file, `[pgbouncer]` in an ini file.
//!
//! PgBouncer's come first, in the order of its SHOW CONFIG; ours follow.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{AuthType, Compatibility, LogFormat, LogLevel, PoolMode, RelayDriver, Secret, SslMode};
use crate::ids::{DatabaseName, UserName};

use super::settings;

settings! {
    /// The global settings, one field each under PgBouncer's own name. A time of zero is "off".
    Settings,
    /// The rows of [`Settings`], in the order of SHOW CONFIG.
    GLOBAL;
    admin_users: Vec<UserName> = USERS, Some(""), Live;
        "Users who may log in to the console and use all its commands."
    application_name_add_host: bool = FLAG, Some("0"), NewConnections;
        "Append the client's host and port to its `application_name` when it connects."
    auth_dbname: Option<DatabaseName> = DATABASE, None, Live;
        "The entry of `[databases]` on which `auth_query` runs. Without it: the client's own."
    auth_file: Option<PathBuf> = SECRET_FILE, None, Live;
        "File with users and their secrets, one `\"user\" \"secret\"` a line."
    auth_hba_file: Option<PathBuf> = FILE, Some(""), Live;
        "File that says who may log in from where and how, like `pg_hba.conf`. Read when `auth_type` is `hba`."
    auth_ident_file: Option<PathBuf> = FILE, None, Live;
        "File with the name maps that `auth_hba_file` refers to, like `pg_ident.conf`."
    auth_ldap_options: Option<Secret> = SECRET, None, Live;
        "Options of an LDAP login when `auth_type` is `ldap`, as in `pg_hba.conf`."
    auth_query: String = TEXT, Some("SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin"), Live;
        "Query that finds the secret of a user who is not in `auth_file`. `$1` is the user; the columns are name and secret."
    auth_type: AuthType = AUTH_TYPE, Some("md5"), Live;
        "How clients prove who they are."
    auth_user: Option<UserName> = USER, None, Live;
        "User under whom `auth_query` runs. Without one, users outside of `auth_file` are unknown."
    autodb_idle_timeout: Duration = SECONDS, Some("3600"), Live;
        "Forget a database that came from the entry `*` when it has been unused this long. 0: never."
    cancel_wait_timeout: Duration = SECONDS, Some("10"), Live;
        "Longest wait of a cancel request for its connection to the server. 0: no limit."
    client_idle_timeout: Duration = SECONDS, Some("0"), Live;
        "Close a client that has been idle this long outside of a transaction. 0: never."
    client_login_timeout: Duration = SECONDS, Some("60"), NewConnections;
        "Longest time from a client's connect to the end of its login. 0: no limit."
    client_tls13_ciphers: Option<String> = MAYBE_TEXT, None, NewConnections;
        "Cipher suites of TLS 1.3 towards clients, with colons between them."
    client_tls_ca_file: Option<PathBuf> = FILE, Some(""), NewConnections;
        "Certificates of the authorities that may have signed clients' certificates."
    client_tls_cert_file: Option<PathBuf> = FILE, Some(""), NewConnections;
        "Certificate shown to clients, with its chain."
    client_tls_ciphers: String = TEXT, Some("default"), NewConnections;
        "Cipher suites of TLS 1.2 towards clients: `default`, `secure`, `all`, or names with colons between them."
    client_tls_dheparams: String = TEXT, Some("auto"), NewConnections, idle "there is no plain Diffie-Hellman in TLS here, only elliptic curves";
        "Diffie-Hellman parameters towards clients."
    client_tls_ecdhcurve: String = TEXT, Some("auto"), NewConnections;
        "Curves of the key exchange with clients: `auto`, or names with colons between them."
    client_tls_key_file: Option<PathBuf> = SECRET_FILE, Some(""), NewConnections;
        "Private key of `client_tls_cert_file`."
    client_tls_protocols: String = TLS_PROTOCOLS, Some("secure"), NewConnections;
        "TLS versions towards clients: `secure`, `all`, or a list of `tlsv1.2`, `tlsv1.3`."
    client_tls_sslmode: SslMode = SSL_MODE, Some("disable"), NewConnections;
        "TLS with clients."
    conffile: Option<PathBuf> = PATH, None, Live;
        "The configuration file. Changed by SET, the next RELOAD reads another one."
    default_pool_size: usize = COUNT, Some("20"), Live;
        "Most servers of one pool (one database and user). 0: no limit."
    disable_pqexec: bool = FLAG, Some("0"), Restart;
        "Refuse the simple query protocol, which may carry several statements in one string."
    dns_max_ttl: Duration = SECONDS, Some("15"), Live;
        "Longest time that an address which was looked up is used; less where DNS says so (see `resolv_conf`)."
    dns_nxdomain_ttl: Duration = SECONDS, Some("15"), Live;
        "How long a failed look-up is remembered."
    dns_zone_check_period: Duration = SECONDS, Some("0"), Live;
        "How often to look for changes of the serial numbers of the DNS zones that names are in; the names of a zone that changed are looked up anew. 0: never."
    idle_transaction_timeout: Duration = SECONDS, Some("0"), Live;
        "Close a client, and its server, that has been idle in a transaction this long. 0: never."
    ignore_startup_parameters: Vec<String> = LIST, Some(""), NewConnections;
        "Start-up parameters that are accepted and not passed on. `options` means unknown ones inside `options`."
    job_name: String = TEXT, Some("pgbouncer"), Restart, idle "it names a Windows service";
        "Name of the Windows service."
    listen_addr: Vec<String> = LIST, Some(""), Restart;
        "Addresses to listen on for TCP. `*`: all. Empty: no TCP."
    listen_backlog: u32 = NUMBER, Some("128"), Restart;
        "Connections that the kernel may hold until they are accepted."
    listen_port: u16 = PORT, Some("6432"), Restart;
        "Port to listen on, for TCP and in the name of the Unix socket. 0: a free one."
    log_connections: bool = FLAG, Some("1"), Live;
        "Log logins, and new connections to servers."
    log_disconnections: bool = FLAG, Some("1"), Live;
        "Log why connections end."
    log_pooler_errors: bool = FLAG, Some("1"), Live;
        "Log the errors that are sent to clients."
    log_stats: bool = FLAG, Some("1"), Live;
        "Log a line of statistics every `stats_period`."
    logfile: Option<PathBuf> = PATH, Some(""), Live;
        "File to log to, besides the standard error. Opened anew at RELOAD."
    login_notify_message: Option<String> = MAYBE_TEXT, Some(""), NewConnections;
        "A NOTICE that every client gets after its login."
    max_client_conn: usize = COUNT, Some("100"), Live;
        "Most clients at once, those of the console not counted."
    max_db_client_connections: usize = COUNT, Some("0"), Live;
        "Most clients of one database. 0: no limit."
    max_db_connections: usize = COUNT, Some("0"), Live;
        "Most servers of one database, over all its pools. 0: no limit."
    max_packet_size: u64 = BYTES, Some("2147483647"), Live;
        "Longest message that is accepted."
    max_prepared_statements: usize = COUNT, Some("200"), Live;
        "Named prepared statements kept ready on each server. 0: they are not followed from server to server."
    max_user_client_connections: usize = COUNT, Some("0"), Live;
        "Most clients of one user. 0: no limit."
    max_user_connections: usize = COUNT, Some("0"), Live;
        "Most servers of one user, over all its pools. 0: no limit."
    min_pool_size: usize = COUNT, Some("0"), Live;
        "Servers kept connected in a pool even when nobody needs them."
    peer_id: u16 = PEER_ID, Some("0"), Live;
        "Number of this process among its peers, which share one port and pass on each other's cancel requests. 0: it has none."
    pidfile: Option<PathBuf> = PATH, Some(""), Restart;
        "File that holds the number of the process."
    pkt_buf: u64 = BYTES, Some("4096"), Restart, idle "buffers have a size of their own and an idle client has none";
        "Size of a stream buffer."
    pool_mode: PoolMode = POOL_MODE, Some("session"), NewConnections;
        "How long a client keeps its server: until it leaves, until its transaction ends, until its statement ends."
    pool_idle_timeout: Duration = SECONDS, Some("0"), Live;
        "Forget a pool that has had no clients and no servers this long. 0: never."
    query_timeout: Duration = SECONDS, Some("0"), Live;
        "Longest time a query may run; its client is closed after that. 0: no limit."
    query_wait_notify: Duration = SECONDS, Some("5"), Live;
        "Tell a client by a NOTICE that it has been waiting this long for a server. 0: never."
    query_wait_timeout: Duration = SECONDS, Some("120"), Live;
        "Longest wait of a client for a server; it is closed after that. 0: no limit."
    reserve_pool_size: usize = COUNT, Some("0"), Live;
        "Servers beyond the size of a pool, for clients that have waited `reserve_pool_timeout`."
    reserve_pool_timeout: Duration = SECONDS, Some("5"), Live;
        "Wait of a client that opens the reserve. 0: the reserve is never used."
    resolv_conf: Option<PathBuf> = PATH, Some(""), Restart;
        "Look names up in `/etc/hosts` and by DNS as this file says, with the times to live that DNS tells. Empty: as the system does, by all that `/etc/nsswitch.conf` says. A name server may have a port: `nameserver 127.0.0.1:5353`."
    sbuf_loopcnt: usize = COUNT, Some("5"), Live, idle "a connection gives way to the others after every read";
        "How often a connection is read before it is another's turn."
    scram_iterations: u32 = ITERATIONS, Some("4096"), NewConnections;
        "Iterations of the SCRAM secrets made from plain passwords."
    server_check_delay: Duration = SECONDS, Some("30"), Live;
        "A server that has been idle this long is asked `server_check_query` before its next client. 0: always."
    server_check_query: Option<String> = CHECK_QUERY, Some("<empty>"), Live;
        "Query that tells whether an idle server still answers. `<empty>`: the empty query. Empty: no check."
    server_connect_timeout: Duration = SECONDS, Some("15"), Live;
        "Longest time from the connect to a server to the end of the login there. 0: no limit."
    server_fast_close: bool = FLAG, Some("0"), Live;
        "In session mode, close a server that is due as soon as it is in no transaction, and its client with it."
    server_idle_timeout: Duration = SECONDS, Some("600"), Live;
        "Close a server that has been idle this long. 0: never."
    server_lifetime: Duration = SECONDS, Some("3600"), Live;
        "Close an unused server that was connected this long ago. 0: use each server once."
    server_login_retry: Duration = SECONDS, Some("15"), Live;
        "Wait this long after a failed connect or login before the next attempt."
    server_reset_query: Option<String> = MAYBE_TEXT, Some("DISCARD ALL"), Live;
        "Query that cleans a server between two clients in session mode. Empty: none."
    server_reset_query_always: bool = FLAG, Some("0"), Live;
        "Run `server_reset_query` in all pool modes."
    server_round_robin: bool = FLAG, Some("0"), Live;
        "Use the server next that has been idle longest, in place of the one used last."
    server_tls13_ciphers: Option<String> = MAYBE_TEXT, None, NewConnections;
        "Cipher suites of TLS 1.3 towards servers, with colons between them."
    server_tls_ca_file: Option<PathBuf> = FILE, Some(""), NewConnections;
        "Certificates of the authorities that may have signed servers' certificates."
    server_tls_cert_file: Option<PathBuf> = FILE, Some(""), NewConnections;
        "Certificate shown to servers that ask for one."
    server_tls_ciphers: String = TEXT, Some("default"), NewConnections;
        "Cipher suites of TLS 1.2 towards servers: `default`, `secure`, `all`, or names with colons between them."
    server_tls_key_file: Option<PathBuf> = SECRET_FILE, Some(""), NewConnections;
        "Private key of `server_tls_cert_file`."
    server_tls_protocols: String = TLS_PROTOCOLS, Some("secure"), NewConnections;
        "TLS versions towards servers: `secure`, `all`, or a list of `tlsv1.2`, `tlsv1.3`."
    server_tls_sslmode: SslMode = SSL_MODE, Some("prefer"), NewConnections;
        "TLS with servers."
    service_name: Option<String> = MAYBE_TEXT, None, Restart, idle "it names a Windows service";
        "Another name of `job_name`."
    so_reuseport: bool = FLAG, Some("0"), Restart;
        "Let several processes listen on the same TCP port."
    stats_period: Duration = SECONDS, Some("60"), Live;
        "Length of the period of the averages in SHOW STATS, and time between two log lines of statistics."
    stats_users: Vec<UserName> = USERS, Some(""), Live;
        "Users who may log in to the console and look, and change nothing."
    suspend_timeout: Duration = SECONDS, Some("10"), Live;
        "Longest time that SUSPEND, or a restart with -R, waits for half-sent data."
    syslog: bool = FLAG, Some("0"), Live;
        "Log to the system's log too."
    syslog_facility: String = FACILITY, Some("daemon"), Live;
        "Facility of the system's log."
    syslog_ident: String = TEXT, Some("pgbouncer"), Live;
        "Name in the system's log."
    tcp_defer_accept: u32 = NUMBER, Some("1"), Live, idle "a client that connects and stays silent costs no more than its place among logins";
        "Seconds that the kernel holds a TCP connection back until its first bytes come. 0: it does not."
    tcp_keepalive: bool = FLAG, Some("1"), NewConnections;
        "Let the kernel probe silent TCP connections."
    tcp_keepcnt: u32 = NUMBER, Some("0"), NewConnections;
        "Lost probes after which a connection is dead. 0: as the system has it."
    tcp_keepidle: Duration = SECONDS, Some("0"), NewConnections;
        "Silence before the first probe. 0: as the system has it."
    tcp_keepintvl: Duration = SECONDS, Some("0"), NewConnections;
        "Time between two probes. 0: as the system has it."
    tcp_socket_buffer: u64 = BYTES, Some("0"), NewConnections;
        "Size of the kernel's buffers of a TCP socket. 0: as the system has it."
    tcp_user_timeout: Duration = MILLISECONDS, Some("0"), NewConnections;
        "A TCP connection is dead when sent data has been unacknowledged this long. 0: as the system has it."
    track_extra_parameters: Vec<String> = LIST, Some("IntervalStyle"), Restart;
        "Parameters that follow a client from server to server besides the usual ones. The server must report them."
    transaction_timeout: Duration = SECONDS, Some("0"), Live;
        "Longest time a transaction may last; its client is closed after that. 0: no limit."
    unix_socket_dir: Option<PathBuf> = PATH, Some("/tmp"), Restart;
        "Directory of the Unix socket. `@name`: an abstract one. Empty: none."
    unix_socket_group: Option<String> = MAYBE_TEXT, Some(""), Restart;
        "Group that the Unix socket is given to."
    unix_socket_mode: u32 = FILE_MODE, Some("0777"), Restart;
        "Permissions of the Unix socket."
    user: Option<String> = MAYBE_TEXT, None, Restart;
        "User of the system to run as, when started as root."
    verbose: u8 = VERBOSITY, None, Live;
        "How much more to log, from 0 to 3."
    compatibility: Compatibility = COMPATIBILITY, Some("postgres"), Live, ini "pgbouncer";
        "Whose behaviour to show where PostgreSQL and PgBouncer differ: SQLSTATEs, errors of prepared statements."
    http_listen: Option<String> = ADDRESS, None, Restart;
        "Address and port for `/metrics`, `/live` and `/ready` over HTTP. Empty: off."
    log_format: LogFormat = LOG_FORMAT, Some("text"), Restart, ini "pgbouncer";
        "Shape of a log line: for people, one JSON object, or PgBouncer's."
    log_level: LogLevel = LOG_LEVEL, Some("info"), Live;
        "The least important messages that are logged."
    relay_driver: RelayDriver = RELAY_DRIVER, Some("auto"), Restart;
        "What moves the bytes: `io_uring`, `tokio` (epoll), or `io_uring` where it may be used and `tokio` where not."
    server_connecting_max: usize = COUNT_NOT_0, Some("4"), Live, ini "1";
        "Connections to servers that one pool may be opening at once."
    shutdown_timeout: Duration = SECONDS, Some("0"), Live;
        "Longest wait for clients or servers when shutting down; what is left is closed then. 0: no limit."
    switchover_timeout: Duration = SECONDS, Some("30"), Live, ini "0";
        "After a server was lost, let clients wait this long for its successor; a pool that had a primary takes no standby meanwhile. 0: do not."
    workers: usize = COUNT, Some("0"), Restart;
        "Threads that carry the traffic, at most. 0: as many as the machine has cores."
    workers_min: usize = COUNT, Some("1"), Live;
        "How many of them share the clients in any case; more do when these are busy. 0: all, always."
}
