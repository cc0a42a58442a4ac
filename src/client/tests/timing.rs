//! `client_login_timeout`, under a clock that jumps ahead whenever nothing else happens.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::fixture::*;
use crate::client::Line;
use crate::client::refusal::Refusal;
use crate::config::AuthType;

/// How long a client that sends `bytes` and falls silent is borne with, and what it hears.
async fn borne(bytes: &[u8], timeout: Duration) -> (Duration, Option<String>, Refusal) {
    let mut config = config(AuthType::Plain);
    config.settings.client_login_timeout = timeout;
    let lobby = lobby(config);
    let began = Instant::now();
    let ((error, heard), outcome) = play(&lobby, async |mut client| {
        client.send(bytes).await;
        let error = client.error().await;
        (error, began.elapsed())
    })
    .await;
    assert_eq!(lobby.census.clients(), 0);
    (heard, error.map(|report| report.message), refusal(outcome))
}

#[tokio::test(start_paused = true)]
async fn a_login_ends_in_time_wherever_it_stands_still() {
    let startup = &b"\0\0\0\x1f\0\x03\0\0user\0plain\0database\0d\0\0"[..];
    let half_password = [startup, b"p\0\0\0\x0bsec"].concat();
    for (name, bytes) in [
        ("nothing", &b""[..]),
        ("half a length", b"\0\0"),
        ("half a startup message", &startup[..12]),
        ("no password", startup),
        ("half a password", &half_password),
    ] {
        let (heard, message, refusal) = borne(bytes, Duration::from_secs(60)).await;
        assert_eq!(message.as_deref(), Some("client_login_timeout"), "{name}");
        assert_eq!(refusal, Refusal::LoginTimeout, "{name}");
        assert!((60..62).contains(&heard.as_secs()), "{name}: {heard:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_a_login_may_take_its_time() {
    let mut config = config(AuthType::Plain);
    config.settings.client_login_timeout = Duration::ZERO;
    let lobby = lobby(config);
    let (seen, outcome) = play(&lobby, async |client| {
        tokio::time::sleep(Duration::from_secs(100_000)).await;
        client.log_in(&[("user", "plain"), ("database", "d")], PASSWORD).await
    })
    .await;
    assert_eq!(seen.asked, ["cleartext", "ok"]);
    assert!(outcome.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_limit_is_for_the_whole_login_not_for_each_message() {
    let mut config = config(AuthType::Plain);
    config.settings.client_login_timeout = Duration::from_secs(60);
    let lobby = lobby(config);
    let (error, _) = play(&lobby, async |mut client| {
        for byte in b"\0\0\0\x1f\0\x03\0\0user\0plain\0database\0d\0\0" {
            tokio::time::sleep(Duration::from_secs(5)).await;
            if tokio::io::AsyncWriteExt::write_all(&mut client.stream, &[*byte]).await.is_err() {
                break;
            }
        }
        client.error().await
    })
    .await;
    assert_eq!(error.map(|report| report.message).as_deref(), Some("client_login_timeout"));
}

#[tokio::test]
async fn what_a_flush_has_sent_before_it_was_given_up_is_not_sent_again() {
    let (near, far) = crate::net::Stream::pair().unwrap();
    let peer = near.peer_addr().unwrap();
    let mut line = Line::new(near, BytesMut::new(), peer);
    // More than a socket takes while nobody reads.
    let said: Vec<u8> = (0..4 << 20).map(|at: u32| (at % 251) as u8).collect();
    line.output().extend_from_slice(&said);
    let given_up = tokio::time::timeout(Duration::ZERO, line.flush()).await;
    assert!(given_up.is_err());
    let (mut heard, mut far) = (Vec::new(), Client::new(far).stream);
    let flush = async move { line.flush().await.unwrap() };
    let ((), heard_to_the_end) =
        tokio::join!(flush, tokio::io::AsyncReadExt::read_to_end(&mut far, &mut heard));
    heard_to_the_end.unwrap();
    assert!(heard == said);
}
