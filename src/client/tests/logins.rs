//! Who gets in, who does not, and what each is told.

use bytes::BytesMut;

use super::fixture::*;
use crate::client::refusal::Refusal;
use crate::client::{Limit, Seat};
use crate::config::{AuthType, Compatibility, Config, Database, User};
use crate::net::Stream;

fn as_user<'a>(user: &'a str, database: &'a str) -> [(&'a str, &'a str); 2] {
    [("user", user), ("database", database)]
}

#[tokio::test]
async fn every_auth_type_lets_the_right_ones_in() {
    use AuthType::{Md5, Plain, ScramSha256, Trust};
    for (auth_type, user, asked) in [
        (Trust, "plain", &["ok"][..]),
        (Plain, "plain", &["cleartext", "ok"]),
        (Plain, "md5", &["cleartext", "ok"]),
        (Plain, "scram", &["cleartext", "ok"]),
        (Md5, "plain", &["md5", "ok"]),
        (Md5, "md5", &["md5", "ok"]),
        (Md5, "scram", &["sasl", "ok"]),
        (ScramSha256, "plain", &["sasl", "ok"]),
        (ScramSha256, "scram", &["sasl", "ok"]),
    ] {
        let lobby = lobby(config(auth_type));
        let (seen, outcome) = log_in(&lobby, &as_user(user, "d"), PASSWORD).await;
        assert_eq!(seen.asked, asked, "{auth_type:?} {user}");
        let Ok(Entered::Client { user: entered, destination, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(entered, user);
        assert!(destination.contains("\"d\"") && destination.contains(user), "{destination}");
    }
}

#[tokio::test]
async fn the_wrong_ones_are_told_nothing_but_that() {
    use AuthType::{Md5, Plain, ScramSha256, Trust};
    let password = ("28P01", "password authentication failed");
    let sasl = ("28P01", "SASL authentication failed");
    for (auth_type, user, database, asked, told) in [
        (Trust, "nobody", "d", &[][..], ("28000", "\"trust\" authentication failed")),
        (Plain, "plain", "d", &["cleartext"], password),
        (Plain, "nobody", "d", &["cleartext"], password),
        (Plain, "plain", "nowhere", &["cleartext"], password),
        (Md5, "plain", "d", &["md5"], password),
        (Md5, "nobody", "d", &["md5"], password),
        (Md5, "broken", "d", &["md5"], password),
        (Md5, "empty", "d", &["md5"], password),
        (Md5, "scram", "closed", &["sasl"], sasl),
        (ScramSha256, "scram", "d", &["sasl"], sasl),
        (ScramSha256, "md5", "d", &["sasl"], sasl),
        (ScramSha256, "nobody", "nowhere", &["sasl"], sasl),
    ] {
        let lobby = lobby(config(auth_type));
        let (seen, outcome) = log_in(&lobby, &as_user(user, database), "wrong").await;
        assert_eq!((seen.asked.as_slice(), refused(&seen)), (asked, Some(told)), "{auth_type:?} {user}");
        assert!(matches!(refusal(outcome), Refusal::Authentication(_)));
        assert_eq!(lobby.census.clients(), 0, "nobody is left behind");
    }
}

#[tokio::test]
async fn rules_decide_for_each_client_how_it_is_asked() {
    let me = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
    let (maps, _) = crate::config::ident::Maps::read(&format!("m {me} plain\nother somebody scram"));
    let rules = "local d plain peer map=m\nlocal forced plain password\nlocal d md5 md5\nlocal d scram peer map=other\n\
        local d owner reject\nlocal d empty ldap ldapserver=x\nlocal pgbouncer all trust\nhost all all all trust";
    let context = crate::config::hba::Context {
        file: std::path::Path::new("hba.conf"),
        maps: &maps,
        text: &|_| Err(String::new()),
    };
    let (rules, _) = crate::config::hba::Rules::read(rules, &context);
    let lobby = lobby(Config { access: Some(std::sync::Arc::new(rules)), ..config(AuthType::Hba) });
    for (user, database, asked, told) in [
        ("plain", "d", &["ok"][..], None),
        ("plain", "forced", &["cleartext", "ok"], None),
        ("md5", "d", &["md5", "ok"], None),
        ("admin", "pgbouncer", &["ok"], None),
        ("scram", "d", &[], Some("unix socket login rejected")),
        ("owner", "d", &[], Some("login rejected")),
        ("empty", "d", &["cleartext"], Some("LDAP authentication failed")),
        ("viewer", "d", &[], Some("no authentication method is found")),
    ] {
        let (seen, _) = log_in(&lobby, &as_user(user, database), PASSWORD).await;
        assert_eq!(seen.asked, asked, "{user} {database}");
        assert_eq!(refused(&seen).map(|(_, text)| text), told, "{user} {database}");
    }
}

#[tokio::test]
async fn ldap_without_options_is_a_mistake_of_the_settings() {
    let lobby = lobby(config(AuthType::Ldap));
    let (seen, _) = log_in(&lobby, &as_user("plain", "d"), PASSWORD).await;
    assert_eq!(refused(&seen), Some(("F0000", "auth_ldap_options is null")));
}

#[tokio::test]
async fn databases_are_spoken_of_after_authentication_only() {
    let lobby = lobby(config(AuthType::Md5));
    lobby.house.disabled.borrow_mut().insert("forced".into());
    let long = "d".repeat(64);
    for (database, sqlstate, text) in [
        ("nowhere", "3D000", "no such database: nowhere"),
        ("closed", "57P03", "database \"closed\" is disabled"),
        ("forced", "57P03", "database \"forced\" is disabled"),
    ] {
        let (seen, _) = log_in(&lobby, &as_user("plain", database), PASSWORD).await;
        assert_eq!(seen.asked, ["md5"]);
        assert_eq!(refused(&seen), Some((sqlstate, text)));
    }
    *lobby.house.shutting_down.borrow_mut() = true;
    let (seen, _) = log_in(&lobby, &as_user("plain", "d"), PASSWORD).await;
    assert_eq!(refused(&seen), Some(("57P03", "pooler is shutting down")));

    let wildcard = Config { any_database: Some(Database::default()), ..config(AuthType::Trust) };
    let lobby = super::fixture::lobby(wildcard);
    assert!(log_in(&lobby, &as_user("plain", "anything"), "").await.1.is_ok());
    let (seen, _) = log_in(&lobby, &as_user("plain", &long), "").await;
    assert_eq!(refused(&seen).map(|it| it.0), Some("3D000"), "no server has a name as long");
}

#[tokio::test]
async fn pgbouncers_way_has_one_sqlstate() {
    let mut config = config(AuthType::Md5);
    config.settings.compatibility = Compatibility::PgBouncer;
    let lobby = lobby(config);
    let (seen, _) = log_in(&lobby, &as_user("plain", "nowhere"), PASSWORD).await;
    assert_eq!(refused(&seen), Some(("08P01", "no such database: nowhere")));
    assert_eq!(seen.error.and_then(|report| report.hint), None);
}

#[tokio::test]
async fn a_user_who_does_not_exist_is_asked_as_most_are() {
    let mut config = config(AuthType::Md5);
    config.secrets.retain(|user, _| user.as_str() == "scram");
    let lobby = lobby(config);
    let (seen, _) = log_in(&lobby, &as_user("nobody", "d"), PASSWORD).await;
    assert_eq!(seen.asked, ["sasl"]);
}

#[tokio::test]
async fn pools_get_the_credentials_of_their_own_user() {
    for (auth_type, user, database, secret, keys) in [
        (AuthType::ScramSha256, "scram", "d", Some("Scram(…)"), true),
        (AuthType::ScramSha256, "plain", "d", Some("Plain(…)"), false),
        (AuthType::Md5, "md5", "d", Some("Md5(…)"), false),
        (AuthType::Trust, "scram", "d", Some("Scram(…)"), false),
        (AuthType::ScramSha256, "scram", "forced", Some("Plain(…)"), false),
        (AuthType::Any, "whoever", "forced", Some("Plain(…)"), false),
    ] {
        let lobby = lobby(config(auth_type));
        let (_, outcome) = log_in(&lobby, &as_user(user, database), PASSWORD).await;
        let Ok(Entered::Client { secret: passed, keys: passed_keys, destination, .. }) = outcome else {
            panic!("{user}: {outcome:?}")
        };
        assert_eq!((passed.as_deref(), passed_keys), (secret, keys), "{user} at {database}");
        assert_eq!(destination.contains("owner"), database == "forced", "{destination}");
    }
}

#[tokio::test]
async fn any_needs_a_forced_user() {
    let lobby = lobby(config(AuthType::Any));
    let (seen, _) = log_in(&lobby, &as_user("whoever", "d"), "").await;
    assert_eq!(refused(&seen), Some(("F0000", "bouncer config error")));
    let (_, outcome) = log_in(&lobby, &as_user("whoever", "forced"), "").await;
    let Ok(Entered::Client { user, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(user, "owner");
}

#[tokio::test]
async fn the_console_is_for_its_users() {
    let (admin, viewer) = ("Console(Admin)", "Console(Viewer)");
    for (name, auth_type, user, database, password, expected) in [
        ("admin", AuthType::Md5, "admin", "pgbouncer", PASSWORD, Ok(admin)),
        ("viewer", AuthType::ScramSha256, "viewer", "pgweir", PASSWORD, Ok(viewer)),
        ("another", AuthType::Md5, "plain", "pgbouncer", PASSWORD, Err("not allowed")),
        ("wrong password", AuthType::Md5, "admin", "pgweir", "wrong", Err("password authentication failed")),
        ("our own process", AuthType::ScramSha256, "pgbouncer", "pgbouncer", "", Ok(admin)),
        ("our own process", AuthType::ScramSha256, "pgweir", "pgbouncer", "", Ok(admin)),
        (
            "no trick elsewhere",
            AuthType::Md5,
            "pgbouncer",
            "d",
            PASSWORD,
            Err("password authentication failed"),
        ),
        ("any", AuthType::Any, "admin", "pgbouncer", "", Ok(admin)),
        ("any, another", AuthType::Any, "whoever", "pgbouncer", "", Err("not allowed")),
    ] {
        let (seen, outcome) = log_in(&lobby(config(auth_type)), &as_user(user, database), password).await;
        match expected {
            Ok(role) => {
                let Ok(Entered::Client { destination, .. }) = outcome else { panic!("{name}: {outcome:?}") };
                assert_eq!(destination, role, "{name}");
            }
            Err(text) => assert_eq!(refused(&seen).map(|it| it.1), Some(text), "{name}"),
        }
    }
}

#[tokio::test]
async fn limits_refuse_whoever_is_one_too_many() {
    let limited = |change: fn(&mut Config)| {
        let mut config = config(AuthType::Trust);
        change(&mut config);
        lobby(config)
    };
    let of_database = "client connections exceeded (max_db_client_connections)";
    let of_user = "client connections exceeded (max_user_client_connections)";
    for (name, lobby, user, database, text) in [
        (
            "all",
            limited(|it| it.settings.max_client_conn = 1),
            "plain",
            "d",
            Some("no more connections allowed (max_client_conn)"),
        ),
        ("all, console", limited(|it| it.settings.max_client_conn = 1), "admin", "pgbouncer", None),
        (
            "database",
            limited(|it| it.settings.max_db_client_connections = 1),
            "plain",
            "d",
            Some(of_database),
        ),
        (
            "another database",
            limited(|it| it.settings.max_db_client_connections = 1),
            "plain",
            "forced",
            None,
        ),
        (
            "console, admin",
            limited(|it| it.settings.max_db_client_connections = 1),
            "admin",
            "pgbouncer",
            None,
        ),
        (
            "console, viewer",
            limited(|it| it.settings.max_db_client_connections = 1),
            "viewer",
            "pgbouncer",
            Some(of_database),
        ),
        ("user", limited(|it| it.settings.max_user_client_connections = 1), "plain", "d", Some(of_user)),
        (
            "user's own limit",
            limited(|it| {
                let user = User { max_user_client_connections: Some(1), ..User::NONE };
                it.users.insert("plain".into(), user);
            }),
            "plain",
            "d",
            Some(of_user),
        ),
    ] {
        let mut taken: Seat = lobby.census.seat(Limit::None).unwrap();
        taken.enter_database(&"d".into(), Limit::None);
        let mut console = lobby.census.seat(Limit::None).unwrap();
        console.enter_database(&"pgbouncer".into(), Limit::None);
        taken.enter_user(&"plain".into(), Limit::None);
        let (seen, outcome) = log_in(&lobby, &as_user(user, database), "").await;
        assert_eq!(refused(&seen), text.map(|text| ("53300", text)), "{name}: {outcome:?}");
        drop((taken, console));
    }
}

#[tokio::test]
async fn a_seat_is_given_back_by_who_leaves() {
    let mut config = config(AuthType::Trust);
    config.settings.max_client_conn = 1;
    let lobby = lobby(config);
    for _ in 0..3 {
        let (_, outcome) = log_in(&lobby, &as_user("plain", "d"), "").await;
        assert!(outcome.is_ok());
        assert_eq!(lobby.census.clients(), 0);
    }
}

#[tokio::test]
async fn without_rules_nobody_gets_in() {
    let (seen, _) = log_in(&lobby(config(AuthType::Hba)), &as_user("plain", "d"), PASSWORD).await;
    assert_eq!(refused(&seen), Some(("28000", "no authentication method is found")));
}

/// Logs in by clear text; gives the NegotiateProtocolVersion messages seen on the way.
async fn negotiations(mut client: Client) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    while let Some(message) = client.receive().await {
        match message.tag {
            b'v' => seen.push(message.body),
            b'R' if message.body == [0, 0, 0, 3] => client.password(b"secret\0").await,
            b'Z' => break,
            _ => {}
        }
    }
    seen
}

#[tokio::test]
async fn a_newer_protocol_is_negotiated_once() {
    for (name, minor, options, told, spoken) in [
        ("3.0", 0, &[][..], None, 0),
        ("3.2", 2, &[], None, 2),
        ("3.9", 9, &[], Some((2, vec![])), 2),
        ("grease", 9999, &["_pq_.a", "_pq_.b"], Some((2, vec!["_pq_.a", "_pq_.b"])), 2),
        ("3.0 with options", 0, &["_pq_.a"], Some((0, vec!["_pq_.a"])), 0),
    ] {
        let mut parameters = as_user("plain", "d").to_vec();
        parameters.extend(options.iter().map(|option| (*option, "1")));
        let lobby = lobby(config(AuthType::Plain));
        let (negotiated, outcome) = play(&lobby, async |mut client| {
            client.startup_minor(minor, &parameters).await;
            negotiations(client).await
        })
        .await;
        let decoded: Vec<_> = negotiated
            .iter()
            .map(|body| match crate::wire::Backend::decode(b'v', body) {
                Ok(crate::wire::Backend::NegotiateProtocolVersion { minor, unknown }) => (minor, unknown),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(decoded, told.into_iter().collect::<Vec<_>>(), "{name}");
        let Ok(Entered::Client { minor, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(minor, spoken, "{name}");
    }
}

#[tokio::test]
async fn wanted_settings_reach_the_pool() {
    let parameters =
        [("user", "plain"), ("database", "d"), ("application_name", "psql"), ("options", "-c work_mem=1MB")];
    let (_, outcome) = log_in(&lobby(config(AuthType::Trust)), &parameters, "").await;
    let Ok(Entered::Client { parameters, .. }) = outcome else { panic!("{outcome:?}") };
    let expected = [("work_mem", "1MB"), ("application_name", "psql")];
    assert_eq!(parameters, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn bytes_after_the_login_are_kept_for_the_session() {
    let lobby = lobby(config(AuthType::Trust));
    let (near, far) = Stream::pair().unwrap();
    let mut client = Client::new(far);
    let mut packet = bytes::BytesMut::new();
    crate::wire::startup::encode_startup(&mut packet, 0, as_user("plain", "d"));
    crate::wire::encode::query(&mut packet, "select 1");
    client.send(&packet).await;
    let peer = near.peer_addr().unwrap();
    let admitted = lobby.admit(near, BytesMut::new(), peer).await;
    let Ok(crate::client::login::Admitted::Client(admitted)) = admitted else { panic!() };
    let key = crate::wire::CancelKey::new(1, &[0; 4]).unwrap();
    let welcome = crate::client::login::Welcome { parameters: &[], key: &key, notice: Some("hello") };
    let welcomed = admitted.welcome(&welcome).await.unwrap();
    assert_eq!(welcomed.input[0], b'Q');
    let tags: Vec<u8> = [client.receive().await, client.receive().await, client.receive().await]
        .into_iter()
        .chain([client.receive().await])
        .map(|message| message.unwrap().tag)
        .collect();
    assert_eq!(tags, b"RKNZ");
}
