//! Secrets that come from `auth_query`.

use super::fixture::*;
use crate::client::login::Lobby;
use crate::client::secrets::AuthQueryError;
use crate::config::{AuthType, Compatibility, Config, Database, Secret};
use crate::wire::{Report, SqlState};

const ASKING: [(&str, &str); 2] = [("user", "remote"), ("database", "asking")];

fn asking(auth_type: AuthType, secret: &str) -> Lobby<Fake> {
    let lobby = lobby(config(auth_type));
    store(&lobby, secret);
    lobby
}

fn store(lobby: &Lobby<Fake>, secret: &str) {
    lobby.house.found.borrow_mut().insert("remote".into(), Some(Secret::new(secret)));
}

fn asked(lobby: &Lobby<Fake>) -> usize {
    lobby.house.asked.borrow().len()
}

#[tokio::test]
async fn the_query_runs_as_auth_user_on_the_right_database() {
    let with = |change: fn(&mut Config)| {
        let mut config = config(AuthType::Plain);
        change(&mut config);
        lobby(config)
    };
    let by_entry = |config: &mut Config| {
        let entry = config.databases.get_mut("asking").unwrap();
        entry.auth_dbname = Some("d".into());
        entry.auth_query = Some("select".into());
    };
    for (name, lobby, database, on, auth_user, sql) in [
        ("own database", with(|_| {}), "asking", "asking", "asker", None),
        ("entry's auth_dbname and auth_query", with(by_entry), "asking", "d", "asker", Some("select")),
        (
            "global auth_dbname",
            with(|it| it.settings.auth_dbname = Some("forced".into())),
            "asking",
            "forced",
            "asker",
            None,
        ),
        (
            "global auth_user",
            with(|it| it.settings.auth_user = Some("global".into())),
            "d",
            "d",
            "global",
            None,
        ),
        (
            "console",
            with(|it| {
                it.settings.auth_user = Some("global".into());
                it.settings.auth_dbname = Some("d".into());
            }),
            "pgbouncer",
            "d",
            "global",
            None,
        ),
    ] {
        store(&lobby, PASSWORD);
        let _ = log_in(&lobby, &[("user", "remote"), ("database", database)], PASSWORD).await;
        let asked = lobby.house.asked.borrow();
        let query = &asked[0];
        assert_eq!((query.database.as_str(), query.auth_user.as_str()), (on, auth_user), "{name}");
        assert_eq!(query.user.as_str(), "remote");
        assert_eq!(query.sql == "select", sql.is_some(), "{name}");
    }
}

#[tokio::test]
async fn users_of_the_file_and_databases_that_are_not_there_ask_nobody() {
    let lobby = asking(AuthType::Plain, PASSWORD);
    let (_, outcome) = log_in(&lobby, &[("user", "plain"), ("database", "asking")], PASSWORD).await;
    assert!(outcome.is_ok());
    let mut config = config(AuthType::Plain);
    config.settings.auth_user = Some("asker".into());
    let nowhere = super::fixture::lobby(config);
    let (seen, _) = log_in(&nowhere, &[("user", "remote"), ("database", "nowhere")], PASSWORD).await;
    assert_eq!(refused(&seen).map(|it| it.1), Some("password authentication failed"));
    assert_eq!(asked(&lobby) + asked(&nowhere), 0);
}

#[tokio::test]
async fn what_was_found_lets_users_in_and_is_remembered() {
    for auth_type in [AuthType::Trust, AuthType::Plain, AuthType::Md5] {
        let lobby = asking(auth_type, PASSWORD);
        for _ in 0..3 {
            assert!(log_in(&lobby, &ASKING, PASSWORD).await.1.is_ok(), "{auth_type:?}");
        }
        assert_eq!(asked(&lobby), 1, "{auth_type:?}");
    }
}

