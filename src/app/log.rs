//! Where log lines go, and what they look like.
//!
//! Owns the three formats, the level, and the outputs: standard error, `logfile`, syslog. A line is written whole and at
//! once, with one system call, so that whoever follows the file sees it when it has happened. A file that cannot be
//! opened at a reload changes nothing.
//!
//! Levels have PgBouncer's names in its format: error is ERROR (FATAL with a field `fatal = true`), warn is WARNING,
//! info is LOG, debug is DEBUG, trace is NOISE.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Zoned;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogFormat, LogLevel, Settings};
use crate::stats::Served;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `logfile` cannot be opened.
    #[error("cannot open the log file {path:?}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The system's log does not answer.
    #[error("cannot reach the system's log at {SYSLOG_SOCKET}: {0}")]
    Syslog(io::Error),
    /// There is a log already.
    #[error("the log is set up already")]
    Twice,
}

/// Where syslog listens: `_PATH_LOG` in <syslog.h>.
const SYSLOG_SOCKET: &str = "/dev/log";

/// Whether lines go to the standard error too: not with `-q`, nor in the background.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Console {
    /// They do.
    StandardError,
    /// Only to the file and the system's log.
    Silent,
}

/// The log of the process.
#[derive(Debug)]
pub struct Log {
    level: reload::Handle<Targets, Registry>,
    outputs: Arc<Outputs>,
}

impl Log {
    /// Sets the log up, once in a process.
    pub fn start(settings: &Settings, console: Console) -> Result<Self, LogError> {
        let (log, subscriber) = Self::build(settings, console)?;
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
        Ok(log)
    }

    /// Takes over changed settings, and opens `logfile` anew (it may have been moved away). `log_format` stays.
    ///
    /// Errors: the new file cannot be opened; all stays as it was.
    pub fn reload(&self, settings: &Settings) -> Result<(), LogError> {
        let sinks = Sinks::open(settings)?;
        *self.outputs.sinks.lock() = sinks;
        // It fails only when the subscriber is gone, and then there is nothing to filter.
        let _ = self.level.reload(targets(settings));
        Ok(())
    }

    fn build(
        settings: &Settings,
        console: Console,
    ) -> Result<(Self, impl Subscriber + Send + Sync + use<>), LogError> {
        let sinks = Mutex::new(Sinks::open(settings)?);
        let outputs = Arc::new(Outputs { console, sinks });
        let (filter, level) = reload::Layer::new(targets(settings));
        let lines = Lines { format: settings.log_format, outputs: Arc::clone(&outputs) };
        Ok((Self { level, outputs }, tracing_subscriber::registry().with(filter).with(lines)))
    }
}

/// Our own lines by `log_level` and `verbose`; those of the libraries only from warnings on.
fn targets(settings: &Settings) -> Targets {
    let level = match settings.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // PgBouncer shows DEBUG from 1 on, NOISE from 2 on.
    let verbose = match settings.verbose {
        0 => LevelFilter::OFF,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let level = level.max(verbose);
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(env!("CARGO_CRATE_NAME"), level)
}

#[derive(Debug)]
struct Outputs {
    console: Console,
    sinks: Mutex<Sinks>,
}

#[derive(Debug, Default)]
struct Sinks {
    file: Option<File>,
    syslog: Option<Syslog>,
}

impl Sinks {
    fn open(settings: &Settings) -> Result<Self, LogError> {
        let file =
            settings.logfile.as_deref().filter(|it| !it.as_os_str().is_empty()).map(open).transpose()?;
        let syslog = settings.syslog.then(|| Syslog::open(settings)).transpose()?;
        Ok(Self { file, syslog })
    }
}

fn open(path: &Path) -> Result<File, LogError> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.map_err(|source| LogError::File { path: path.into(), source })
}

impl Outputs {
    fn write(&self, level: Level, line: &str, message: &str) {
        // There is nowhere to tell of a log that cannot be written.
        if self.console == Console::StandardError {
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
        let mut sinks = self.sinks.lock();
        if let Some(file) = &mut sinks.file {
            let _ = file.write_all(line.as_bytes());
        }
        if let Some(syslog) = &sinks.syslog {
            syslog.send(level, message);
        }
    }
}

/// From now on a panic stands in the log, on whichever thread it happens: a task that panics ends without a word, and a
/// daemon has no standard error.
pub fn note_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        match trace.status() {
            BacktraceStatus::Captured => tracing::error!("{panic}\n{trace}"),
            _ => tracing::error!("{panic}"),
        }
    }));
}

