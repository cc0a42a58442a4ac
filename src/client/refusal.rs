//! What a client is told when it is not let in: one table of causes, texts and SQLSTATEs.
//!
//! Owns the choice between PostgreSQL's SQLSTATEs and PgBouncer's single one. The texts are PgBouncer's where it has
//! one, because people and tools search for them. It refuses to say before authentication whether a user or database
//! exists.

use crate::auth::AuthError;
use crate::config::{AuthType, Compatibility};
use crate::wire::{Report, SqlState};

/// Why a client is not let in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The StartupMessage names nobody.
    #[error("no username supplied")]
    NoUser,
    /// No role has such a name.
    #[error("username too long")]
    UserTooLong,
    /// Protocol 2.
    #[error("old V2 protocol not supported")]
    OldProtocol,
    /// A protocol nobody here speaks, or an encryption request where none is due.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    UnknownProtocol {
        /// Upper half of the version.
        major: u16,
        /// Lower half of the version.
        minor: u16,
    },
    /// The StartupMessage's parameters are not pairs of texts with a zero byte after the last.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    StartupLayout,
    /// Text we must read is not UTF-8.
    #[error("{0} is not valid UTF-8")]
    NotUtf8(&'static str),
    /// `client_tls_sslmode` insists on TLS.
    #[error("SSL required")]
    TlsRequired,
    /// Somebody put bytes between the request for TLS and its handshake, hoping they'd count as encrypted.
    #[error("received unencrypted data after SSL request")]
    PlaintextAfterSslRequest,
    /// The same for GSSENCRequest.
    #[error("received unencrypted data after GSSAPI encryption request")]
    PlaintextAfterGssRequest,
    /// `client_login_timeout` is over.
    #[error("client_login_timeout")]
    LoginTimeout,
    /// `client_login_timeout` is over, and what was waited for was a server.
    #[error("client_login_timeout (server down)")]
    LoginTimeoutServerDown,
    /// `options` holds something other than settings.
    #[error("unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed")]
    OptionsSyntax,
    /// A parameter that is neither tracked nor ignored, where PgBouncer's ways are asked for.
    #[error("unsupported startup parameter: {0}")]
    UnsupportedParameter(String),
    /// The same within `options`.
    #[error("unsupported startup parameter in options: {0}")]
    UnsupportedOption(String),
    /// No setting can have such a name.
    #[error("unrecognized configuration parameter \"{0}\"")]
    ParameterName(String),
    /// `replication` has a value that is none.
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    ReplicationValue(String),
    /// The client did not prove who it is.
    #[error(transparent)]
    Authentication(#[from] AuthError),
    /// Another message where a password was due.
    #[error("expected password response, got message type '{}'", tag.escape_ascii())]
    NotAPassword {
        /// The message's first byte.
        tag: u8,
    },
    /// A password nobody can have.
    #[error("password too long")]
    PasswordTooLong,
    /// `auth_type` is one that this build cannot do.
    #[error("{} is not supported by this build", auth_type_name(*.0))]
    AuthTypeNotBuilt(AuthType),
    /// `auth_hba_file` has no line that fits.
    #[error("no authentication method is found")]
    NoRule,
    /// `auth_type = ldap` without `auth_ldap_options`.
    #[error("auth_ldap_options is null")]
    NoLdapOptions,
    /// The settings contradict themselves; the log says how.
    #[error("bouncer config error")]
    Configuration,
    /// The entry that `auth_query` would run on is disabled.
    #[error("authentication database \"{0}\" is disabled")]
    AuthDatabaseDisabled(String),
    /// `auth_query` found nobody, where PgBouncer's ways are asked for.
    #[error("no such user")]
    NoSuchUser,
    /// Said only to who has logged in.
    #[error("no such database: {0}")]
    NoSuchDatabase(String),
    /// DISABLE, or `disabled = true`.
    #[error("database \"{0}\" is disabled")]
    DatabaseDisabled(String),
    /// The process is ending.
    #[error("pooler is shutting down")]
    ShuttingDown,
    /// The console is not for this user.
    #[error("not allowed")]
    ConsoleNotAllowed,
    /// `max_client_conn`.
    #[error("no more connections allowed (max_client_conn)")]
    TooManyClients,
    /// `max_db_client_connections`.
    #[error("client connections exceeded (max_db_client_connections)")]
    TooManyClientsOfDatabase,
    /// `max_user_client_connections`.
    #[error("client connections exceeded (max_user_client_connections)")]
    TooManyClientsOfUser,
    /// A server said no first; its own words are passed on.
    #[error("{}", .0.message)]
    Server(Box<Report>),
}

impl Refusal {
    /// The ErrorResponse for it.
    pub fn report(&self, compatibility: Compatibility) -> Report {
        if let Self::Server(report) = self {
            return Report { severity: crate::wire::Severity::Fatal, ..(**report).clone() };
        }
        let message = self.to_string();
        match compatibility {
            Compatibility::PgBouncer => Report::fatal(SqlState::PROTOCOL_VIOLATION, message),
            Compatibility::Postgres => {
                let report = Report::fatal(self.sqlstate(), message);
                match self.hint() {
                    Some(hint) => report.hint(hint),
                    None => report,
                }
            }
        }
    }

    /// What PostgreSQL would say in the like situation.
    fn sqlstate(&self) -> SqlState {
        match self {
            Self::Authentication(error) => match error {
                AuthError::Password(_)
                | AuthError::Sasl(_)
                | AuthError::Ldap
                | AuthError::Pam
                | AuthError::EmptyPassword => SqlState::INVALID_PASSWORD,
                AuthError::Trust | AuthError::Certificate(_) | AuthError::Peer(_) | AuthError::Rejected => {
                    SqlState::INVALID_AUTHORIZATION
                }
                AuthError::Mechanism | AuthError::Malformed => SqlState::PROTOCOL_VIOLATION,
            },
            Self::NoUser | Self::UserTooLong | Self::TlsRequired | Self::NoSuchUser | Self::NoRule => {
                SqlState::INVALID_AUTHORIZATION
            }
            Self::OldProtocol
            | Self::UnknownProtocol { .. }
            | Self::AuthTypeNotBuilt(_)
            | Self::UnsupportedParameter(_)
            | Self::UnsupportedOption(_) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::StartupLayout
            | Self::NotUtf8(_)
            | Self::PlaintextAfterSslRequest
            | Self::PlaintextAfterGssRequest
            | Self::NotAPassword { .. }
            | Self::PasswordTooLong => SqlState::PROTOCOL_VIOLATION,
            // "canceling authentication due to timeout": ProcessInterrupts in src/backend/tcop/postgres.c.
            Self::LoginTimeout => SqlState::QUERY_CANCELED,
            Self::LoginTimeoutServerDown
            | Self::DatabaseDisabled(_)
            | Self::AuthDatabaseDisabled(_)
            | Self::ShuttingDown => SqlState::CANNOT_CONNECT_NOW,
            Self::OptionsSyntax => SqlState::SYNTAX_ERROR,
            Self::ParameterName(_) => SqlState::UNDEFINED_OBJECT,
            Self::ReplicationValue(_) => SqlState::INVALID_PARAMETER_VALUE,
            Self::Configuration | Self::NoLdapOptions => SqlState::CONFIG_FILE_ERROR,
            Self::NoSuchDatabase(_) => SqlState::INVALID_CATALOG_NAME,
            Self::ConsoleNotAllowed => SqlState::INSUFFICIENT_PRIVILEGE,
            Self::TooManyClients | Self::TooManyClientsOfDatabase | Self::TooManyClientsOfUser => {
                SqlState::TOO_MANY_CONNECTIONS
            }
            Self::Server(report) => report.sqlstate,
        }
    }

    /// What to do about it, where the client may know.
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoSuchDatabase(_) => Some("Add it to [databases], or an entry \"*\" for all names."),
            Self::TlsRequired => Some("Connect with sslmode=require, or lower client_tls_sslmode."),
            Self::NoRule => Some("Add a line for this client to auth_hba_file."),
            Self::ConsoleNotAllowed => Some("Add the user to admin_users or stats_users."),
            Self::TooManyClients => Some("Raise max_client_conn, or let clients share connections."),
            Self::TooManyClientsOfDatabase => Some("Raise max_db_client_connections."),
            Self::TooManyClientsOfUser => Some("Raise max_user_client_connections."),
            Self::DatabaseDisabled(_) => Some("ENABLE it on the console."),
            _ => None,
        }
    }
}

