//! SQLSTATEs that the pooler itself gives or reacts to: src/backend/utils/errcodes.txt of PostgreSQL.

use std::fmt;

/// Five characters that tell a driver what went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState {
            $($(#[$doc])* pub const $name: Self = Self(*$code);)*
        }
    };
}

states! {
    /// successful_completion: notices.
    SUCCESS = b"00000";
    /// sqlclient_unable_to_establish_sqlconnection.
    UNABLE_TO_CONNECT = b"08001";
    /// sqlserver_rejected_establishment_of_sqlconnection.
    CONNECTION_REJECTED = b"08004";
    /// connection_failure.
    CONNECTION_FAILURE = b"08006";
    /// protocol_violation.
    PROTOCOL_VIOLATION = b"08P01";
    /// feature_not_supported; also "cached plan must not change result type".
    FEATURE_NOT_SUPPORTED = b"0A000";
    /// invalid_parameter_value.
    INVALID_PARAMETER_VALUE = b"22023";
    /// invalid_sql_statement_name: no such prepared statement.
    INVALID_STATEMENT_NAME = b"26000";
    /// idle_in_transaction_session_timeout.
    IDLE_IN_TRANSACTION_TIMEOUT = b"25P03";
    /// transaction_timeout (PostgreSQL 17).
    TRANSACTION_TIMEOUT = b"25P04";
    /// read_only_sql_transaction.
    READ_ONLY_TRANSACTION = b"25006";
    /// invalid_authorization_specification.
    INVALID_AUTHORIZATION = b"28000";
    /// invalid_password.
    INVALID_PASSWORD = b"28P01";
    /// invalid_catalog_name: no such database.
    INVALID_CATALOG_NAME = b"3D000";
    /// duplicate_prepared_statement.
    DUPLICATE_PREPARED_STATEMENT = b"42P05";
    /// insufficient_privilege.
    INSUFFICIENT_PRIVILEGE = b"42501";
    /// syntax_error.
    SYNTAX_ERROR = b"42601";
    /// undefined_object.
    UNDEFINED_OBJECT = b"42704";
    /// too_many_connections.
    TOO_MANY_CONNECTIONS = b"53300";
    /// program_limit_exceeded.
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    /// object_not_in_prerequisite_state.
    OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000";
    /// query_canceled.
    QUERY_CANCELED = b"57014";
    /// admin_shutdown.
    ADMIN_SHUTDOWN = b"57P01";
    /// crash_shutdown.
    CRASH_SHUTDOWN = b"57P02";
    /// cannot_connect_now.
    CANNOT_CONNECT_NOW = b"57P03";
    /// database_dropped.
    DATABASE_DROPPED = b"57P04";
    /// idle_session_timeout.
    IDLE_SESSION_TIMEOUT = b"57P05";
    /// config_file_error.
    CONFIG_FILE_ERROR = b"F0000";
    /// internal_error.
    INTERNAL_ERROR = b"XX000";
}

impl SqlState {
    /// The code in the field of an error: five digits or capital letters (`MAKE_SQLSTATE` in
    /// src/include/utils/elog.h), else none.
    pub fn of(value: &[u8]) -> Option<Self> {
        let code: [u8; 5] = value.try_into().ok()?;
        code.iter().all(|it| it.is_ascii_digit() || it.is_ascii_uppercase()).then_some(Self(code))
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
