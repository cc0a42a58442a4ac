//! Asks an LDAP server whether a password is the user's: by binding as the user.
//!
//! Its name there is made of the user's, or found by a search (`check_ldap_auth` in PgBouncer's `src/ldapauth.c`). The
//! bind has a connection of its own, so that nothing of the search's is left. Every wait has a limit.

use std::time::Duration;

use ldap3::{LdapConnAsync, LdapConnSettings, LdapError, SearchEntry, SearchOptions};

use crate::config::ldap::{Bind, Encryption, Options, Scope, USERNAME};
use crate::net::TlsError;
use crate::net::tls::directory;

/// To connect, with TLS: PgBouncer's LDAP_OPT_NETWORK_TIMEOUT.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// The same with StartTLS. A port that begins with TLS takes the request for a broken handshake and says nothing; libpq's
/// users often wait three seconds themselves, and are to hear of it before.
const START_TLS_MAX: Duration = Duration::from_secs(2);

/// For each answer. PgBouncer waits for ever.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Characters that mean something in a filter. PgBouncer and PostgreSQL refuse them too: nobody has such a name.
const NOT_IN_FILTERS: [char; 5] = ['*', '(', ')', '\\', '/'];

/// Why a user is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No server answers; this is what became of the last one that was tried.
    #[error("could not connect to {server}: {source}")]
    Connect {
        /// The server.
        server: String,
        /// What went wrong.
        source: Box<LdapError>,
    },
    /// The machine's `ldap.conf` asks for what cannot be had.
    #[error("TLS setup failed: {0}")]
    Tls(#[from] TlsError),
    /// Only DNS knows the servers.
    #[error("no ldapserver is given, and servers are not looked for in DNS")]
    NoServer,
    /// The name has a character that means something in a filter.
    #[error("invalid character in user name for LDAP authentication")]
    UserName,
    /// `ldapbinddn` cannot log in.
    #[error("could not perform initial LDAP bind for ldapbinddn \"{dn}\": {source}")]
    InitialBind {
        /// Who.
        dn: String,
        /// What the server says.
        source: Box<LdapError>,
    },
    /// The server does not search.
    #[error("could not search LDAP for filter \"{filter}\": {source}")]
    Search {
        /// For what.
        filter: String,
        /// What the server says.
        source: Box<LdapError>,
    },
    /// The search found nobody.
    #[error("LDAP search for filter \"{filter}\" returned no entries")]
    NoEntry {
        /// For what.
        filter: String,
    },
    /// The search found more than one.
    #[error("LDAP search for filter \"{filter}\" returned more than one entry")]
    Ambiguous {
        /// For what.
        filter: String,
    },
    /// The password is not the user's.
    #[error("LDAP bind as \"{dn}\": {source}")]
    Bind {
        /// The user's name there.
        dn: String,
        /// What the server says.
        source: Box<LdapError>,
    },
}

/// The server's code for a search that found more than was asked for: sizeLimitExceeded in RFC 4511.
const SIZE_LIMIT_EXCEEDED: u32 = 4;

/// Asks; the password must not be empty, or the bind would be an anonymous one. Runs a task on the current runtime.
///
/// Errors: no, or nobody could be asked.
pub async fn ask(options: &Options, user: &str, password: &str) -> Result<(), AskError> {
    let dn = match &options.bind {
        Bind::Simple { prefix, suffix } => format!("{prefix}{user}{suffix}"),
        Bind::Search { .. } => search(options, user).await?,
    };
    let mut server = connect(options).await?;
    let bound = server.with_timeout(ANSWER_MAX).simple_bind(&dn, password).await;
    let bound = bound.and_then(ldap3::LdapResult::success);
    // It is closed either way.
    let _ = server.unbind().await;
    bound.map(drop).map_err(|source| AskError::Bind { dn, source: Box::new(source) })
}

/// The user's name there.
async fn search(options: &Options, user: &str) -> Result<String, AskError> {
    let Bind::Search { base, scope, bind_dn, bind_password, filter } = &options.bind else {
        return Err(AskError::UserName);
    };
    if user.contains(NOT_IN_FILTERS) {
        return Err(AskError::UserName);
    }
    let filter = filter.replace(USERNAME, user);
    let mut server = connect(options).await?;
    let password = bind_password.as_ref().map_or("", |it| it.reveal());
    let bound = server.with_timeout(ANSWER_MAX).simple_bind(bind_dn, password).await;
    bound
        .and_then(ldap3::LdapResult::success)
        .map_err(|source| AskError::InitialBind { dn: bind_dn.clone(), source: Box::new(source) })?;
    let scope = match scope {
        Scope::Base => ldap3::Scope::Base,
        Scope::One => ldap3::Scope::OneLevel,
        Scope::Subtree => ldap3::Scope::Subtree,
    };
    // "1.1" asks for no attributes: RFC 4511 section 4.5.1.8. Two entries are one too many already.
    let found = server
        .with_timeout(ANSWER_MAX)
        .with_search_options(SearchOptions::new().sizelimit(2))
        .search(base, scope, &filter, ["1.1"])
        .await;
    let _ = server.unbind().await;
    let failed = |source| AskError::Search { filter: filter.clone(), source: Box::new(source) };
    let ldap3::SearchResult(mut entries, result) = found.map_err(failed)?;
    if result.rc != SIZE_LIMIT_EXCEEDED {
        result.success().map_err(failed)?;
    }
    let dn = entries.pop().map(|entry| SearchEntry::construct(entry).dn);
    match (dn, entries.is_empty()) {
        // To bind as nobody would succeed with any password.
        (Some(dn), true) if !dn.is_empty() => Ok(dn),
        (Some(_), true) => Err(AskError::NoEntry { filter }),
        (Some(_), false) => Err(AskError::Ambiguous { filter }),
        (None, _) => Err(AskError::NoEntry { filter }),
    }
}

/// The first server that answers.
async fn connect(options: &Options) -> Result<ldap3::Ldap, AskError> {
    let mut settings = LdapConnSettings::new().set_conn_timeout(CONNECT_MAX);
    let scheme = match options.encryption {
        Encryption::None => "ldap",
        Encryption::StartTls => {
            settings = settings.set_starttls(true).set_config(directory()?).set_conn_timeout(START_TLS_MAX);
            "ldap"
        }
        Encryption::Tls => {
            settings = settings.set_config(directory()?);
            "ldaps"
        }
    };
    let mut last = AskError::NoServer;
    for (host, port) in &options.servers {
        let server = format!("{scheme}://{host}:{port}");
        match LdapConnAsync::with_settings(settings.clone(), &server).await {
            Ok((connection, ldap)) => {
                tokio::spawn(connection.drive());
                return Ok(ldap);
            }
            Err(source) => last = AskError::Connect { server, source: Box::new(source) },
        }
    }
    Err(last)
}
