//! Reads a configuration from the variables of the environment, as container images are told theirs.
//!
//! Every global setting is a variable: `PGWEIR_POOL_MODE`, `PGBOUNCER_POOL_MODE` or `POOL_MODE`. Where PostgreSQL is and
//! who logs in has the names of [`names::FAMILIES`], or is in `DATABASE_URL`. `NAME_FILE` names a file that holds what
//! `NAME` would. An empty variable counts as none. A secret never enters a text: it goes from its variable or file
//! straight into the setting.

use std::collections::BTreeSet;
use std::path::Path;

use percent_encoding::percent_decode_str;

use super::diagnostic::nearest;
use super::load::Surroundings;
use super::settings::{self, Scope};
use super::statement::{Assignment, Origin, Place, Reading, Shape, Statement, Value};
use super::value::{Fault, flag, items};
use super::{ini, userlist};

mod names;

use names::{ALIASES, BITNAMI, FAMILIES, NOT_BARE, OF_DATABASE, WITHOUT_EFFECT};

/// How many `PGWEIR_DSN_0`, `PGWEIR_DSN_1` … are looked for.
const DSNS_MAX: usize = 1000;

/// The user that the other images take where none is named.
const DEFAULT_USER: &str = "postgres";

/// The host of bitnami/pgbouncer, where none is named.
const DEFAULT_HOST: &str = "postgresql";

/// What stands for the configuration file.
pub const PLACE: &str = "environment";

/// Reads the variables; mistakes are in the result.
pub fn read(surroundings: &dyn Surroundings) -> Reading {
    let mut reader = Reader {
        surroundings,
        variables: surroundings.variables(),
        known: BTreeSet::new(),
        users: BTreeSet::new(),
        out: Reading::default(),
    };
    let image = reader.image();
    reader.settings(image);
    reader.databases(image);
    reader.userlists();
    reader.unknown();
    reader.out
}

/// Whose conventions hold where nothing is said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Image {
    /// pgweir's own.
    Own,
    /// edoburu/pgbouncer's.
    Edoburu,
    /// bitnami/pgbouncer's.
    Bitnami,
}

/// A value, and the variable it is from.
struct Given {
    at: Place,
    value: What,
}

enum What {
    Text(String),
    /// It is in this file.
    File(String),
}

/// A server as `DATABASE_URL` names it.
struct Url {
    host: String,
    port: Option<String>,
    database: Option<String>,
    user: Option<String>,
    password: Option<String>,
}

/// A server as `DB_HOST` and its like name it.
struct Server {
    at: Place,
    host: String,
    port: Option<(Place, String)>,
    database: Option<(Place, String)>,
}

struct Reader<'a> {
    surroundings: &'a dyn Surroundings,
    variables: Vec<String>,
    /// The names that mean something.
    known: BTreeSet<String>,
    users: BTreeSet<String>,
    out: Reading,
}

fn place(variable: &str) -> Place {
    Place { file: Path::new(&format!("${variable}")).into(), line: 0 }
}

fn nowhere() -> Place {
    Place { file: Path::new(PLACE).into(), line: 0 }
}

/// Kubernetes and linked containers say in such variables where a service is: `PGBOUNCER_PORT=tcp://10.0.0.1:6432`.
fn is_link(name: &str, value: &str) -> bool {
    value.starts_with("tcp://")
        || value.starts_with("udp://")
        || name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT_") && ["_ADDR", "_PORT", "_PROTO"].iter().any(|it| name.ends_with(it)))
}

