//! The options of an LDAP login: `auth_ldap_options`, and what follows `ldap` in a line of `auth_hba_file`.
//!
//! They are PostgreSQL's, which PgBouncer takes too, and are written as PgBouncer reads them (`get_key_value` in its
//! `src/ldapauth.c`): `key=value`, either in quotes, with blanks or a comma in between. A set of options that makes no
//! login possible is an error here, not at each login.

use percent_encoding::percent_decode_str;

use super::Secret;
use super::value::is_utf8;
use super::words::{is_blank, unquote};

/// Where users are looked for, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// From the first connection on, or not.
    pub encryption: Encryption,
    /// Hosts, each with its port, in the order in which they are tried; empty: those that DNS knows for the base.
    pub servers: Vec<(String, u16)>,
    /// How a user's name becomes a distinguished one.
    pub bind: Bind,
}

/// TLS with an LDAP server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encryption {
    /// None: `ldap://`.
    None,
    /// Begun within the connection: `ldaptls=1`.
    StartTls,
    /// From the start: `ldaps://`.
    Tls,
}

/// How a user's name becomes a distinguished one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Bind {
    /// By what stands before and after it.
    Simple {
        /// `ldapprefix`
        prefix: String,
        /// `ldapsuffix`
        suffix: String,
    },
    /// By a search for the one entry that fits.
    Search {
        /// `ldapbasedn`
        base: String,
        /// How far below the base.
        scope: Scope,
        /// `ldapbinddn`, as whom to search; empty: nobody.
        bind_dn: String,
        /// `ldapbindpasswd`
        bind_password: Option<Secret>,
        /// `ldapsearchfilter`, or one made of `ldapsearchattribute`; `$username` stands for the user's name.
        filter: String,
    },
}

/// How far below its base a search goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The base alone.
    Base,
    /// What is directly below it.
    One,
    /// Everything.
    Subtree,
}

/// What stands for the user's name in a filter.
pub const USERNAME: &str = "$username";

/// Ports by RFC 4516 and by custom.
const LDAP_PORT: u16 = 389;
const LDAPS_PORT: u16 = 636;

/// The options as they are given.
#[derive(Default)]
struct Given {
    start_tls: bool,
    scheme: Option<String>,
    servers: Option<String>,
    port: Option<u16>,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    scope: Option<Scope>,
    bind_dn: Option<String>,
    bind_password: Option<Secret>,
    attribute: Option<String>,
    filter: Option<String>,
}

impl Options {
    /// Reads them.
    ///
    /// Errors: what is wrong with them.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut given = Given::default();
        let mut rest = text.trim_end_matches(is_blank);
        while let Some((key, value, after)) = pair(rest) {
            given.set(&key, value)?;
            rest = after;
        }
        given.resolve()
    }
}

