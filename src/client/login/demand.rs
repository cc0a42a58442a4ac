//! How a client is to prove who it is: `auth_type`, and the rule of `auth_hba_file` that fits.
//!
//! Owns the identities that a connection has by itself, a certificate's names and the operating system's user, and
//! what ident maps make of them. It refuses to judge them: that is [`auth::Login`](crate::auth::Login)'s.

use std::sync::Arc;

use super::super::line::Printable;
use super::super::{ldap, pam};
use super::{Candidate, End, House, Refusal, Wanted};
use crate::auth::login::Consulting;
use crate::auth::{Authority, Method, Opinion};
use crate::config::hba::{self, Origin, Target};
use crate::config::ident::Map;
use crate::config::ldap::Options;
use crate::config::{AuthType, SslMode, is_console};
use crate::net::Address;
use crate::stats::Replication;

/// What a client has to do.
pub(super) struct Demand {
    /// Which way it proves itself.
    pub(super) method: Method,
    /// Where its password is taken, if to an LDAP server; `None` there: nobody can be asked.
    pub(super) ldap: Option<Arc<Options>>,
}

impl From<Method> for Demand {
    fn from(method: Method) -> Self {
        Self { method, ldap: None }
    }
}

impl<H: House> Candidate<'_, H> {
    /// How the client is to prove itself. `any` takes the database's forced user in place of the client's word.
    pub(super) async fn demand(&mut self, wanted: &Wanted) -> Result<Demand, End> {
        let settings = &self.config.settings;
        Ok(match settings.auth_type {
            AuthType::Any if is_console(&wanted.database) => Method::Any.into(),
            AuthType::Any => {
                let entry = self.entry().ok_or_else(|| self.no_such_database())?;
                let Some(forced) = &entry.user else {
                    tracing::error!("auth_type=any requires forced user");
                    return Err(Refusal::Configuration.into());
                };
                self.user = forced.clone();
                Method::Any.into()
            }
            AuthType::Trust => Method::Trust.into(),
            AuthType::Plain => Method::Plain.into(),
            AuthType::Md5 => Method::Md5.into(),
            AuthType::ScramSha256 => Method::Scram.into(),
            AuthType::Cert if self.lobby.tls.load().clients.mode() < SslMode::VerifyCa => {
                tracing::error!("auth_type=cert requires client_tls_sslmode=verify-full");
                Method::Cert(Vec::new()).into()
            }
            AuthType::Cert => Method::Cert(self.certificate_names()).into(),
            AuthType::Hba => self.demand_of_rule(wanted.replication).await?,
            AuthType::Ldap => {
                let text = settings.auth_ldap_options.as_ref().ok_or(Refusal::NoLdapOptions)?;
                let options = Options::read(text.reveal());
                if let Err(why) = &options {
                    tracing::warn!("auth_ldap_options: {why}");
                }
                Demand { method: Method::Outside(Authority::Ldap), ldap: options.ok().map(Arc::new) }
            }
            AuthType::Pam if pam::IS_BUILT => Method::Outside(Authority::Pam).into(),
            AuthType::Pam => return Err(Refusal::AuthTypeNotBuilt(AuthType::Pam).into()),
        })
    }

    /// What the first line of `auth_hba_file` that fits demands.
    async fn demand_of_rule(&mut self, replication: Replication) -> Result<Demand, End> {
        let origin = match self.line.peer() {
            Address::Unix { .. } => Origin::Local,
            Address::Tcp(address) if self.tls.is_some() => Origin::Tls(address.ip()),
            Address::Tcp(address) => Origin::Plain(address.ip()),
        };
        let database = self.database.as_str();
        let target = match replication {
            Replication::Physical => Target::Replication { database },
            Replication::None | Replication::Logical => Target::Database(database),
        };
        let login = hba::Login { origin, target, user: self.user.as_str() };
        let rule = self.config.access.as_ref().and_then(|rules| rules.find(&login));
        let rule = rule.ok_or(Refusal::NoRule)?;
        tracing::debug!("HBA Line {} is matched", rule.line);
        Ok(match &rule.method {
            hba::Method::Trust => Method::Trust.into(),
            hba::Method::Reject => Method::Reject.into(),
            hba::Method::Password => Method::Plain.into(),
            hba::Method::Md5 => Method::Md5.into(),
            hba::Method::ScramSha256 => Method::Scram.into(),
            hba::Method::Cert(map) => {
                let names = self.certificate_names();
                Method::Cert(self.mapped(map.as_deref(), names)).into()
            }
            hba::Method::Peer(map) => {
                let names = self.peer_name().await?;
                Method::Peer(self.mapped(map.as_deref(), names)).into()
            }
            hba::Method::Ldap(options) => {
                Demand { method: Method::Outside(Authority::Ldap), ldap: options.clone() }
            }
        })
    }

    /// The names in the client's certificate. There is one only if somebody whom `client_tls_ca_file` trusts has signed
    /// it: without that file no certificate is asked for.
    fn certificate_names(&self) -> Vec<String> {
        let certificate = self.tls.as_ref().and_then(|tls| tls.peer_certificate.as_ref());
        let Some(certificate) = certificate else { return Vec::new() };
        certificate.common_name.iter().chain(&certificate.dns_names).cloned().collect()
    }

    /// The operating system's name of the user at the other end of a unix socket.
    async fn peer_name(&mut self) -> Result<Vec<String>, End> {
        let Some(peer) = self.line.stream()?.peer_credentials() else { return Ok(Vec::new()) };
        // It may go out to a directory: getpwuid_r(3), nsswitch.conf(5).
        let found = self
            .lobby
            .handshakes
            .block(move || nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(peer.uid)));
        Ok(match found.await.ok_or(Refusal::ShuttingDown)? {
            Ok(user) => user.map(|user| user.name).into_iter().collect(),
            Err(error) => {
                tracing::warn!(uid = peer.uid, "cannot look up the operating system's user: {error}");
                Vec::new()
            }
        })
    }

    /// The users whom somebody of these names may log in as.
    fn mapped(&self, map: Option<&Map>, names: Vec<String>) -> Vec<String> {
        let Some(map) = map else { return names };
        let users = map.users_for(&names, self.user.as_str());
        if !names.is_empty() && !users.iter().any(|user| user == self.user.as_str()) {
            tracing::error!("ident map: {} does not have a match", map.name);
        }
        users
    }

    /// What somebody else says of the client's password.
    pub(super) async fn consult(
        &mut self,
        authority: Authority,
        consulting: &Consulting,
        options: Option<&Arc<Options>>,
    ) -> Result<Opinion, End> {
        let (user, password) = (consulting.user().to_owned(), consulting.password().clone());
        let said = match (authority, options) {
            (Authority::Ldap, None) => Some(Err("the options are wrong".to_owned())),
            (Authority::Ldap, Some(options)) => {
                let options = Arc::clone(options);
                let asked = async move { ldap::ask(&options, &user, &password).await };
                let said = self.lobby.handshakes.consult(asked).await;
                said.map(|said| said.map_err(|error| error.to_string()))
            }
            (Authority::Pam, _) => {
                let from = match self.line.peer() {
                    Address::Tcp(address) => address.ip().to_string(),
                    // PgBouncer's word for it.
                    Address::Unix { .. } => "unix".to_owned(),
                };
                self.lobby.handshakes.block(move || pam::ask(&user, &password, &from)).await
            }
        };
        Ok(match said.ok_or(Refusal::ShuttingDown)? {
            Ok(()) => Opinion::Good,
            Err(why) => {
                let authority = match authority {
                    Authority::Ldap => "LDAP",
                    Authority::Pam => "PAM",
                };
                tracing::warn!(
                    "{authority} login failed for user {}: {}",
                    Printable(&self.user),
                    Printable(why)
                );
                Opinion::Bad
            }
        })
    }
}
