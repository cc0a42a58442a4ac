//! Mistakes that no setting shows alone: settings that contradict each other, files that are not there.
//!
//! Where PgBouncer would start all the same, an ini file gets a note and a TOML file an error.

use std::collections::BTreeMap;
use std::path::Path;

use super::assemble::{Context, Places, open_to_all, path};
use super::diagnostic::Level;
use super::kinds::FileUse;
use super::load::Unread;
use super::settings::{GLOBAL, Scope};
use super::statement::{Findings, Place};
use super::value::Fault;
use super::{AuthType, Config, Database, SslMode, is_console};

/// Adds what is wrong to the findings.
///
/// `unread`: settings whose files have been tried already, in vain.
pub fn check(
    config: &Config,
    context: &Context<'_>,
    places: &Places,
    unread: &BTreeMap<&'static str, Unread>,
    findings: &mut Findings,
) {
    let mut checker = Checker { config, context, places, findings };
    checker.listening();
    checker.client_tls();
    checker.authentication();
    checker.files(unread);
    for (name, database) in &config.databases {
        checker.database(name.as_str(), database);
    }
    if let Some(database) = &config.any_database {
        checker.database("*", database);
    }
    for name in config.users.keys() {
        checker.two_passwords(Scope::User, name.as_str());
    }
    checker.pool_sizes();
    checker.peers();
    checker.passwords_in_the_open();
    // A setting with a mistake counts as not given; what follows from that alone would only confuse.
    if !checker.findings.has_errors() {
        checker.nobody_can_come(unread);
    }
}

/// In PgBouncer's words.
pub fn reserved_auth_dbname(name: &str) -> Fault {
    Fault::new(format!("cannot use the reserved \"{name}\" database as an auth_dbname"))
}

struct Checker<'a> {
    config: &'a Config,
    context: &'a Context<'a>,
    places: &'a Places,
    findings: &'a mut Findings,
}