/// Else the password of one entry's user would open another entry.
#[tokio::test]
async fn what_one_entrys_query_found_is_not_for_another_entry() {
    let mut config = config(AuthType::Plain);
    for (name, sql) in [("asking", "select a"), ("other", "select b")] {
        let entry = Database {
            auth_user: Some("asker".into()),
            auth_dbname: Some("d".into()),
            auth_query: Some(sql.into()),
            ..Database::default()
        };
        config.databases.insert(name.into(), entry);
    }
    let lobby = lobby(config);
    store(&lobby, PASSWORD);
    assert!(log_in(&lobby, &ASKING, PASSWORD).await.1.is_ok());
    store(&lobby, "another");
    let other = [("user", "remote"), ("database", "other")];
    assert!(log_in(&lobby, &other, PASSWORD).await.1.is_err());
    assert!(log_in(&lobby, &other, "another").await.1.is_ok());
    *lobby.house.failure.borrow_mut() =
        Some(AuthQueryError::Unavailable(Box::new(Report::fatal(SqlState::CONNECTION_FAILURE, "gone"))));
    assert!(log_in(&lobby, &ASKING, "another").await.1.is_err());
}

#[tokio::test]
async fn a_user_goes_on_under_the_name_that_the_query_gives() {
    for auth_type in [AuthType::Plain, AuthType::ScramSha256] {
        let lobby = asking(auth_type, PASSWORD);
        *lobby.house.name.borrow_mut() = Some("renamed".into());
        for _ in 0..2 {
            let (_, outcome) = log_in(&lobby, &ASKING, PASSWORD).await;
            let Ok(Entered::Client { user, .. }) = outcome else { panic!("{outcome:?}") };
            assert_eq!(user, "renamed");
        }
        assert!(log_in(&lobby, &ASKING, "wrong").await.1.is_err());
    }
    // The console lets in those whom it knows under that name, and not under what was typed.
    let mut config = config(AuthType::Plain);
    config.settings.auth_user = Some("asker".into());
    config.settings.auth_dbname = Some("d".into());
    config.settings.admin_users = vec!["remote".into()];
    let lobby = lobby(config);
    store(&lobby, PASSWORD);
    let console = [("user", "remote"), ("database", "pgbouncer")];
    assert!(log_in(&lobby, &console, PASSWORD).await.1.is_ok());
    *lobby.house.name.borrow_mut() = Some("renamed".into());
    lobby.secrets.clear();
    assert!(log_in(&lobby, &console, PASSWORD).await.1.is_err());
}

#[tokio::test]
async fn no_query_asks_for_a_database_that_cannot_be() {
    let mut config = config(AuthType::Plain);
    config.any_database = Some(Database { auth_user: Some("asker".into()), ..Database::default() });
    let lobby = lobby(config);
    store(&lobby, PASSWORD);
    for (length, asks) in [(63, 1), (64, 1)] {
        let name = "n".repeat(length);
        let _ = log_in(&lobby, &[("user", "remote"), ("database", &name)], PASSWORD).await;
        assert_eq!(asked(&lobby), asks, "{length}");
    }
}

