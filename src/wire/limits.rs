//! How large the messages may be that a pooler must hold as a whole. All others are streamed and have no limit here.

/// PostgreSQL's limit of a start-up packet: `MAX_STARTUP_PACKET_LENGTH` in src/include/libpq/pqcomm.h.
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// The body of a password or SASL response: `PG_MAX_AUTH_TOKEN_LENGTH` in src/include/libpq/auth.h.
pub const PASSWORD_BYTES_MAX: usize = 65_535;

/// A Parse, Bind, Describe or Close head up to the end of its names. PgBouncer's suite uses names of 16 KiB.
pub const NAME_BYTES_MAX: usize = 64 * 1024;

/// A Parse whose text is to be shared between servers. A longer one is refused with 54000.
pub const PARSE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A message of a server that is read as a whole: ErrorResponse, NoticeResponse, ParameterStatus, the login's own.
pub const SERVER_MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// PostgreSQL's largest allocation, `MaxAllocSize` in src/include/utils/memutils.h, which no message exceeds:
/// `PQ_LARGE_MESSAGE_LIMIT` in src/include/libpq/libpq.h.
pub const MESSAGE_BYTES_MAX: usize = 0x3fff_ffff;

/// A cancel key's secret: src/include/libpq/pqcomm.h, `CANCEL_REQUEST_CODE`, and protocol 3.2.
pub const CANCEL_SECRET_BYTES_MAX: usize = 256;