#[derive(Debug)]
struct Syslog {
    socket: UnixDatagram,
    facility: u8,
    ident: String,
}

impl Syslog {
    fn open(settings: &Settings) -> Result<Self, LogError> {
        let socket = UnixDatagram::unbound().map_err(LogError::Syslog)?;
        socket.connect(SYSLOG_SOCKET).map_err(LogError::Syslog)?;
        socket.set_nonblocking(true).map_err(LogError::Syslog)?;
        let facility = facility(&settings.syslog_facility);
        Ok(Self { socket, facility, ident: settings.syslog_ident.clone() })
    }

    fn send(&self, level: Level, message: &str) {
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let priority = u16::from(self.facility) * 8 + severity;
        let text = format!("<{priority}>{}[{}]: {message}", self.ident, std::process::id());
        match self.socket.send(text.as_bytes()) {
            Ok(_) => {}
            // A full queue loses lines rather than holding up queries.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Who listened there may have been started anew. There is nowhere to tell of a log that cannot be written.
            Err(_) => {
                let _ = self.socket.connect(SYSLOG_SOCKET).and_then(|()| self.socket.send(text.as_bytes()));
            }
        }
    }
}

/// The numbers of RFC 5424, section 6.2.1.
fn facility(name: &str) -> u8 {
    match name {
        "user" => 1,
        "auth" => 4,
        "authpriv" => 10,
        "local0" => 16,
        "local1" => 17,
        "local2" => 18,
        "local3" => 19,
        "local4" => 20,
        "local5" => 21,
        "local6" => 22,
        "local7" => 23,
        _ => 3,
    }
}

struct Lines {
    format: LogFormat,
    outputs: Arc<Outputs>,
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Line::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Line>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        // From the innermost span outwards.
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Line>() {
                line.complete(fields);
            }
        }
        if line.side.is_none()
            && let Some(client) = Served::now()
        {
            line.complete(&Line::of_client(client));
        }
        let level = *event.metadata().level();
        let message = line.prefixed_message();
        let text = match self.format {
            LogFormat::Text => line.text(level, &message),
            LogFormat::Json => line.json(level, event.metadata().target()),
            LogFormat::PgBouncer => line.pgbouncer(level, &message),
        };
        self.outputs.write(level, &text, &message);
    }
}

/// An event's fields, sorted by what they are for.
#[derive(Debug, Default)]
struct Line {
    message: String,
    fatal: bool,
    side: Option<String>,
    id: Option<u64>,
    database: Option<String>,
    user: Option<String>,
    peer: Option<String>,
    others: Vec<(&'static str, Value)>,
}

#[derive(Debug)]
enum Value {
    Text(String),
    /// A number or a truth value: JSON as it stands.
    Plain(String),
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_text(field, value.to_owned());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "id" => self.id = Some(value),
            name => self.others.push((name, Value::Plain(value.to_string()))),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), Value::Plain(value.to_string())));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "fatal" => self.fatal = value,
            name => self.others.push((name, Value::Plain(value.to_string()))),
        }
    }
}

impl Line {
    /// What every line about a client has. Names of clients that nobody knows yet may hold anything.
    fn of_client(client: Served) -> Self {
        let printable = |name: &str| name.replace(char::is_control, "?");
        let (database, user) = client.names.unzip();
        Self {
            side: Some("C".to_owned()),
            id: Some(client.id.0),
            database: database.map(|it| printable(it.as_str())),
            user: user.map(|it| printable(it.as_str())),
            peer: Some(client.peer.to_string()),
            ..Self::default()
        }
    }

    /// Takes from a span what the event itself, or a span within that one, does not say.
    fn complete(&mut self, span: &Self) {
        let texts = [
            (&mut self.side, &span.side),
            (&mut self.database, &span.database),
            (&mut self.user, &span.user),
            (&mut self.peer, &span.peer),
        ];
        for (own, of_span) in texts {
            if own.is_none() {
                own.clone_from(of_span);
            }
        }
        self.id = self.id.or(span.id);
    }

