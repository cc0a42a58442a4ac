//! Rules that fit and rules that do not, by tables.

use proptest::prelude::*;

use super::*;

fn nothing(_: &Path) -> Result<String, String> {
    Err("no such file".to_owned())
}

fn read(text: &str) -> (Rules, Vec<Finding>) {
    let (maps, _) = Maps::read("m system user\nn system all");
    Rules::read(text, &Context { file: Path::new("/etc/hba.conf"), maps: &maps, text: &nothing })
}

fn good(text: &str) -> Rules {
    let (rules, findings) = read(text);
    assert_eq!(findings, []);
    rules
}

/// `user@address`, where the address ends in `+` for TLS and is empty for a unix socket.
fn line_for(rules: &Rules, database: &str, who: &str) -> Option<usize> {
    let (user, address) = who.split_once('@').unwrap();
    let origin = match (address.strip_suffix('+'), address) {
        (None, "") => Origin::Local,
        (None, address) => Origin::Plain(address.parse().unwrap()),
        (Some(address), _) => Origin::Tls(address.parse().unwrap()),
    };
    let target = match database.strip_prefix("log of ") {
        Some(database) => Target::Replication { database },
        None => Target::Database(database),
    };
    rules.find(&Login { origin, target, user }).map(|rule| rule.line)
}

fn check(text: &str, rows: &[(&str, &str, Option<usize>)]) {
    let (rules, _) = read(text);
    for (database, who, expected) in rows {
        assert_eq!(line_for(&rules, database, who), *expected, "{database} {who}");
    }
}

#[test]
fn the_first_rule_that_fits_counts() {
    check(
        "local all all trust\nhost all joe all reject\nhost db all 10.0.0.0/8 md5\nhost all all 0.0.0.0/0 password",
        &[
            ("db", "ann@", Some(1)),
            ("db", "joe@10.1.1.1", Some(2)),
            ("db", "ann@10.1.1.1", Some(3)),
            ("other", "ann@10.1.1.1", Some(4)),
            ("db", "ann@::1", None),
        ],
    );
}

#[test]
fn encryption_is_part_of_a_rule() {
    check(
        "hostssl all all 10.0.0.0/8 cert\nhostnossl all all 11.0.0.0/8 md5\nhost all all 12.0.0.0/8 trust",
        &[
            ("d", "u@10.1.1.1+", Some(1)),
            ("d", "u@10.1.1.1", None),
            ("d", "u@11.1.1.1+", None),
            ("d", "u@11.1.1.1", Some(2)),
            ("d", "u@12.1.1.1+", Some(3)),
            ("d", "u@12.1.1.1", Some(3)),
            ("d", "u@", None),
        ],
    );
}

#[test]
fn networks_are_given_by_bits_or_by_a_mask() {
    check(
        "host all all 199.199.199.199/32 trust\nhost all all 127.0.0.0  255.255.255.0 trust\nhost all all 128.0.0.0/1 trust\nhost all all ff20::/12 trust\nhost all all ::1/128 trust",
        &[
            ("d", "u@199.199.199.199", Some(1)),
            ("d", "u@127.0.0.9", Some(2)),
            ("d", "u@127.0.1.9", None),
            ("d", "u@254.1.1.1", Some(3)),
            ("d", "u@::ffff:254.1.1.1", Some(3)),
            ("d", "u@ff22:3::1", Some(4)),
            ("d", "u@ff32::1", None),
            ("d", "u@::1", Some(5)),
            ("d", "u@::2", None),
        ],
    );
    check("host all all ::/0 trust", &[("d", "u@ff32::1", Some(1)), ("d", "u@1.1.1.1", None)]);
}

#[test]
fn names_are_lists_and_a_quoted_keyword_is_a_name() {
    check(
        "host tmp,db u1,u2 , \"u 3\"\t\tall trust # x\nhost \"all\" \"all\" all trust\nhost \"q1\"\"q2\" \"a , b\" all trust\nhost sameuser all all trust\nhost all replication all trust",
        &[
            ("db", "u1@1.1.1.1", Some(1)),
            ("tmp", "u 3@1.1.1.1", Some(1)),
            ("db", "u4@1.1.1.1", None),
            ("all", "all@1.1.1.1", Some(2)),
            ("q1\"q2", "a , b@1.1.1.1", Some(3)),
            ("ann", "ann@1.1.1.1", Some(4)),
            ("ann", "bob@1.1.1.1", None),
            ("ann", "replication@1.1.1.1", Some(5)),
        ],
    );
}

#[test]
fn replication_is_no_database() {
    check(
        "host all a all trust\nhost replication a,b all trust\nhost db,replication c all trust",
        &[
            ("log of db", "a@1.1.1.1", Some(2)),
            ("replication", "a@1.1.1.1", Some(1)),
            ("replication", "b@1.1.1.1", None),
            ("db", "c@1.1.1.1", Some(3)),
            ("log of x", "c@1.1.1.1", Some(3)),
        ],
    );
}

