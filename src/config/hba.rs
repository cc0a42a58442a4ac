//! The `auth_hba_file`: who may log in from where, and how they are to prove who they are.
//!
//! Its grammar is PgBouncer's, a part of `pg_hba.conf`'s; [`Rules::find`] gives the first rule that fits. A line that
//! cannot be read is left out and reported, as PgBouncer does, so that a rule further down may apply in its place.
//! Files are read by the caller. Where there is no rule there is no way in.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use super::ident::{Map, Maps};
use super::ldap;
use super::value::is_utf8;
use super::words::{Word, Words};

/// Files of names within files of names: more is taken for a circle.
const NESTING_MAX: usize = 10;

/// All rules of a file, in its order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules(Vec<Rule>);

/// A line of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The line's number, from 1.
    pub line: usize,
    /// How clients prove who they are.
    pub method: Method,
    from: From,
    databases: Names,
    users: Names,
}

/// How clients prove who they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Method {
    /// Not at all.
    Trust,
    /// They cannot.
    Reject,
    /// By their password, in clear text.
    Password,
    /// By MD5, or SCRAM where the stored secret is a verifier.
    Md5,
    /// By SCRAM-SHA-256.
    ScramSha256,
    /// By their TLS certificate.
    Cert(Option<Arc<Map>>),
    /// By their operating system user.
    Peer(Option<Arc<Map>>),
    /// By what an LDAP server says to their password. `None`: the options are wrong, and nobody comes in.
    Ldap(Option<Arc<ldap::Options>>),
}

/// A login that a rule is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// Where the client is.
    pub origin: Origin,
    /// What it wants.
    pub target: Target<'a>,
    /// Who it says it is.
    pub user: &'a str,
}

/// Where a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// At a unix socket.
    Local,
    /// At an address, without TLS.
    Plain(IpAddr),
    /// At an address, with TLS.
    Tls(IpAddr),
}

/// What a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target<'a> {
    /// A database.
    Database(&'a str),
    /// The server's log as such (`replication=true`); `database` is what the client named all the same.
    Replication {
        /// The name.
        database: &'a str,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum From {
    Local,
    Host(Encryption, Network),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Encryption {
    Any,
    Required,
    Forbidden,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Network {
    All,
    V4 { base: u32, mask: u32 },
    V6 { base: u128, mask: u128 },
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Names {
    all: bool,
    /// `sameuser`: user and database have one name.
    same: bool,
    replication: bool,
    listed: BTreeSet<String>,
}

/// Something in the file that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// Whether the line counts all the same.
    pub fate: Fate,
}

/// What becomes of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is a rule.
    Counts,
    /// It is a rule without the names that are not UTF-8: nobody can have those.
    CountsInPart,
    /// It is left out.
    LeftOut,
}

/// What the file refers to.
pub struct Context<'a> {
    /// The file, for names that are relative to it.
    pub file: &'a Path,
    /// The maps of `auth_ident_file`.
    pub maps: &'a Maps,
    /// Reads a file of names.
    pub text: &'a dyn Fn(&Path) -> Result<String, String>,
}

impl Rules {
    /// Reads a file's text, and says what is wrong with it.
    pub fn read(text: &str, context: &Context<'_>) -> (Self, Vec<Finding>) {
        let (mut rules, mut findings) = (Vec::new(), Vec::new());
        for (index, line) in text.split('\n').enumerate() {
            let (remarks, strays) = (Vec::new(), 0);
            let mut reader = Reader { words: Words::of(line), context, remarks, strays };
            if reader.words.is_at_end() {
                continue;
            }
            let line = index + 1;
            match reader.rule(line) {
                Ok(rule) => {
                    rules.push(rule);
                    if reader.strays > 0 {
                        let what =
                            format!("{} of its names not UTF-8: the rule counts without", reader.strays);
                        findings.push(Finding { line, what, fate: Fate::CountsInPart });
                    }
                }
                Err(what) => findings.push(Finding { line, what, fate: Fate::LeftOut }),
            }
            let remarks = reader.remarks.into_iter();
            findings.extend(remarks.map(|what| Finding { line, what, fate: Fate::Counts }));
        }
        (Self(rules), findings)
    }

    /// The first rule that fits.
    pub fn find(&self, login: &Login<'_>) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.fits(login))
    }
}

impl Rule {
    fn fits(&self, login: &Login<'_>) -> bool {
        let (fits, database) = match login.target {
            Target::Database(name) => (self.databases.have(name, login.user), name),
            Target::Replication { database } => (self.databases.replication, database),
        };
        self.from.fits(login.origin) && fits && self.users.have(login.user, database)
    }
}

impl From {
    fn fits(&self, origin: Origin) -> bool {
        match (self, origin) {
            (Self::Local, Origin::Local) => true,
            (Self::Local, Origin::Plain(_) | Origin::Tls(_)) | (Self::Host(..), Origin::Local) => false,
            (Self::Host(Encryption::Forbidden, _), Origin::Tls(_)) => false,
            (Self::Host(Encryption::Required, _), Origin::Plain(_)) => false,
            (Self::Host(_, network), Origin::Plain(address) | Origin::Tls(address)) => {
                network.has(address.to_canonical())
            }
        }
    }
}

impl Network {
    /// As in PgBouncer, a base with more bits than its mask has no addresses.
    fn has(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::All, _) => true,
            (Self::V4 { base, mask }, IpAddr::V4(address)) => u32::from(address) & mask == base,
            (Self::V6 { base, mask }, IpAddr::V6(address)) => u128::from(address) & mask == base,
            (Self::V4 { .. }, IpAddr::V6(_)) | (Self::V6 { .. }, IpAddr::V4(_)) => false,
        }
    }

    fn is_empty(self) -> bool {
        match self {
            Self::All => false,
            Self::V4 { base, mask } => base & mask != base,
            Self::V6 { base, mask } => base & mask != base,
        }
    }
}