#[tokio::test]
async fn a_verifier_is_asked_for_anew_and_its_keys_are_passed_on() {
    let lobby = asking(AuthType::Md5, &verifier(PASSWORD));
    let (seen, outcome) = log_in(&lobby, &ASKING, PASSWORD).await;
    assert_eq!(seen.asked, ["sasl", "ok"]);
    let Ok(Entered::Client { keys, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(keys);
    store(&lobby, &verifier("changed"));
    assert!(log_in(&lobby, &ASKING, "changed").await.1.is_ok(), "at the first try");
    assert_eq!(asked(&lobby), 2);
}

#[tokio::test]
async fn a_changed_password_is_good_at_the_first_try() {
    for auth_type in [AuthType::Plain, AuthType::Md5, AuthType::ScramSha256] {
        let lobby = asking(auth_type, "old");
        assert!(log_in(&lobby, &ASKING, "old").await.1.is_ok());
        store(&lobby, "new");
        assert!(log_in(&lobby, &ASKING, "new").await.1.is_ok(), "{auth_type:?}");
        assert!(log_in(&lobby, &ASKING, "old").await.1.is_err(), "{auth_type:?}");
    }
}

/// An expired password that is good again: the wrong kind of challenge cannot be taken back.
#[tokio::test]
async fn who_had_no_secret_is_asked_by_the_one_there_is_now() {
    let lobby = asking(AuthType::Md5, PASSWORD);
    for secret in [verifier(PASSWORD), PASSWORD.to_owned()] {
        lobby.house.found.borrow_mut().insert("remote".into(), None);
        assert!(log_in(&lobby, &ASKING, PASSWORD).await.1.is_err());
        store(&lobby, &secret);
        assert!(log_in(&lobby, &ASKING, PASSWORD).await.1.is_ok());
        lobby.secrets.clear();
    }
}

#[tokio::test]
async fn users_it_does_not_know_see_the_usual_exchange() {
    let lobby = lobby(config(AuthType::Plain));
    lobby.house.found.borrow_mut().insert("expired".into(), None);
    for user in ["nobody", "expired"] {
        let (seen, _) = log_in(&lobby, &[("user", user), ("database", "asking")], PASSWORD).await;
        assert_eq!(seen.asked, ["cleartext"]);
        assert_eq!(refused(&seen), Some(("28P01", "password authentication failed")));
    }
    let mut theirs = config(AuthType::Plain);
    theirs.settings.compatibility = Compatibility::PgBouncer;
    let (seen, _) = log_in(&super::fixture::lobby(theirs), &ASKING, PASSWORD).await;
    assert_eq!(refused(&seen), Some(("08P01", "no such user")));
}

#[tokio::test]
async fn a_query_that_fails_is_the_administrators_to_see() {
    let lobby = asking(AuthType::Md5, PASSWORD);
    *lobby.house.failure.borrow_mut() = Some(AuthQueryError::Failed("relation does not exist".into()));
    let (seen, _) = log_in(&lobby, &ASKING, PASSWORD).await;
    assert_eq!(refused(&seen), Some(("F0000", "bouncer config error")));
}

#[tokio::test]
async fn while_no_server_can_be_asked_the_last_answer_serves() {
    let lobby = asking(AuthType::Md5, &verifier(PASSWORD));
    let report = Report::fatal(SqlState::CANNOT_CONNECT_NOW, "the database system is starting up");
    let away = AuthQueryError::Unavailable(Box::new(report));
    *lobby.house.failure.borrow_mut() = Some(away.clone());
    let (seen, _) = log_in(&lobby, &ASKING, PASSWORD).await;
    assert_eq!(refused(&seen), Some(("57P03", "the database system is starting up")));
    *lobby.house.failure.borrow_mut() = None;
    assert!(log_in(&lobby, &ASKING, PASSWORD).await.1.is_ok());
    *lobby.house.failure.borrow_mut() = Some(away);
    assert!(log_in(&lobby, &ASKING, PASSWORD).await.1.is_ok());
    assert!(log_in(&lobby, &ASKING, "wrong").await.1.is_err());
}

#[tokio::test]
async fn mistakes_in_auth_dbname_are_config_errors() {
    for (auth_dbname, text) in [
        ("pgbouncer", "bouncer config error"),
        ("nowhere", "bouncer config error"),
        ("closed", "authentication database \"closed\" is disabled"),
        ("d", "authentication database \"d\" is disabled"),
    ] {
        let mut config = config(AuthType::Md5);
        config.settings.auth_dbname = Some(auth_dbname.into());
        let lobby = lobby(config);
        lobby.house.disabled.borrow_mut().insert("d".into());
        let (seen, _) = log_in(&lobby, &ASKING, PASSWORD).await;
        assert_eq!(refused(&seen).map(|it| it.1), Some(text), "{auth_dbname}");
        assert_eq!(asked(&lobby), 0);
    }
}