impl Given {
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        if !is_utf8(key) || !is_utf8(&value) {
            return Err("an option is not UTF-8".to_owned());
        }
        match key {
            "ldaptls" => self.start_tls = value == "1",
            "ldapscheme" if value == "ldap" || value == "ldaps" => self.scheme = Some(value),
            "ldapscheme" => return Err(format!("invalid ldapscheme value: \"{value}\"")),
            "ldapport" => match value.parse() {
                Ok(0) | Err(_) => return Err(format!("invalid LDAP port number: \"{value}\"")),
                Ok(port) => self.port = Some(port),
            },
            "ldapserver" => self.servers = Some(value),
            "ldapbinddn" => self.bind_dn = Some(value),
            "ldapbindpasswd" => self.bind_password = Some(Secret::new(value)),
            "ldapsearchattribute" => self.attribute = Some(value),
            "ldapsearchfilter" => self.filter = Some(value),
            "ldapbasedn" => self.base = Some(value),
            "ldapprefix" => self.prefix = Some(value),
            "ldapsuffix" => self.suffix = Some(value),
            "ldapurl" => self.url(&value)?,
            other => return Err(format!("invalid LDAP option: \"{other}\"")),
        }
        Ok(())
    }

    /// RFC 4516: `ldap://host:port/base?attributes?scope?filter`.
    fn url(&mut self, url: &str) -> Result<(), String> {
        let fault = |what: &str| format!("could not parse LDAP URL \"{url}\": {what}");
        let (scheme, rest) = url.split_once("://").ok_or_else(|| fault("no scheme"))?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "ldap" && scheme != "ldaps" {
            return Err(format!("unsupported LDAP URL scheme: {scheme}"));
        }
        let decode = |text: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err(fault("not UTF-8")),
        };
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = split_port(place).map_err(|()| fault("invalid port"))?;
        let mut parts = path.split('?');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        self.base = Some(decode(next().unwrap_or_default())?);
        if let Some(attributes) = next() {
            let first = attributes.split(',').next().unwrap_or_default();
            self.attribute = Some(decode(first)?);
        }
        self.scope = Some(match next().map(str::to_ascii_lowercase).as_deref() {
            None | Some("base") => Scope::Base,
            Some("one" | "onelevel") => Scope::One,
            Some("sub" | "subtree") => Scope::Subtree,
            Some(_) => return Err(fault("unknown scope")),
        });
        if let Some(filter) = next() {
            self.filter = Some(decode(filter)?);
        }
        if !host.is_empty() {
            self.servers = Some(decode(host)?);
        }
        self.port = port.or(self.port);
        self.scheme = Some(scheme);
        Ok(())
    }

    /// The checks of `validate_ldap_options` in PgBouncer's `src/ldapauth.c`.
    fn resolve(self) -> Result<Options, String> {
        let searches = self.base.is_some()
            || self.bind_dn.is_some()
            || self.bind_password.is_some()
            || self.attribute.is_some()
            || self.filter.is_some();
        let is_tls = self.scheme.as_deref() == Some("ldaps");
        let encryption = match (is_tls, self.start_tls) {
            (true, true) => return Err("ldaptls=1 cannot be used with ldaps".to_owned()),
            (true, false) => Encryption::Tls,
            (false, true) => Encryption::StartTls,
            (false, false) => Encryption::None,
        };
        let port = self.port.unwrap_or(if is_tls { LDAPS_PORT } else { LDAP_PORT });
        let bind = match (self.prefix.is_some() || self.suffix.is_some(), self.base) {
            (true, _) if searches => {
                return Err("cannot mix options for simple bind and search+bind modes".to_owned());
            }
            (true, _) => Bind::Simple {
                prefix: self.prefix.unwrap_or_default(),
                suffix: self.suffix.unwrap_or_default(),
            },
            (false, None) => {
                return Err("\"ldapbasedn\", \"ldapprefix\" or \"ldapsuffix\" must be set".to_owned());
            }
            (false, Some(base)) => {
                let filter = search_filter(self.attribute, self.filter)?;
                let scope = self.scope.unwrap_or(Scope::Subtree);
                let bind_dn = self.bind_dn.unwrap_or_default();
                Bind::Search { base, scope, bind_dn, bind_password: self.bind_password, filter }
            }
        };
        let named = self.servers.unwrap_or_default();
        let mut servers = Vec::new();
        for server in named.split_ascii_whitespace() {
            let (host, own) =
                split_port(server).map_err(|()| format!("invalid LDAP server: \"{server}\""))?;
            servers.push((host.to_owned(), own.unwrap_or(port)));
        }
        if servers.is_empty() && !matches!(&bind, Bind::Search { base, .. } if !base.is_empty()) {
            return Err("LDAP server not specified, and no ldapbasedn".to_owned());
        }
        Ok(Options { encryption, servers, bind })
    }
}

