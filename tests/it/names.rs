//! Names of servers: what DNS says, for how long it is believed, and what becomes of servers that it leads to no more.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use crate::support::dns::NameServer;
use crate::support::prelude::*;

const NAME: &str = "db.names.example";

/// A cluster at several addresses.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::private(&["listen_addresses = '127.0.0.1, 127.0.0.2, 127.0.0.3'"]))
}

/// pgweir whose database `app` is at a name of that name server.
fn setup(dns: &NameServer) -> Setup {
    at(dns, NAME)
}

fn at(dns: &NameServer, hosts: &str) -> Setup {
    let (port, resolv_conf) = (cluster().port, dns.resolv_conf());
    Setup::bare(&format!("host = \"{hosts}\"\nport = {port}"))
        .database("app", "")
        .user("app", "password = \"app-secret\"")
        .user("admin", "password = \"admin-secret\"")
        .file("resolv.conf", &resolv_conf)
        .set("resolv_conf", "\"resolv.conf\"")
        .set("server_login_retry", "\"50ms\"")
}

/// Where the server is that the next query runs on; `unix` for a unix socket.
fn place_of(client: &mut Raw) -> String {
    client.value("SELECT coalesce(host(inet_server_addr()), 'unix')")
}

/// The places of so many servers that are in use at once.
fn places(pooler: &Pooler, count: usize) -> BTreeSet<String> {
    let mut clients: Vec<_> = (0..count).map(|_| pooler.app()).collect();
    clients
        .iter_mut()
        .map(|client| {
            client.query("BEGIN");
            place_of(client)
        })
        .collect()
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|it| (*it).to_owned()).collect()
}

#[test]
fn addresses_of_a_name_take_turns_and_are_looked_up_once() {
    let dns = NameServer::start();
    dns.put(NAME, &["127.0.0.1", "127.0.0.2"], 3600);
    let pooler = setup(&dns).start();
    assert_eq!(places(&pooler, 4), set(&["127.0.0.1", "127.0.0.2"]));
    assert_eq!(dns.answers().asked, (1, 0));
    let hosts = pooler.show("SHOW DNS_HOSTS");
    assert_eq!(
        (hosts.len(), &*hosts[0]["hostname"], &*hosts[0]["addrs"]),
        (1, NAME, "127.0.0.1:0,127.0.0.2:0")
    );
    let ttl: u64 = hosts[0]["ttl"].parse().unwrap();
    assert!((1..15).contains(&ttl), "dns_max_ttl is 15 s, not {ttl}");
    let zones = pooler.show("SHOW DNS_ZONES");
    assert_eq!(
        (&*zones[0]["zonename"], &*zones[0]["serial"], &*zones[0]["count"]),
        ("names.example", "0", "1")
    );
    let lists = pooler.show("SHOW LISTS");
    let item = |name| lists.iter().find(|it| it["list"] == name).map(|it| it["items"].clone());
    assert_eq!((item("dns_names"), item("dns_zones")), (Some("1".into()), Some("1".into())));
}

#[test]
fn servers_at_an_address_that_is_gone_are_closed_when_they_are_free() {
    let dns = NameServer::start();
    dns.put(NAME, &["127.0.0.1"], 3600);
    let pooler = setup(&dns).set("dns_max_ttl", "\"1us\"").start();
    let (mut holder, mut other) = (pooler.app(), pooler.app());
    holder.query("BEGIN");
    assert_eq!(place_of(&mut holder), "127.0.0.1");
    dns.put(NAME, &["127.0.0.2"], 3600);
    // The one server is taken: a second one is opened, for which the name is looked up again.
    assert_eq!(place_of(&mut other), "127.0.0.2");
    eventually("the server in use is marked", || {
        pooler.show("SHOW SERVERS").iter().any(|it| it["addr"] == "127.0.0.1" && it["close_needed"] == "1")
    });
    assert_eq!(place_of(&mut holder), "127.0.0.1", "a transaction is not torn apart");
    holder.query("COMMIT");
    assert_eq!(place_of(&mut holder), "127.0.0.2");
    assert!(pooler.show("SHOW SERVERS").iter().all(|it| it["addr"] == "127.0.0.2"));

    // And an idle one goes at once.
    dns.put(NAME, &["127.0.0.3"], 3600);
    holder.query("BEGIN");
    assert_eq!(place_of(&mut other), "127.0.0.3");
    eventually("none but the one in use is there", || {
        let servers = pooler.show("SHOW SERVERS");
        servers.iter().filter(|it| it["addr"] == "127.0.0.2").all(|it| it["state"] == "active")
    });
}

