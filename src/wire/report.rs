//! An ErrorResponse or NoticeResponse as a value.

use bytes::{BufMut, BytesMut};

use super::backend::tag;
use super::frame::Fields;
use super::{Error, SqlState};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The session ends.
    Fatal,
    /// The statement failed.
    Error,
    /// All sessions of the server end.
    Panic,
    /// Something the user may want to know; WARNING, NOTICE, INFO, LOG and DEBUG of a server all land here.
    Notice,
}

impl Severity {
    /// Its name on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fatal => "FATAL",
            Self::Error => "ERROR",
            Self::Panic => "PANIC",
            Self::Notice => "NOTICE",
        }
    }
}

/// What an ErrorResponse or a NoticeResponse says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Field `V` (or `S` from servers before 9.6).
    pub severity: Severity,
    /// Field `C`.
    pub sqlstate: SqlState,
    /// Field `M`.
    pub message: String,
    /// Field `D`.
    pub detail: Option<String>,
    /// Field `H`.
    pub hint: Option<String>,
}

impl Report {
    /// The session ends with this.
    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Fatal, sqlstate, message)
    }

    /// The statement fails with this.
    pub fn error(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, sqlstate, message)
    }

    /// The same as PgBouncer would say it: 08P01, and nothing but the message.
    pub fn plain_violation(self) -> Self {
        Self::new(self.severity, SqlState::PROTOCOL_VIOLATION, self.message)
    }

    /// The client is told this.
    pub fn notice(message: impl Into<String>) -> Self {
        Self::new(Severity::Notice, SqlState::SUCCESS, message)
    }

    fn new(severity: Severity, sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { severity, sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// Adds a DETAIL.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a HINT.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Reads the body of an ErrorResponse or NoticeResponse. Text that is not UTF-8 is read as well as it goes.
    ///
    /// Errors: a body without its last zero byte.
    pub fn parse(body: &[u8]) -> Result<Self, Error> {
        const WHAT: Error = Error::Broken("ErrorResponse");
        let mut report = Self::new(Severity::Error, SqlState::INTERNAL_ERROR, "");
        let mut fields = Fields::of(body);
        loop {
            let code = fields.u8().ok_or(WHAT)?;
            if code == 0 {
                return Ok(report);
            }
            let value = fields.c_str().ok_or(WHAT)?;
            let text = || String::from_utf8_lossy(value).into_owned();
            match code {
                b'S' | b'V' => {
                    report.severity = match value {
                        b"FATAL" => Severity::Fatal,
                        b"PANIC" => Severity::Panic,
                        b"ERROR" => Severity::Error,
                        _ if code == b'S' => report.severity,
                        _ => Severity::Notice,
                    }
                }
                b'C' => report.sqlstate = SqlState::of(value).unwrap_or(SqlState::INTERNAL_ERROR),
                b'M' => report.message = text(),
                b'D' => report.detail = Some(text()),
                b'H' => report.hint = Some(text()),
                _ => {}
            }
        }
    }

    /// Appends it as an ErrorResponse, or as a NoticeResponse if its severity is a notice's.
    pub fn encode(&self, out: &mut BytesMut) {
        let is_notice = self.severity == Severity::Notice;
        let tag = if is_notice { tag::NOTICE_RESPONSE } else { tag::ERROR_RESPONSE };
        super::encode::message(out, tag, |out| {
            let word = self.severity.word();
            let fields = [
                (b'S', Some(word)),
                (b'V', Some(word)),
                (b'C', Some(self.sqlstate.as_str())),
                (b'M', Some(self.message.as_str())),
                (b'D', self.detail.as_deref()),
                (b'H', self.hint.as_deref()),
            ];
            for (code, value) in fields {
                let Some(value) = value else { continue };
                out.put_u8(code);
                super::encode::c_str(out, value.as_bytes());
            }
            out.put_u8(0);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_wire() {
        let report = Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "query_wait_timeout")
            .detail("pool full")
            .hint("raise pool_size");
        let mut out = BytesMut::new();
        report.encode(&mut out);
        assert_eq!(out[0], b'E');
        assert_eq!(Report::parse(&out[5..]), Ok(report));
    }

    #[test]
    fn a_translated_severity_is_taken_from_the_untranslated_field() {
        let body = b"SFEHLER\0VERROR\0C42601\0Moops\0\0";
        assert_eq!(Report::parse(body).map(|it| it.severity), Ok(Severity::Error));
        assert_eq!(Report::parse(b"SWARNUNG\0VWARNING\0\0").map(|it| it.severity), Ok(Severity::Notice));
    }

    #[test]
    fn a_cut_report_is_an_error() {
        assert!(Report::parse(b"SERROR\0Mno end").is_err());
        assert!(Report::parse(b"").is_err());
    }
}