impl Reader<'_> {
    /// A variable that says something.
    fn variable(&self, name: &str) -> Option<String> {
        self.surroundings.variable(name).filter(|it| !it.is_empty() && !is_link(name, it))
    }

    /// The value of `NAME`, or the file that `NAME_FILE` names.
    fn given(&mut self, name: &str) -> Option<Given> {
        let in_file = format!("{name}_FILE");
        self.known.insert(name.to_owned());
        self.known.insert(in_file.clone());
        match (self.variable(name), self.variable(&in_file)) {
            (Some(_), Some(_)) => {
                let fault = Fault::new(format!("{name} is set too")).hint("leave one of the two out");
                self.out.findings.error(&place(&in_file), "", fault);
                None
            }
            (Some(text), None) => Some(Given { at: place(name), value: What::Text(text) }),
            (None, Some(path)) => Some(Given { at: place(&in_file), value: What::File(path) }),
            (None, None) => None,
        }
    }

    /// The same as a text, read from the file where it is in one.
    fn text(&mut self, name: &str) -> Option<(Place, String)> {
        let Given { at, value } = self.given(name)?;
        match value {
            What::Text(text) => Some((at, text)),
            What::File(path) => match self.surroundings.text(Path::new(&path)) {
                Ok(text) => Some((at, text.trim_end_matches(['\r', '\n']).to_owned())),
                Err(why) => {
                    self.out.findings.error(&at, "", Fault::new(format!("{path}: {why}")));
                    None
                }
            },
        }
    }

    /// The first of these that is set.
    fn first<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) -> Option<(Place, String)> {
        let mut found = None;
        for name in names {
            let text = self.text(name);
            found = found.or(text);
        }
        found
    }

    fn image(&self) -> Image {
        let is_set = |name: &&String| self.variable(name).is_some();
        let mut set = self.variables.iter().filter(is_set);
        if set.any(|it| it.starts_with("POSTGRESQL_") || it.starts_with("PGBOUNCER_")) {
            return Image::Bitnami;
        }
        let edoburus = ["DB_HOST", "DB_HOST_FILE", "DATABASE_URL", "DATABASE_URLS", "DATABASE_URL_FILE"];
        if edoburus.iter().any(|it| self.variable(it).is_some()) { Image::Edoburu } else { Image::Own }
    }

    fn begin(&mut self, at: &Place, scope: Scope, name: &str) {
        self.out.statements.push(Statement::Entry { at: at.clone(), scope, name: name.to_owned() });
    }

    fn assign(&mut self, at: &Place, (scope, entry): (Scope, &str), name: &str, text: impl Into<String>) {
        let value = Value { text: text.into(), shape: Shape::Untyped, origin: Origin::Environment };
        let (at, entry, name) = (at.clone(), entry.to_owned(), name.to_owned());
        self.out.statements.push(Statement::Assign(Assignment { at, scope, entry, name, value }));
    }

    fn settings(&mut self, image: Image) {
        for row in settings::GLOBAL.iter().filter(|row| row.name != "conffile") {
            let upper = row.name.to_ascii_uppercase();
            let own = [format!("PGWEIR_{upper}"), format!("PGBOUNCER_{upper}")];
            let aliases = ALIASES.iter().filter(|it| it.setting == row.name);
            let mut found = self.first(own.iter().map(String::as_str));
            if !NOT_BARE.contains(&row.name) {
                let bare = self.text(&upper);
                found = found.or(bare);
            }
            for alias in aliases {
                let text = self.text(alias.variable).map(|(at, text)| (at, (alias.read)(text)));
                found = found.or(text);
            }
            let found = found.or_else(|| Some((nowhere(), self.default_of(row.name, image)?)));
            if let Some((at, text)) = found {
                self.assign(&at, (Scope::Global, ""), row.name, text);
            }
        }
    }

    /// Where a container differs from a machine of one's own, and one image from another.
    fn default_of(&self, setting: &str, image: Image) -> Option<String> {
        let text = match (setting, image) {
            ("listen_addr", _) => "*",
            // A container's root may be read-only.
            ("unix_socket_dir", _) => "",
            ("listen_port", Image::Edoburu) => "5432",
            ("auth_type", Image::Edoburu) => "md5",
            ("auth_type", _) => "scram-sha-256",
            ("admin_users", Image::Edoburu) => "postgres",
            ("admin_users", Image::Bitnami) => {
                return self.variable(BITNAMI.user).or_else(|| Some(DEFAULT_USER.to_owned()));
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    fn databases(&mut self, image: Image) {
        let user = self.login(image);
        let before = self.out.statements.len();
        self.urls();
        let by_url = self.out.statements.len() > before;
        let server = self.server(image);
        if let (Some(server), false) = (server, by_url) {
            self.entry(server, user.as_deref(), image);
        }
        self.dsns();
        if self.out.statements.len() == before && !self.out.findings.has_errors() {
            let fault = Fault::new("nothing says where PostgreSQL is");
            let hint = "set DB_HOST, POSTGRESQL_HOST, POSTGRES_HOST, PGHOST, DATABASE_URL or PGWEIR_DSN_0";
            self.out.findings.error(&nowhere(), "databases", fault.hint(hint));
        }
    }

    /// The user of the first family that names one, with that family's password; else the image's.
    fn login(&mut self, image: Image) -> Option<String> {
        let mut logins = Vec::new();
        for family in FAMILIES {
            let (user, password) = (self.text(family.user), self.given(family.password));
            logins.extend(user.map(|user| (user, password)));
        }
        if image == Image::Bitnami {
            logins.push(((nowhere(), DEFAULT_USER.to_owned()), self.given(BITNAMI.password)));
        }
        let ((at, user), password) = logins.into_iter().next()?;
        if let Some(password) = password {
            self.user(&at, &user, password.value);
        }
        Some(user)
    }

    /// The host of the first family that names one, with that family's port, and a database's name; else the image's.
    fn server(&mut self, image: Image) -> Option<Server> {
        let (mut servers, mut databases) = (Vec::new(), Vec::new());
        for family in FAMILIES {
            let (host, port) = (self.text(family.host), self.text(family.port));
            servers.extend(host.map(|host| (host, port)));
            databases.extend(self.text(family.database));
        }
        if image == Image::Bitnami {
            servers.push(((nowhere(), DEFAULT_HOST.to_owned()), self.text(BITNAMI.port)));
        }
        let ((at, host), port) = servers.into_iter().next()?;
        Some(Server { at, host, port, database: databases.into_iter().next() })
    }

    /// The entry that `DB_HOST` and its like make.
    fn entry(&mut self, server: Server, user: Option<&str>, image: Image) {
        let Server { at, host, port, database } = server;
        let database = database.map(|(_, name)| name);
        let name = match image {
            Image::Bitnami => self.first(["PGBOUNCER_DATABASE"]).map(|(_, name)| name),
            Image::Own | Image::Edoburu => None,
        };
        let name = name.or_else(|| database.clone()).unwrap_or_else(|| "*".to_owned());
        let entry = (Scope::Database, name.as_str());
        self.begin(&at, Scope::Database, &name);
        self.assign(&at, entry, "host", host);
        if let Some((at, port)) = port {
            self.assign(&at, entry, "port", port);
        }
        if let Some(database) = database.filter(|it| *it != name && name != "*") {
            self.assign(&at, entry, "dbname", database);
        }
        if let (Some(user), Image::Edoburu) = (user, image) {
            self.assign(&at, entry, "auth_user", user);
        }
        if let (Some(user), true) = (user, self.is_on("PGBOUNCER_SET_DATABASE_USER")) {
            self.assign(&at, entry, "user", user);
        }
        if self.is_on("PGBOUNCER_SET_DATABASE_PASSWORD")
            && let Some(Given { at, value }) = self.given(BITNAMI.password)
        {
            self.secret(&at, entry, value);
        }
        self.database_settings(&name);
    }

    fn database_settings(&mut self, name: &str) {
        for (variable, setting) in OF_DATABASE {
            if let Some((at, text)) = self.text(variable) {
                self.assign(&at, (Scope::Database, name), setting, text);
            }
        }
    }

    fn is_on(&mut self, name: &str) -> bool {
        self.text(name).is_some_and(|(_, text)| flag(&text).unwrap_or(false))
    }

    fn urls(&mut self) {
        let Some((at, text)) = self.first(["DATABASE_URLS", "DATABASE_URL"]) else { return };
        for text in items(&text) {
            match Url::parse(text) {
                Ok(url) => self.url(&at, url),
                Err(fault) => self.out.findings.error(&at, "", fault),
            }
        }
    }

    fn url(&mut self, at: &Place, url: Url) {
        let name = url.database.unwrap_or_else(|| "*".to_owned());
        let entry = (Scope::Database, name.as_str());
        self.begin(at, Scope::Database, &name);
        self.assign(at, entry, "host", url.host);
        if let Some(port) = url.port {
            self.assign(at, entry, "port", port);
        }
        if let Some(user) = &url.user {
            self.assign(at, entry, "auth_user", user);
        }
        self.database_settings(&name);
        if let (Some(user), Some(password)) = (url.user, url.password) {
            self.user(at, &user, What::Text(password));
        }
    }

    /// `PGWEIR_DSN_0=name=host=… port=…`: further entries, written as in a pgbouncer.ini.
    fn dsns(&mut self) {
        for number in 0..DSNS_MAX {
            let names = [format!("PGWEIR_DSN_{number}"), format!("PGBOUNCER_DSN_{number}")];
            let Some((at, text)) = self.first(names.iter().map(String::as_str)) else { return };
            let Some((name, pairs)) = text.split_once('=') else {
                let fault = Fault::new("not understood").hint("write name=host=server port=5432");
                self.out.findings.error(&at, "", fault);
                continue;
            };
            let name = name.trim();
            self.begin(&at, Scope::Database, name);
            match ini::pairs(pairs) {
                Ok(pairs) => pairs
                    .into_iter()
                    .for_each(|(key, value)| self.assign(&at, (Scope::Database, name), key, value)),
                Err(fault) => self.out.findings.error(&at, name, fault),
            }
        }
    }

    /// A user with their secret; of a user who is named twice the first counts.
    fn user(&mut self, at: &Place, name: &str, password: What) {
        if self.users.insert(name.to_owned()) {
            self.begin(at, Scope::User, name);
            self.secret(at, (Scope::User, name), password);
        }
    }

    fn secret(&mut self, at: &Place, entry: (Scope, &str), password: What) {
        match password {
            What::Text(text) => self.assign(at, entry, "password", text),
            What::File(path) => self.assign(at, entry, "password_file", path),
        }
    }

    fn userlists(&mut self) {
        if let Some((at, text)) = self.first(["PGWEIR_USERLIST", "PGBOUNCER_USERLIST"]) {
            match userlist::read(&text) {
                Ok(users) => {
                    for (_, fault) in users.left_out {
                        self.out.findings.error(&at, "", fault);
                    }
                    for (name, secret) in users.secrets {
                        self.user(&at, name.as_str(), What::Text(secret.reveal().to_owned()));
                    }
                }
                Err(faults) => {
                    faults.into_iter().for_each(|(_, fault)| self.out.findings.error(&at, "", fault));
                }
            }
        }
        self.passwords(["PGWEIR_ADMIN_USERS", "ADMIN_USERS"], ["ADMIN_PASSWORDS", "ADMIN_PASSWORD"]);
        self.passwords(["PGWEIR_STATS_USERS", "STATS_USERS"], ["STATS_PASSWORDS", "STATS_PASSWORD"]);
    }

    /// Users of the console and their passwords, one beside the other.
    fn passwords(&mut self, users: [&str; 2], passwords: [&str; 2]) {
        let users = self.first(users).map_or_else(|| DEFAULT_USER.to_owned(), |(_, text)| text);
        let Some((at, passwords)) = self.first(passwords) else { return };
        let (users, passwords): (Vec<_>, Vec<_>) = (items(&users).collect(), items(&passwords).collect());
        if users.len() != passwords.len() {
            let fault = Fault::new(format!("{} passwords for {} users", passwords.len(), users.len()));
            return self.out.findings.error(&at, "", fault);
        }
        for (user, password) in users.into_iter().zip(passwords) {
            self.user(&at, user, What::Text(password.to_owned()));
        }
    }

    /// Notes variables that look like ours and mean nothing.
    fn unknown(&mut self) {
        for name in std::mem::take(&mut self.variables) {
            let ours = name.starts_with("PGWEIR_") || name.starts_with("PGBOUNCER_");
            if !ours || self.known.contains(&name) || self.variable(&name).is_none() {
                continue;
            }
            let bare = name.strip_suffix("_FILE").unwrap_or(&name);
            let fault = if WITHOUT_EFFECT.contains(&bare) || WITHOUT_EFFECT.contains(&name.as_str()) {
                Fault::new(
                    "has no effect: there is nothing to initialize, and PostgreSQL is waited for as long as it takes",
                )
            } else {
                let known: Vec<_> = self.known.iter().map(|it| it.to_ascii_lowercase()).collect();
                let fault = Fault::new("unknown variable");
                match nearest(&name, known.iter().map(String::as_str)) {
                    Some(near) => fault.hint(format!("did you mean {}?", near.to_ascii_uppercase())),
                    None => fault,
                }
            };
            self.out.findings.note(&place(&name), "", fault);
        }
    }
}

impl Url {
    /// `postgres://user:password@host:port/database`; what follows a `?` must be empty.
    fn parse(text: &str) -> Result<Self, Fault> {
        // The text itself is not shown: it may hold a password.
        let broken = |what: &str| Fault::new(what).hint("as in postgres://user:password@host:5432/database");
        let scheme = text.split_once("://").filter(|(scheme, _)| scheme.starts_with("postgres"));
        let (_, rest) = scheme.ok_or_else(|| broken("not a URL of PostgreSQL"))?;
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        if !parameters.is_empty() {
            return Err(broken("parameters after \"?\" are not understood"));
        }
        let (server, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, server) = match server.rsplit_once('@') {
            Some((login, server)) => (Some(login), server),
            None => (None, server),
        };
        let (host, port) = match server.rsplit_once(':').filter(|(host, _)| !host.ends_with(':')) {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (server, None),
        };
        let (user, password) = match login.map(|it| it.split_once(':').ok_or(it)) {
            Some(Ok((user, password))) => (Some(user), Some(password)),
            Some(Err(user)) => (Some(user), None),
            None => (None, None),
        };
        let decode = |text: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) => Ok(Some(text.into_owned()).filter(|it| !it.is_empty())),
            Err(_) => Err(broken("not UTF-8")),
        };
        let decode_some = |text: Option<&str>| text.map_or(Ok(None), decode);
        Ok(Self {
            host: decode(host.trim_matches(['[', ']']))?.ok_or_else(|| broken("no host"))?,
            port: port.map(str::to_owned),
            database: decode(database)?,
            user: decode_some(user)?,
            password: decode_some(password)?,
        })
    }
}
