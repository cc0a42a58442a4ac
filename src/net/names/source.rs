//! Where names are looked up: by the system, or by DNS as a file says.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ServerOrderingStrategy};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, Resolver, TokioResolver};

/// The system's own file.
const SYSTEM_RESOLV_CONF: &str = "/etc/resolv.conf";

/// Who answers.
pub(super) enum Source {
    /// `getaddrinfo`, which does all that `/etc/nsswitch.conf` says but tells no time to live. Serial numbers it does
    /// not know are asked of the system's name servers, if there are any.
    System(OnceLock<Option<TokioResolver>>),
    /// `/etc/hosts`, then the name servers of a file.
    Dns(TokioResolver),
}

/// What a name was found to have.
#[derive(Debug)]
pub(super) struct Addresses {
    /// In the order of the answer, with port 0.
    pub(super) addresses: Vec<SocketAddr>,
    /// How long the answer says it is good.
    pub(super) ttl: Option<Duration>,
}

impl Source {
    /// The system.
    pub(super) fn system() -> Self {
        Self::System(OnceLock::new())
    }

    /// `resolv_conf`: the file of the setting, where there is one.
    ///
    /// Errors: it cannot be read or makes no sense.
    pub(super) fn of(resolv_conf: Option<&Path>) -> io::Result<Self> {
        let Some(path) = resolv_conf else { return Ok(Self::system()) };
        let resolver = resolver(path);
        resolver
            .map(Self::Dns)
            .map_err(|it| io::Error::other(format!("resolv_conf {}: {it}", path.display())))
    }

    /// The addresses of a name. Errors: why there are none.
    pub(super) async fn addresses(&self, name: &str) -> Result<Addresses, String> {
        match self {
            Self::System(_) => {
                let found = tokio::net::lookup_host((name, 0)).await.map_err(|it| it.to_string())?;
                Ok(Addresses { addresses: found.collect(), ttl: None })
            }
            Self::Dns(resolver) => {
                if let Some(addresses) = in_hosts_file(name) {
                    return Ok(Addresses { addresses, ttl: None });
                }
                let found = resolver.lookup_ip(name).await.map_err(|it| it.to_string())?;
                let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min();
                let ttl = ttl.map(|seconds| Duration::from_secs(u64::from(seconds)));
                Ok(Addresses { addresses: found.iter().map(|ip| SocketAddr::new(ip, 0)).collect(), ttl })
            }
        }
    }

    /// A zone's serial number, where it can be had.
    pub(super) async fn serial(&self, zone: &str) -> Option<u32> {
        let resolver = match self {
            Self::Dns(resolver) => resolver,
            Self::System(system) => {
                system.get_or_init(|| resolver(Path::new(SYSTEM_RESOLV_CONF)).ok()).as_ref()?
            }
        };
        let found = resolver.lookup(zone, RecordType::SOA).await.ok()?;
        found.answers().iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.serial),
            _ => None,
        })
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::System(_) => "System",
            Self::Dns(_) => "Dns",
        })
    }
}

fn resolver(path: &Path) -> Result<TokioResolver, String> {
    let text = fs::read_to_string(path).map_err(|it| it.to_string())?;
    let (text, ports) = without_ports(&text);
    let (mut config, mut options) = parse_resolv_conf(text).map_err(|it| it.to_string())?;
    for (server, port) in config.name_servers.iter_mut().zip(ports) {
        let Some(port) = port else { continue };
        server.connections.iter_mut().for_each(|connection| connection.port = port);
    }
    // Answers are kept in one place only, and /etc/hosts is read where it matters.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(options).build().map_err(|it| it.to_string())
}

/// The text with plain addresses of name servers, and the port of each that has one, as c-ares reads
/// `nameserver 127.0.0.1:5353`.
fn without_ports(text: &str) -> (String, Vec<Option<u16>>) {
    let (mut plain, mut ports) = (String::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(server)) => {
                let with_port = server.parse::<SocketAddr>().ok();
                let address = with_port.map_or_else(|| server.to_owned(), |it| it.ip().to_string());
                if with_port.is_some() || address.parse::<IpAddr>().is_ok() {
                    ports.push(with_port.map(|it| it.port()));
                }
                plain.push_str(&format!("nameserver {address}\n"));
            }
            _ => plain.push_str(&format!("{line}\n")),
        }
    }
    (plain, ports)
}

/// What `/etc/hosts` says now, if anything.
fn in_hosts_file(name: &str) -> Option<Vec<SocketAddr>> {
    let hosts = Hosts::from_system().ok()?;
    let name = Name::from_utf8(name).ok()?;
    let addresses: Vec<_> = [RecordType::A, RecordType::AAAA]
        .into_iter()
        .filter_map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)))
        .flat_map(|found| found.answers().iter().filter_map(|it| it.data.ip_addr()).collect::<Vec<_>>())
        .map(|ip| SocketAddr::new(ip, 0))
        .collect();
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_may_have_ports() {
        let text = "search a.example\nnameserver 127.0.0.1:5353\nnameserver 192.0.2.1\nnameserver [::1]:54\n";
        let (plain, ports) = without_ports(text);
        assert_eq!(plain, "search a.example\nnameserver 127.0.0.1\nnameserver 192.0.2.1\nnameserver ::1\n");
        assert_eq!(ports, [Some(5353), None, Some(54)]);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_an_error_that_names_it() {
        let error = Source::of(Some(Path::new("/nowhere/resolv.conf"))).expect_err("there is none");
        assert!(error.to_string().contains("/nowhere/resolv.conf"), "{error}");
    }

    #[tokio::test]
    async fn localhost_is_in_the_hosts_file_or_known_to_the_system() {
        let found = Source::of(None).expect("the system's").addresses("localhost").await.expect("known");
        assert!(found.addresses.iter().all(|it| it.ip().is_loopback()) && found.ttl.is_none());
    }
}
