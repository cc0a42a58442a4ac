//! The extended query protocol of the console: statements, portals, and rows a few at a time.

use std::collections::VecDeque;

use super::{
    Column, Command, Conversation, Formats, NAMES_MAX, Outcome, Parse, Refusal, Stop, Target, Topic, command,
    data_row, encode, row_description,
};
use crate::admin::table::Value;
use crate::wire::frame::Fields;
use tokio::io::{AsyncRead, AsyncWrite};

/// A parsed statement; `None` is the empty one.
#[derive(Clone, Debug)]
pub(super) struct Prepared(Option<Command>);

/// A bound statement.
#[derive(Debug)]
pub(super) struct Portal {
    statement: Prepared,
    formats: Formats,
    progress: Progress,
}

/// How far a portal has come.
#[derive(Debug)]
enum Progress {
    Fresh,
    /// Rows that are still to be fetched, and the tag that ends them.
    Rows {
        left: VecDeque<Vec<Value>>,
        tag: String,
    },
}

/// PortalSuspended: more rows are left.
const PORTAL_SUSPENDED: &[u8] = b"s\0\0\0\x04";

impl Prepared {
    /// The columns of its result; `None` where it has none.
    fn columns(&self) -> Option<&'static [Column]> {
        match &self.0 {
            Some(Command::Show(Topic::Help)) | None => None,
            Some(Command::Show(topic)) => Some(topic.columns()),
            Some(Command::Constant(constant)) => Some(&constant.column),
            Some(_) => None,
        }
    }
}

fn broken(what: &str) -> Stop {
    Refusal::Protocol(format!("broken {what} packet")).into()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<'_, S> {
    pub(super) fn parse(&mut self, body: &[u8]) -> Result<(), Stop> {
        let parse = Parse::decode(body).map_err(|_| broken("Parse"))?;
        let text = String::from_utf8_lossy(parse.text);
        let statement = match command::statements(&text).as_slice() {
            [] => None,
            [one] => match command::parse(one)? {
                Command::Show(topic) if topic.is_of_sockets() => return Err(Refusal::SimpleQueryOnly.into()),
                command => Some(command),
            },
            _ => return Err(Refusal::SeveralInOne.into()),
        };
        if self.statements.len() >= NAMES_MAX {
            return Err(Refusal::TooMany.into());
        }
        self.statements.insert(parse.name.to_vec(), Prepared(statement));
        self.output.extend_from_slice(encode::PARSE_COMPLETE);
        Ok(())
    }

    pub(super) fn bind(&mut self, body: &[u8]) -> Result<(), Stop> {
        let bind = Bind::decode(body).ok_or_else(|| broken("Bind"))?;
        let statement = self.statement(bind.statement)?.clone();
        if bind.parameters != 0 {
            let what = format!(
                "bind message supplies {} parameters, but commands of the console take none",
                bind.parameters
            );
            return Err(Refusal::Protocol(what).into());
        }
        if self.portals.len() >= NAMES_MAX {
            return Err(Refusal::TooMany.into());
        }
        let portal = Portal { statement, formats: bind.formats, progress: Progress::Fresh };
        self.portals.insert(bind.portal.to_vec(), portal);
        self.output.extend_from_slice(encode::BIND_COMPLETE);
        Ok(())
    }

    pub(super) fn describe(&mut self, body: &[u8]) -> Result<(), Stop> {
        let (columns, formats) = match Target::decode(body).map_err(|_| broken("Describe"))? {
            Target::Statement(name) => {
                let columns = self.statement(name)?.columns();
                encode::parameter_description(&mut self.output, &[]);
                (columns, Formats::default())
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (portal.statement.columns(), portal.formats.clone())
            }
        };
        match columns {
            Some(columns) => row_description(&mut self.output, columns, &formats),
            None => self.output.extend_from_slice(encode::NO_DATA),
        }
        Ok(())
    }

    pub(super) fn close(&mut self, body: &[u8]) -> Result<(), Stop> {
        match Target::decode(body).map_err(|_| broken("Close"))? {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        self.output.extend_from_slice(encode::CLOSE_COMPLETE);
        Ok(())
    }

    pub(super) async fn execute(&mut self, body: &[u8]) -> Result<(), Stop> {
        let mut fields = Fields::of(body);
        let (Some(name), Some(limit)) = (fields.c_str(), fields.i32()) else { return Err(broken("Execute")) };
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let Some(command) = portal.statement.0.clone() else {
            encode::empty_query_response(&mut self.output);
            self.portals.insert(name.to_vec(), portal);
            return Ok(());
        };
        if matches!(portal.progress, Progress::Fresh) {
            self.count();
            let Outcome { notices, table, tag } = self.carry_out(command).await?;
            notices.iter().for_each(|it| it.encode(&mut self.output));
            let left = table.map(|it| it.rows.into()).unwrap_or_default();
            portal.progress = Progress::Rows { left, tag };
        }
        self.fetch(&mut portal, limit);
        self.portals.insert(name.to_vec(), portal);
        Ok(())
    }

    /// Sends up to `limit` rows of a portal; all where it is not positive.
    fn fetch(&mut self, portal: &mut Portal, limit: i32) {
        let columns = portal.statement.columns().unwrap_or_default();
        let Progress::Rows { left, tag } = &mut portal.progress else { return };
        let count = match usize::try_from(limit) {
            Ok(limit) if limit > 0 => limit.min(left.len()),
            _ => left.len(),
        };
        for row in left.drain(..count) {
            data_row(&mut self.output, columns, &row, &portal.formats);
        }
        if left.is_empty() {
            encode::command_complete(&mut self.output, tag);
        } else {
            self.output.extend_from_slice(PORTAL_SUSPENDED);
        }
    }

    fn statement(&self, name: &[u8]) -> Result<&Prepared, Refusal> {
        let missing = || Refusal::NoSuchStatement(String::from_utf8_lossy(name).into_owned());
        self.statements.get(name).ok_or_else(missing)
    }
}

fn no_portal(name: &[u8]) -> Refusal {
    Refusal::NoSuchPortal(String::from_utf8_lossy(name).into_owned())
}

/// A whole Bind.
struct Bind<'a> {
    portal: &'a [u8],
    statement: &'a [u8],
    parameters: u16,
    formats: Formats,
}

impl<'a> Bind<'a> {
    fn decode(body: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::of(body);
        let (portal, statement) = (fields.c_str()?, fields.c_str()?);
        let parameter_formats = fields.i16()?.cast_unsigned();
        fields.bytes(usize::from(parameter_formats) * 2)?;
        let parameters = fields.i16()?.cast_unsigned();
        for _ in 0..parameters {
            // A negative length is NULL.
            if let Ok(length) = usize::try_from(fields.i32()?) {
                fields.bytes(length)?;
            }
        }
        let formats = (0..fields.i16()?.cast_unsigned()).map(|_| fields.i16()).collect::<Option<Vec<_>>>()?;
        fields.is_empty().then_some(Self { portal, statement, parameters, formats: Formats::new(formats) })
    }
}