    fn record_text(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            "side" => self.side = Some(value),
            "database" => self.database = Some(value),
            "user" => self.user = Some(value),
            "peer" => self.peer = Some(value),
            name => self.others.push((name, Value::Text(value))),
        }
    }

    /// `C-0x1: db/user@127.0.0.1:5000 message key=value`; lines after the first begin with a tab.
    fn prefixed_message(&self) -> String {
        let mut text = String::new();
        if let (Some(side), Some(id)) = (&self.side, self.id) {
            let part = |it: &Option<String>, none| it.clone().unwrap_or_else(|| String::from(none));
            let (database, user) = (part(&self.database, "(nodb)"), part(&self.user, "(nouser)"));
            text.push_str(&format!("{side}-{id:#x}: {database}/{user}@{} ", part(&self.peer, "")));
        }
        text.push_str(&self.message);
        let named = |name, value: &Option<String>| value.clone().map(|it| (name, it));
        let alone = [named("database", &self.database), named("user", &self.user), named("peer", &self.peer)];
        for (name, value) in alone.into_iter().flatten().filter(|_| self.side.is_none()) {
            text.push_str(&format!(" {name}={value}"));
        }
        for (name, value) in &self.others {
            let (Value::Text(value) | Value::Plain(value)) = value;
            text.push_str(&format!(" {name}={value}"));
        }
        // What clients send (names of databases, say) must not be able to forge a line.
        text.trim_end().replace('\r', "\\r").replace('\n', "\n\t")
    }

    fn text(&self, level: Level, message: &str) -> String {
        let word = if self.fatal { "FATAL" } else { level.as_str() };
        format!("{} {word:<5} {message}\n", Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.3f %:z"))
    }

    fn pgbouncer(&self, level: Level, message: &str) -> String {
        let word = match level {
            Level::ERROR if self.fatal => "FATAL",
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "LOG",
            Level::DEBUG => "DEBUG",
            _ => "NOISE",
        };
        let time = Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.3f %Z").to_string();
        format!("{time} [{}] {word} {message}\n", std::process::id())
    }

    fn json(&self, level: Level, target: &str) -> String {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let word = if self.fatal { "FATAL" } else { level.as_str() };
        let mut fields = vec![
            ("timestamp", quoted(&time)),
            ("level", quoted(word)),
            ("target", quoted(target)),
            ("pid", std::process::id().to_string()),
            ("message", quoted(&self.message)),
        ];
        let texts =
            [("side", &self.side), ("database", &self.database), ("user", &self.user), ("peer", &self.peer)];
        fields.extend(texts.into_iter().filter_map(|(name, text)| Some((name, quoted(text.as_deref()?)))));
        fields.extend(self.id.map(|id| ("id", id.to_string())));
        for (name, value) in &self.others {
            match value {
                Value::Text(text) => fields.push((name, quoted(text))),
                Value::Plain(text) => fields.push((name, text.clone())),
            }
        }
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
        format!("{{{}}}\n", fields.join(","))
    }
}