impl Names {
    fn have(&self, name: &str, other: &str) -> bool {
        self.all || (self.same && name == other) || self.listed.contains(name)
    }
}

/// Whose names a list has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Databases,
    Users,
}

struct Reader<'a> {
    words: Words<'a>,
    context: &'a Context<'a>,
    /// What is to be said of a line that counts.
    remarks: Vec<String>,
    /// How many names are not UTF-8. The line counts without them, because it may be there to keep somebody out.
    strays: usize,
}

impl Reader<'_> {
    fn rule(&mut self, line: usize) -> Result<Rule, String> {
        let kind = self.words.take_bare().unwrap_or_default();
        let encryption = match kind.as_str() {
            "local" => None,
            "host" => Some(Encryption::Any),
            "hostssl" => Some(Encryption::Required),
            "hostnossl" => Some(Encryption::Forbidden),
            _ => return Err("unknown type".to_owned()),
        };
        let databases = self.names(Column::Databases)?;
        let users = self.names(Column::Users)?;
        let from = match encryption {
            None => From::Local,
            Some(encryption) => From::Host(encryption, self.network()?),
        };
        let method = self.method()?;
        if !self.words.is_at_end() {
            return Err("unsupported parameters".to_owned());
        }
        Ok(Rule { line, method, from, databases, users })
    }

    fn names(&mut self, column: Column) -> Result<Names, String> {
        let mut names = Names::default();
        let (context, strays) = (self.context, &mut self.strays);
        let mut list = List { names: &mut names, column, context, strays };
        list.read(&mut self.words, self.context.file, 0)?;
        Ok(names)
    }

    /// `all`, `ADDRESS/BITS`, or `ADDRESS MASK`.
    fn network(&mut self) -> Result<Network, String> {
        if self.words.take_keyword("all") {
            return Ok(Network::All);
        }
        let text = self.words.take_bare().ok_or("did not find address")?;
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| format!("failed to parse address - {address}"))?;
        let mask = match bits {
            Some(bits) => mask_of(address, bits).ok_or("invalid mask")?,
            None => {
                let mask = self.words.take_bare().ok_or("did not find mask")?;
                mask.parse().map_err(|_| format!("failed to parse mask: {mask}"))?
            }
        };
        let network = match (address, mask) {
            (IpAddr::V4(base), IpAddr::V4(mask)) => Network::V4 { base: base.into(), mask: mask.into() },
            (IpAddr::V6(base), IpAddr::V6(mask)) => Network::V6 { base: base.into(), mask: mask.into() },
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                return Err(format!("failed to parse mask: {mask}"));
            }
        };
        if network.is_empty() {
            self.remarks
                .push(format!("address does not match mask, and no client matches: {address} / {mask}"));
        }
        Ok(network)
    }

    fn method(&mut self) -> Result<Method, String> {
        if matches!(self.words.word(), Word::Bare(word) if word == "ldap") {
            return Ok(self.ldap());
        }
        let method = self.words.take_bare().ok_or("did not find a method")?;
        let map = self.map()?;
        Ok(match method.as_str() {
            "trust" => Method::Trust,
            "reject" => Method::Reject,
            "md5" => Method::Md5,
            "password" => Method::Password,
            "scram-sha-256" => Method::ScramSha256,
            "peer" => Method::Peer(map),
            "cert" => Method::Cert(map),
            other => return Err(format!("unsupported method: {other}")),
        })
    }

    /// All that follows are options. With wrong ones the line must not be left out: the next one that fits could let
    /// in whom nobody has asked for a password.
    fn ldap(&mut self) -> Method {
        let options = ldap::Options::read(self.words.rest());
        self.words = Words::of("");
        match options {
            Ok(options) => Method::Ldap(Some(Arc::new(options))),
            Err(what) => {
                self.remarks.push(format!("nobody can log in by it: {what}"));
                Method::Ldap(None)
            }
        }
    }

    /// `map=name`
    fn map(&mut self) -> Result<Option<Arc<Map>>, String> {
        let Some(option) = self.words.take_bare() else { return Ok(None) };
        let name = option
            .strip_prefix("map=")
            .ok_or_else(|| format!("Ident map {option} is malformed. It is not in map=value format."))?;
        if !is_utf8(name) {
            self.strays += 1;
            return Ok(Some(Arc::new(Map::nobody(name))));
        }
        let map = self.context.maps.find(name);
        map.cloned().map(Some).ok_or_else(|| format!("Ident map {name} is not found in ident config file"))
    }
}