#[test]
fn methods_are_pgbouncers() {
    let map = |name: &str| Maps::read("m system user\nn system all").0.find(name).cloned();
    let ldap = |text: &str| Method::Ldap(Some(Arc::new(ldap::Options::read(text).unwrap())));
    for (text, method) in [
        ("trust", Method::Trust),
        ("reject", Method::Reject),
        ("md5", Method::Md5),
        ("password", Method::Password),
        ("scram-sha-256", Method::ScramSha256),
        ("peer", Method::Peer(None)),
        ("peer map=m", Method::Peer(map("m"))),
        ("cert", Method::Cert(None)),
        ("cert map=n # x", Method::Cert(map("n"))),
        ("ldap ldapserver=a \"ldapprefix\"=\"uid=\"", ldap("ldapserver=a ldapprefix=uid=")),
    ] {
        let rules = good(&format!("local all all {text}"));
        assert_eq!(rules.0[0].method, method, "{text}");
    }
}

#[test]
fn a_bad_line_is_left_out_and_the_others_count() {
    for (text, what) in [
        ("remote all all trust", "unknown type"),
        ("\"local\" all all trust", "unknown type"),
        ("local all", "a name is missing"),
        ("local a, all trust", "did not find a method"),
        ("local all \"all trust", "a name is missing"),
        ("local samerole all trust", "samerole is not supported"),
        ("local all +admins trust", "roles (+admins) are not supported"),
        ("local @names all trust", "/etc/names: no such file"),
        ("host all all trust", "failed to parse address - trust"),
        ("host all all localhost trust", "failed to parse address - localhost"),
        ("host all all 10.0.0.0 trust", "failed to parse mask: trust"),
        ("host all all 10.0.0.0 ffff:: trust", "failed to parse mask: ffff::"),
        ("host all all 10.0.0.0/33 trust", "invalid mask"),
        ("host all all 10.0.0.0/ trust", "invalid mask"),
        ("host all all \"10.0.0.0/8\" trust", "did not find address"),
        ("local all all", "did not find a method"),
        ("local all all gss", "unsupported method: gss"),
        ("local all all \"trust\"", "did not find a method"),
        ("local all all trust me", "Ident map me is malformed. It is not in map=value format."),
        ("local all all peer map=x", "Ident map x is not found in ident config file"),
        ("local all all peer map=m x", "unsupported parameters"),
    ] {
        let (rules, findings) = read(&format!("{text}\nlocal all all md5"));
        assert_eq!(rules.0.len(), 1, "{text}");
        let expected = Finding { line: 1, what: what.to_owned(), fate: Fate::LeftOut };
        assert_eq!(findings, [expected], "{text}");
    }
}

#[test]
fn an_address_beyond_its_mask_matches_nobody() {
    let (rules, findings) = read("hostssl all all 192.168.1.1/0 md5");
    assert_eq!(line_for(&rules, "d", "u@192.168.1.1+"), None);
    assert_eq!((findings.len(), findings[0].fate), (1, Fate::Counts));
}

#[test]
fn wrong_ldap_options_leave_the_rule_in_place() {
    let (rules, findings) = read("local all all ldap ldapserver=a\nlocal all all trust");
    assert_eq!(line_for(&rules, "d", "u@"), Some(1));
    assert_eq!(rules.0[0].method, Method::Ldap(None));
    assert_eq!((findings.len(), findings[0].fate), (1, Fate::Counts));
}

#[test]
fn names_may_stand_in_files() {
    let files = |path: &Path| match path.to_str() {
        Some("/etc/names") => Ok("ann, bob\n# more\n\n@sub/more\n".to_owned()),
        Some("/etc/sub/more") => Ok("\"carl\"".to_owned()),
        Some("/etc/circle") => Ok("@circle".to_owned()),
        Some("/etc/bad") => Ok("ann bob".to_owned()),
        _ => Err("no such file".to_owned()),
    };
    let maps = Maps::default();
    let context = Context { file: Path::new("/etc/hba.conf"), maps: &maps, text: &files };
    let (rules, findings) = Rules::read("local all dora,@names trust", &context);
    assert_eq!(findings, []);
    for (user, line) in
        [("ann", Some(1)), ("bob", Some(1)), ("carl", Some(1)), ("dora", Some(1)), ("eve", None)]
    {
        assert_eq!(line_for(&rules, "d", &format!("{user}@")), line, "{user}");
    }
    for name in ["circle", "bad", "none"] {
        let (rules, findings) = Rules::read(&format!("local all @{name} trust"), &context);
        assert_eq!((rules.0.len(), findings.len()), (0, 1), "{name}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*", rest in "\\PC*") {
        let _ = read(&text);
        let _ = read(&format!("host {rest}"));
        let _ = read(&format!("host all all {rest}"));
    }

    #[test]
    fn a_network_has_its_own_addresses(address: u32, bits in 0_u32..=32) {
        let address = Ipv4Addr::from(address);
        let mask = mask_of(address.into(), &bits.to_string()).unwrap();
        let IpAddr::V4(mask) = mask else { unreachable!() };
        let base = Ipv4Addr::from(u32::from(address) & u32::from(mask));
        let rules = good(&format!("host all all {base}/{bits} trust"));
        prop_assert_eq!(line_for(&rules, "d", &format!("u@{address}")), Some(1));
    }
}