fn auth_type_name(auth_type: AuthType) -> &'static str {
    match auth_type {
        AuthType::Any => "any",
        AuthType::Trust => "trust",
        AuthType::Plain => "plain",
        AuthType::Md5 => "md5",
        AuthType::ScramSha256 => "scram-sha-256",
        AuthType::Cert => "cert",
        AuthType::Hba => "hba",
        AuthType::Ldap => "ldap",
        AuthType::Pam => "pam",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::login::Reason;

    #[test]
    fn refusals_have_postgresqls_sqlstates_or_pgbouncers() {
        let server =
            Report::error(SqlState::INVALID_CATALOG_NAME, "database \"x\" does not exist").detail("d");
        for (refusal, sqlstate, text) in [
            (Refusal::NoUser, "28000", "no username supplied"),
            (AuthError::Sasl(Reason::NoSuchUser).into(), "28P01", "SASL authentication failed"),
            (AuthError::Trust.into(), "28000", "\"trust\" authentication failed"),
            (
                AuthError::Mechanism.into(),
                "08P01",
                "client selected an invalid SASL authentication mechanism",
            ),
            (Refusal::NoSuchDatabase("x".into()), "3D000", "no such database: x"),
            (Refusal::DatabaseDisabled("x".into()), "57P03", "database \"x\" is disabled"),
            (Refusal::TooManyClients, "53300", "no more connections allowed (max_client_conn)"),
            (Refusal::LoginTimeout, "57014", "client_login_timeout"),
            (Refusal::AuthTypeNotBuilt(AuthType::Ldap), "0A000", "ldap is not supported by this build"),
        ] {
            let ours = refusal.report(Compatibility::Postgres);
            assert_eq!((ours.sqlstate.as_str(), ours.message.as_str()), (sqlstate, text));
            let theirs = refusal.report(Compatibility::PgBouncer);
            assert_eq!((theirs.sqlstate.as_str(), theirs.message.as_str()), ("08P01", text));
            assert!(theirs.hint.is_none());
        }
        for compatibility in [Compatibility::Postgres, Compatibility::PgBouncer] {
            let passed_on = Refusal::Server(Box::new(server.clone())).report(compatibility);
            assert_eq!(passed_on.sqlstate, server.sqlstate);
            assert_eq!(passed_on.detail, server.detail);
            assert_eq!(passed_on.severity, crate::wire::Severity::Fatal);
        }
    }

    #[test]
    fn nothing_is_given_away_before_authentication() {
        let unknown = Refusal::from(AuthError::Password(Reason::NoSuchUser)).report(Compatibility::Postgres);
        let wrong = Refusal::from(AuthError::Password(Reason::WrongPassword)).report(Compatibility::Postgres);
        assert_eq!(unknown, wrong);
    }
}