#[test]
fn an_answer_is_believed_as_long_as_it_says_and_dns_max_ttl_at_most() {
    for (name, ttl, max) in [("its own", 1, "1h"), ("the setting's", 3600, "100ms")] {
        let dns = NameServer::start();
        dns.put(NAME, &["127.0.0.1"], ttl);
        let max = format!("\"{max}\"");
        let pooler = setup(&dns).set("dns_max_ttl", &max).set("server_lifetime", "0").start();
        let mut client = pooler.app();
        assert_eq!(place_of(&mut client), "127.0.0.1", "{name}");
        dns.put(NAME, &["127.0.0.2"], ttl);
        eventually(name, || place_of(&mut client) == "127.0.0.2");
    }
}

#[test]
fn a_name_that_is_not_there_yet_is_asked_for_again_after_dns_nxdomain_ttl() {
    let dns = NameServer::start();
    let pooler = setup(&dns).set("dns_nxdomain_ttl", "\"200ms\"").start();
    let mut client = pooler.dial();
    client.send(&startup(PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    eventually("it is looked up twice", || dns.answers().asked.0 >= 2);
    let log = pooler.log();
    assert!(log.contains(&format!("DNS lookup failed: {NAME}")), "{log}");
    assert!(log.contains("server DNS lookup failed"), "{log}");
    dns.put(NAME, &["127.0.0.1"], 60);
    client.ready();
    assert_eq!(place_of(&mut client), "127.0.0.1");
}

#[test]
fn a_long_answer_comes_over_tcp() {
    let dns = NameServer::start();
    dns.put(NAME, &["127.0.0.2"], 60);
    dns.answers().truncates = true;
    let pooler = setup(&dns).start();
    assert_eq!(place_of(&mut pooler.app()), "127.0.0.2");
    assert!(dns.answers().asked.1 > 0, "TCP was asked");
}

#[test]
fn a_silent_name_server_holds_up_nobody_elses_queries() {
    let dns = NameServer::start();
    let pooler = setup(&dns)
        .database("near", &format!("host = \"127.0.0.1\"\nport = {}\ndbname = \"app\"", cluster().port))
        .set("server_connect_timeout", "\"800ms\"")
        .set("dns_nxdomain_ttl", "\"10ms\"")
        .start();
    dns.answers().is_silent = true;
    let mut lost = pooler.dial();
    lost.send(&startup(PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    assert_eq!(place_of(&mut pooler.connect("near", "app")), "127.0.0.1");
    eventually("the attempt is given up", || pooler.log().contains("closing because: connect failed"));
    dns.put(NAME, &["127.0.0.1"], 60);
    dns.answers().is_silent = false;
    lost.ready();
    assert_eq!(place_of(&mut lost), "127.0.0.1");
}

#[test]
fn a_zone_with_a_new_serial_number_is_looked_up_anew() {
    let dns = NameServer::start();
    dns.put(NAME, &["127.0.0.1"], 3600);
    dns.answers().serials.insert("names.example".into(), 7);
    let pooler = setup(&dns).set("dns_max_ttl", "\"1h\"").set("dns_zone_check_period", "\"50ms\"").start();
    let mut client = pooler.app();
    assert_eq!(place_of(&mut client), "127.0.0.1");
    let serial = || pooler.show("SHOW DNS_ZONES").first().map(|it| it["serial"].clone());
    eventually("the serial is known", || serial().as_deref() == Some("7"));
    dns.put(NAME, &["127.0.0.2"], 3600);
    dns.answers().serials.insert("names.example".into(), 8);
    eventually("it is noticed", || pooler.log().contains("zone 'names.example' serial changed: old=7 new=8"));
    eventually("and the idle server given up", || place_of(&mut client) == "127.0.0.2");
}

#[test]
fn a_list_of_hosts_may_mix_names_addresses_and_sockets() {
    let dns = NameServer::start();
    dns.put(NAME, &["127.0.0.2"], 60);
    let hosts = format!("127.0.0.1,{NAME},{}", cluster().socket_directory().display());
    let pooler = at(&dns, &hosts).start();
    assert_eq!(places(&pooler, 3), set(&["127.0.0.1", "127.0.0.2", "unix"]));
    assert_eq!(pooler.show("SHOW POOLS")[0]["load_balance_hosts"], "round-robin");
}

#[test]
fn without_balancing_the_next_host_is_used_only_when_one_fails() {
    let dns = NameServer::start();
    let hosts = format!("{NAME},127.0.0.2,127.0.0.3");
    let pooler = at(&dns, &hosts).database("app", "load_balance_hosts = \"disable\"").start();
    assert_eq!(places(&pooler, 3), set(&["127.0.0.2"]));
    assert!(pooler.log().contains("server DNS lookup failed"));
}

#[test]
fn without_resolv_conf_the_system_is_asked() {
    let pooler = Setup::of(Cluster::shared())
        .database("app", &format!("host = \"localhost\"\nport = {}", Cluster::shared().port))
        .start();
    assert_eq!(place_of(&mut pooler.app()), "127.0.0.1");
    let hosts = pooler.show("SHOW DNS_HOSTS");
    assert!(hosts[0]["hostname"] == "localhost" && hosts[0]["addrs"].contains("127.0.0.1:0"), "{hosts:?}");
}