/// A JSON string: RFC 8259, section 7.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::ids::{ClientId, PoolKey, ServerId, WorkerId};
    use crate::stats::{
        Address, ClientConnected, ClientSeat, Replication, Roster, ServerConnected, client_event,
        name_client, server_event, server_span,
    };

    fn settings(format: LogFormat, file: &Path) -> Settings {
        Settings { log_format: format, logfile: Some(file.into()), ..Settings::default() }
    }

    fn client() -> ClientSeat {
        let address = Address::Tcp(([127, 0, 0, 1], 5000).into());
        let connected =
            ClientConnected { id: ClientId(26), worker: WorkerId(0), peer: address.clone(), local: address };
        let seat = Roster::new(Instant::now(), SystemTime::now()).client(connected, Instant::now());
        seat.claims("shop".into(), "alice".into());
        seat
    }

    /// What is in the file after `log` has been called.
    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("log");
        let (_log, subscriber) = Log::build(&settings(format, &file), Console::Silent).expect("a log");
        tracing::subscriber::with_default(subscriber, log);
        std::fs::read_to_string(&file).expect("the file is there at once")
    }

    #[test]
    fn a_clients_line_reads_as_pgbouncers() {
        let text = logged(LogFormat::PgBouncer, || {
            let client = client();
            client_event!(info, client, "closing because: {} (age={}s)", "client close request", 3);
        });
        let (head, message) = text.split_once("] ").expect("a process id");
        assert_eq!(
            message,
            "LOG C-0x1a: shop/alice@127.0.0.1:5000 closing because: client close request (age=3s)\n"
        );
        let words: Vec<&str> = head.split(' ').collect();
        let [date, time, _zone, pid] = words[..] else { panic!("{head}") };
        assert_eq!((date.len(), time.len(), pid), (10, 12, format!("[{}", std::process::id()).as_str()));
    }

    #[test]
    fn lines_of_whoever_is_served_have_its_prefix() {
        let text = logged(LogFormat::PgBouncer, || {
            let login = async {
                tracing::info!("one");
                name_client(&"sh\nop".into(), &"alice".into());
                tracing::info!(user = "bob", "two");
                let pool = PoolKey { database: "shop".into(), user: "alice".into() };
                server_span(ServerId(2), &pool, &"127.0.0.1:5432").in_scope(|| tracing::info!("three"));
            };
            let served = pin!(Served::stranger(&client()).during(Box::pin(login)));
            assert!(served.poll(&mut Context::from_waker(Waker::noop())).is_ready());
            tracing::info!("four");
        });
        let lines: Vec<&str> = text.lines().filter_map(|it| Some(it.split_once("] ")?.1)).collect();
        let expected = [
            "LOG C-0x1a: (nodb)/(nouser)@127.0.0.1:5000 one",
            "LOG C-0x1a: sh?op/bob@127.0.0.1:5000 two",
            "LOG S-0x2: shop/alice@127.0.0.1:5432 three",
            "LOG four",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_servers_line_reads_as_pgbouncers() {
        let text = logged(LogFormat::PgBouncer, || {
            let address = |port| Address::Tcp(([127, 0, 0, 1], port).into());
            let connected = ServerConnected {
                id: ServerId(2),
                pool: PoolKey { database: "shop".into(), user: "alice".into() },
                peer_process: None,
                peer: address(5432),
                local: address(40000),
                replication: Replication::None,
                tls: None,
            };
            let seat = Roster::new(Instant::now(), SystemTime::now()).server(connected, Instant::now());
            server_event!(info, seat, "new connection to server (from {})", seat.connected.local);
        });
        let expected = "S-0x2: shop/alice@127.0.0.1:5432 new connection to server (from 127.0.0.1:40000)\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn levels_have_pgbouncers_names() {
        let text = logged(LogFormat::PgBouncer, || {
            tracing::error!("a");
            tracing::error!(fatal = true, "b");
            tracing::warn!("c");
            tracing::info!("d");
            tracing::debug!("e");
        });
        let words: Vec<&str> = text.lines().filter_map(|it| it.split("] ").nth(1)).collect();
        assert_eq!(words, ["ERROR a", "FATAL b", "WARNING c", "LOG d"], "debug is off");
    }

    #[test]
    fn json_lines_hold_every_field() {
        let text = logged(LogFormat::Json, || {
            let client = client();
            client_event!(warn, client, waited_ms = 7, note = "a \"b\"\n", "slow");
        });
        for part in [
            r#""level":"WARN""#,
            r#""message":"slow""#,
            r#""side":"C""#,
            r#""id":26"#,
            r#""database":"shop""#,
            r#""peer":"127.0.0.1:5000""#,
            r#""waited_ms":7"#,
            r#""note":"a \"b\"\n""#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn text_lines_name_their_values() {
        let text = logged(LogFormat::Text, || tracing::info!(database = "shop", size = 3, "pool made"));
        assert!(text.ends_with(" INFO  pool made database=shop size=3\n"), "{text}");
    }

    #[test]
    fn nobody_can_forge_a_line() {
        let text = logged(LogFormat::PgBouncer, || {
            tracing::info!("no such user: {}", "x\n2026-01-01 LOG all is well")
        });
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().nth(1).is_some_and(|it| it.starts_with('\t')), "{text}");
    }

    #[test]
    fn libraries_are_heard_from_warnings_on_only() {
        let text = logged(LogFormat::PgBouncer, || {
            tracing::info!(target: "hyper", "chatter");
            tracing::warn!(target: "rustls", "trouble");
        });
        assert!(!text.contains("chatter") && text.contains("trouble"), "{text}");
    }

    #[test]
    fn a_reload_opens_the_file_anew_and_changes_the_level() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("log");
        let mut settings = settings(LogFormat::Text, &file);
        let (log, subscriber) = Log::build(&settings, Console::Silent).expect("a log");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("first");
            std::fs::rename(&file, dir.path().join("old")).expect("it can be moved");
            settings.verbose = 1;
            log.reload(&settings).expect("it can be opened");
            tracing::debug!("second");
        });
        let text = std::fs::read_to_string(&file).expect("a new file");
        assert!(!text.contains("first") && text.contains("second"), "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named_and_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("log");
        let (log, subscriber) =
            Log::build(&settings(LogFormat::Text, &file), Console::Silent).expect("a log");
        let nowhere = settings(LogFormat::Text, &dir.path().join("none/log"));
        let error = log.reload(&nowhere).expect_err("there is no such directory").to_string();
        assert!(error.starts_with("cannot open the log file") && error.contains("none/log"), "{error}");
        tracing::subscriber::with_default(subscriber, || tracing::info!("still here"));
        assert!(std::fs::read_to_string(&file).expect("the old file").contains("still here"));
    }
}