fn search_filter(attribute: Option<String>, filter: Option<String>) -> Result<String, String> {
    match (attribute, filter) {
        (Some(_), Some(_)) => Err("cannot use ldapsearchattribute together with ldapsearchfilter".to_owned()),
        (None, Some(filter)) if filter.starts_with('(') => Ok(filter),
        (None, Some(filter)) => Ok(format!("({filter})")),
        (attribute, None) => Ok(format!("({}={USERNAME})", attribute.as_deref().unwrap_or("uid"))),
    }
}

/// A host, which may be an address in brackets, and the port after it.
fn split_port(place: &str) -> Result<(&str, Option<u16>), ()> {
    let after_brackets = place.rfind(']').map_or(0, |at| at + 1);
    match place[after_brackets..].rfind(':') {
        None => Ok((place, None)),
        Some(at) => {
            let (host, port) = place.split_at(after_brackets + at);
            port[1..].parse().map(|port| (host, Some(port))).map_err(|_| ())
        }
    }
}

/// The next `key=value` and what follows it; `None` where none follows. What is no such pair ends the options, as it
/// does in PgBouncer.
fn pair(text: &str) -> Option<(String, String, &str)> {
    let text = text.trim_start_matches(is_blank);
    let text = text.strip_prefix(',').unwrap_or(text).trim_start_matches(is_blank);
    if text.starts_with('#') {
        return None;
    }
    let (key, rest) = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted)?,
        None => {
            let at = text.find('=')?;
            (text[..at].to_owned(), &text[at..])
        }
    };
    let rest = rest.strip_prefix('=')?;
    match rest.strip_prefix('"') {
        Some(quoted) => {
            let (value, rest) = unquote(quoted)?;
            Some((key, value, rest))
        }
        None => {
            let end = rest.find(|it| is_blank(it) || it == ',').unwrap_or(rest.len());
            (end > 0).then(|| (key, rest[..end].to_owned(), &rest[end..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn simple(prefix: &str, suffix: &str) -> Bind {
        Bind::Simple { prefix: prefix.to_owned(), suffix: suffix.to_owned() }
    }

    fn search(base: &str, scope: Scope, filter: &str) -> Bind {
        let (base, filter) = (base.to_owned(), filter.to_owned());
        Bind::Search { base, scope, bind_dn: String::new(), bind_password: None, filter }
    }

    fn options(encryption: Encryption, servers: &[(&str, u16)], bind: Bind) -> Options {
        let servers = servers.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
        Options { encryption, servers, bind }
    }

    #[test]
    fn options_are_read_as_pgbouncer_reads_them() {
        for (name, text, port, bind) in [
            (
                "simple",
                "ldapserver=a ldapprefix=\"uid=\" ldapsuffix=\",dc=x\"\n",
                389,
                simple("uid=", ",dc=x"),
            ),
            (
                "a search",
                "ldapserver=a ldapport=1 ldapbasedn=\"dc=x,dc=y\"",
                1,
                search("dc=x,dc=y", Scope::Subtree, "(uid=$username)"),
            ),
            (
                "an attribute",
                "ldapserver=a ldapbasedn=x ldapsearchattribute=cn",
                389,
                search("x", Scope::Subtree, "(cn=$username)"),
            ),
            (
                "a filter",
                "ldapserver=a ldapbasedn=x ldapsearchfilter=\"uid=$username\"",
                389,
                search("x", Scope::Subtree, "(uid=$username)"),
            ),
            (
                "quoted keys and commas",
                "ldapserver=a \"ldapport\"=7 ldapbasedn=\"x\" ,ldapsearchfilter=\"(m=$username)\"",
                7,
                search("x", Scope::Subtree, "(m=$username)"),
            ),
            ("a comment", "ldapserver=a ldapprefix=u # ldapbasedn=x", 389, simple("u", "")),
            ("a doubled quote", "ldapserver=a ldapprefix=\"a\"\"b\"", 389, simple("a\"b", "")),
            ("an empty value", "ldapserver=a ldapprefix=\"\" ldapsuffix=x", 389, simple("", "x")),
            (
                "a url",
                "ldapurl=\"ldap://a:9/dc=x,dc=y?uid,cn?sub\"",
                9,
                search("dc=x,dc=y", Scope::Subtree, "(uid=$username)"),
            ),
            (
                "a url's filter",
                "ldapurl=ldap://a/x??one?(|(uid=$username)(mail=$username))",
                389,
                search("x", Scope::One, "(|(uid=$username)(mail=$username))"),
            ),
            ("a url's defaults", "ldapurl=ldap://a", 389, search("", Scope::Base, "(uid=$username)")),
            (
                "an encoded url",
                "ldapurl=ldap://a/dc=a%20b",
                389,
                search("dc=a b", Scope::Base, "(uid=$username)"),
            ),
        ] {
            let expected = options(Encryption::None, &[("a", port)], bind);
            assert_eq!(Options::read(text), Ok(expected), "{name}");
        }
    }

    #[test]
    fn servers_may_be_many_and_encrypted() {
        for (name, text, expected) in [
            (
                "tls",
                "ldapurl=ldaps://a/x",
                options(Encryption::Tls, &[("a", 636)], search("x", Scope::Base, "(uid=$username)")),
            ),
            (
                "start tls",
                "ldapserver=a ldaptls=1 ldapprefix=u",
                options(Encryption::StartTls, &[("a", 389)], simple("u", "")),
            ),
            (
                "a scheme",
                "ldapserver=a ldapscheme=ldaps ldapprefix=u",
                options(Encryption::Tls, &[("a", 636)], simple("u", "")),
            ),
            (
                "several servers",
                "ldapserver=\"a [::1]:5 c\" ldapport=3 ldapprefix=u",
                options(Encryption::None, &[("a", 3), ("[::1]", 5), ("c", 3)], simple("u", "")),
            ),
            (
                "servers of the domain",
                "ldapbasedn=\"dc=x,dc=y\"",
                options(Encryption::None, &[], search("dc=x,dc=y", Scope::Subtree, "(uid=$username)")),
            ),
        ] {
            assert_eq!(Options::read(text), Ok(expected), "{name}");
        }
    }

    #[test]
    fn options_that_let_nobody_in_are_refused() {
        for (name, text, expected) in [
            (
                "both modes",
                "ldapserver=a ldapprefix=u ldapbasedn=x",
                "cannot mix options for simple bind and search+bind modes",
            ),
            ("no mode", "ldapserver=a", "\"ldapbasedn\", \"ldapprefix\" or \"ldapsuffix\" must be set"),
            (
                "attribute and filter",
                "ldapserver=a ldapbasedn=x ldapsearchattribute=u ldapsearchfilter=y",
                "cannot use ldapsearchattribute together with ldapsearchfilter",
            ),
            ("tls twice", "ldapurl=ldaps://a/x ldaptls=1", "ldaptls=1 cannot be used with ldaps"),
            ("no server", "ldapprefix=u", "LDAP server not specified, and no ldapbasedn"),
            ("a bad port", "ldapport=x", "invalid LDAP port number: \"x\""),
            ("a bad scheme", "ldapscheme=ldapi", "invalid ldapscheme value: \"ldapi\""),
            ("an unknown option", "ldapsever=a", "invalid LDAP option: \"ldapsever\""),
            ("a bad url", "ldapurl=http://a/x", "unsupported LDAP URL scheme: http"),
        ] {
            assert_eq!(Options::read(text).unwrap_err(), expected, "{name}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let text = "ldapserver=a ldapbasedn=x ldapbinddn=me ldapbindpasswd=hidden";
        let shown = format!("{:?}", Options::read(text).unwrap());
        assert!(shown.contains("\"me\"") && !shown.contains("hidden"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*", url in "\\PC*") {
            let _ = Options::read(&text);
            let _ = Options::read(&format!("ldapurl=\"ldap://{url}\""));
        }
    }
}