fn mask_of(address: IpAddr, bits: &str) -> Option<IpAddr> {
    let bits: u32 = bits.parse().ok()?;
    match address {
        IpAddr::V4(_) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            Some(Ipv4Addr::from(mask).into())
        }
        IpAddr::V6(_) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            Some(Ipv6Addr::from(mask).into())
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

struct List<'a> {
    names: &'a mut Names,
    column: Column,
    context: &'a Context<'a>,
    strays: &'a mut usize,
}

impl List<'_> {
    /// Names with commas between them.
    fn read(&mut self, words: &mut Words<'_>, file: &Path, depth: usize) -> Result<(), String> {
        loop {
            self.name(words, file, depth)?;
            if !words.take_comma() {
                return Ok(());
            }
        }
    }

    fn name(&mut self, words: &mut Words<'_>, file: &Path, depth: usize) -> Result<(), String> {
        let is_bare = matches!(words.word(), Word::Bare(_));
        let name = words.take_text().ok_or("a name is missing")?;
        if !is_utf8(&name) {
            *self.strays += 1;
            return Ok(());
        }
        if !is_bare {
            self.names.listed.insert(name);
            return Ok(());
        }
        match name.as_str() {
            "all" => self.names.all = true,
            "sameuser" => self.names.same = true,
            "samerole" | "samegroup" => return Err(format!("{name} is not supported")),
            "replication" if self.column == Column::Databases => self.names.replication = true,
            group if group.starts_with('+') => return Err(format!("roles ({group}) are not supported")),
            other => match other.strip_prefix('@') {
                Some(path) => self.file(path, file, depth)?,
                None => drop(self.names.listed.insert(name)),
            },
        }
        Ok(())
    }

    fn file(&mut self, path: &str, parent: &Path, depth: usize) -> Result<(), String> {
        if depth == NESTING_MAX {
            return Err(format!("@{path}: files of names are nested too deeply"));
        }
        let file = parent.parent().map_or_else(|| path.into(), |directory| directory.join(path));
        let text = (self.context.text)(&file).map_err(|why| format!("{}: {why}", file.display()))?;
        for line in text.split('\n') {
            let mut words = Words::of(line);
            if words.is_at_end() {
                continue;
            }
            self.read(&mut words, &file, depth + 1)?;
            if !words.is_at_end() {
                return Err(format!("{}: names must have commas between them", file.display()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