impl Checker<'_> {
    /// Reports about a setting, in the line where it is given.
    fn report(&mut self, level: Level, (scope, entry, name): (Scope, &str, &'static str), fault: Fault) {
        let whole_file = Place { file: self.context.file.into(), line: 0 };
        let at = self.places.find(scope, entry, name).unwrap_or(&whole_file);
        self.findings.add(level, at, path(scope, entry, name), fault);
    }

    fn global(&mut self, level: Level, name: &'static str, fault: Fault) {
        self.report(level, (Scope::Global, "", name), fault);
    }

    fn listening(&mut self) {
        let settings = &self.config.settings;
        if settings.listen_addr.is_empty() && settings.unix_socket_dir.is_none() {
            let fault = Fault::new("nowhere to listen: unix_socket_dir is empty too");
            self.global(
                Level::Error,
                "listen_addr",
                fault.hint(format!("as in {}", self.context.written("listen_addr", "127.0.0.1"))),
            );
        }
    }

    fn client_tls(&mut self) {
        let settings = &self.config.settings;
        if settings.client_tls_sslmode == SslMode::Disable {
            return;
        }
        let missing = [
            ("client_tls_cert_file", settings.client_tls_cert_file.is_none()),
            ("client_tls_key_file", settings.client_tls_key_file.is_none()),
        ];
        for (name, _) in missing.into_iter().filter(|(_, missing)| *missing) {
            let fault = Fault::new(format!("TLS with clients needs {name}"));
            self.global(Level::Error, "client_tls_sslmode", fault);
        }
        if settings.client_tls_sslmode >= SslMode::VerifyCa && settings.client_tls_ca_file.is_none() {
            let fault = Fault::new("clients' certificates cannot be verified without client_tls_ca_file");
            self.global(self.context.lenient(), "client_tls_sslmode", fault);
        }
    }

    fn authentication(&mut self) {
        let settings = &self.config.settings;
        let lenient = self.context.lenient();
        if settings.auth_type == AuthType::Hba && settings.auth_hba_file.is_none() {
            let fault = Fault::new("hba without auth_hba_file lets nobody in");
            self.global(lenient, "auth_type", fault);
        }
        if settings.auth_type == AuthType::Cert && settings.client_tls_sslmode != SslMode::VerifyFull {
            let fault = Fault::new("cert needs clients' certificates");
            self.global(
                Level::Error,
                "auth_type",
                fault.hint(format!("set {}", self.context.written("client_tls_sslmode", "verify-full"))),
            );
        }
        if let Some(name) = settings.auth_dbname.as_ref().filter(|name| is_console(name.as_str())) {
            let fault = reserved_auth_dbname(name.as_str());
            self.global(Level::Error, "auth_dbname", fault);
        }
        if settings.auth_type == AuthType::Any {
            let without_user: Vec<_> = self
                .config
                .databases
                .iter()
                .filter(|(_, it)| it.user.is_none())
                .map(|it| it.0.clone())
                .collect();
            for name in without_user {
                let fault = Fault::new("with auth_type = any a database needs a user");
                let place = (Scope::Database, name.as_str(), "user");
                self.report(
                    Level::Note,
                    place,
                    fault.hint(format!("set {} for it", self.context.written("user", "…"))),
                );
            }
        }
    }

    fn files(&mut self, unread: &BTreeMap<&'static str, Unread>) {
        for row in GLOBAL.iter().filter(|row| matches!(row.facts.file, FileUse::Read | FileUse::Secret)) {
            let Some(file) = (row.show)(&self.config.settings) else { continue };
            let tried = unread.get(row.name);
            let look = match tried {
                Some(why) => Err(why.clone()),
                None => self.context.surroundings.look(Path::new(&file)),
            };
            match look {
                Ok(look) if look.open_to_all && row.facts.file == FileUse::Secret => {
                    self.global(Level::Note, row.name, open_to_all(Path::new(&file)));
                }
                Ok(_) => {}
                Err(why) => {
                    let level = match (&why, self.missing_file(row.name)) {
                        (Unread::Because(_), Level::Note) if tried.is_some() => Level::Unread,
                        (_, level) => level,
                    };
                    self.global(level, row.name, Fault::new(format!("{file}: {why}")));
                }
            }
        }
    }

    /// How bad it is that a setting names a file that cannot be read.
    fn missing_file(&self, name: &str) -> Level {
        let settings = &self.config.settings;
        let used = if name.starts_with("client_tls") {
            settings.client_tls_sslmode != SslMode::Disable
        } else if name.starts_with("server_tls") {
            settings.server_tls_sslmode != SslMode::Disable
        } else {
            return self.context.lenient();
        };
        if used { Level::Error } else { self.context.lenient() }
    }

    fn two_passwords(&mut self, scope: Scope, entry: &str) {
        let given = |name| self.places.find(scope, entry, name).is_some();
        if given("password") && given("password_file") {
            let fault = Fault::new("password is set too").hint("leave one of the two out");
            self.report(Level::Error, (scope, entry, "password_file"), fault);
        }
    }

    fn database(&mut self, name: &str, database: &Database) {
        self.two_passwords(Scope::Database, name);
        let place = |setting| (Scope::Database, name, setting);
        if database.password.is_some() && database.user.is_none() {
            let fault = Fault::new("a password without a user is not used");
            self.report(Level::Note, place("password"), fault.hint("set user too"));
        }
        let settings = &self.config.settings;
        let size = database.pool_size.unwrap_or(settings.default_pool_size);
        let min = database.min_pool_size.unwrap_or(settings.min_pool_size);
        if (database.pool_size.is_some() || database.min_pool_size.is_some()) && size > 0 && min > size {
            let fault = Fault::new(format!("min_pool_size {min} is more than the pool's size {size}"));
            self.report(self.context.lenient(), place("min_pool_size"), fault);
        }
        if database.auth_dbname.as_ref().is_some_and(|name| is_console(name.as_str())) {
            let fault = Fault::new("the console's database knows no secrets: auth_query cannot run there");
            self.report(self.context.lenient(), place("auth_dbname"), fault);
        }
    }

    fn pool_sizes(&mut self) {
        let settings = &self.config.settings;
        let (min, size) = (settings.min_pool_size, settings.default_pool_size);
        if size > 0 && min > size {
            let fault = Fault::new(format!("{min} is more than default_pool_size {size}"));
            self.global(self.context.lenient(), "min_pool_size", fault);
        }
    }

    /// Notes what makes a good file a useless one.
    fn nobody_can_come(&mut self, unread: &BTreeMap<&'static str, Unread>) {
        if self.config.databases.is_empty() && self.config.any_database.is_none() {
            let fault = Fault::new("there is none, so that only the console can be reached");
            self.global(Level::Note, "databases", fault);
        }
        let databases = self.config.databases.values().chain(&self.config.any_database);
        let asks = self.config.settings.auth_user.is_some()
            || databases.into_iter().any(|it| it.auth_user.is_some());
        if asks {
            return;
        }
        if self.places.find(Scope::Global, "", "auth_query").is_some() {
            let fault = Fault::new("is not used without auth_user");
            self.global(Level::Note, "auth_query", fault);
        }
        let by_secret = [AuthType::Trust, AuthType::Plain, AuthType::Md5, AuthType::ScramSha256];
        // Who is in a file that could not be read now may be known from before.
        let known = !self.config.secrets.is_empty() || unread.contains_key("auth_file");
        if !known && by_secret.contains(&self.config.settings.auth_type) {
            let fault = Fault::new("no user is known, so that nobody can log in");
            self.global(Level::Note, "users", fault.hint("set auth_file, auth_user, or a user's password"));
        }
    }

    fn peers(&mut self) {
        for (id, peer) in &self.config.peers {
            if peer.host.to_string().is_empty() {
                let fault = Fault::new("a peer needs a host");
                self.report(Level::Error, (Scope::Peer, &id.to_string(), "host"), fault);
            }
        }
    }

    /// Notes where the configuration itself holds a password and everybody may read it.
    fn passwords_in_the_open(&mut self) {
        let Some(place) = self.places.literal_secret() else { return };
        if self.context.surroundings.look(&place.file).is_ok_and(|it| it.open_to_all) {
            let fault = open_to_all(&place.file);
            self.findings.note(&place, "password", fault);
        }
    }
}
