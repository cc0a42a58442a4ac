//! SCRAM against RFC 7677's vector, against postgres_protocol's client, and against itself.

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::super::{Derivation, Stored, stored::Verifier};
use super::message::{ClientFinal, ClientFirst, ServerFinal, ServerFirst};
use super::*;

const ITERATIONS: NonZeroU32 = NonZeroU32::new(16).expect("not zero");

/// RFC 7677 section 3.
mod vector {
    pub const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    pub const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    pub const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    pub const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    pub const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    pub const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
}

fn vector_keys() -> Keys {
    let salt = BASE64_STANDARD.decode(vector::SALT).unwrap();
    Derivation::new(b"pencil", &salt, NonZeroU32::new(4096).unwrap()).run()
}

#[test]
fn the_server_plays_the_vector_of_rfc_7677() {
    let salt = BASE64_STANDARD.decode(vector::SALT).unwrap();
    let (exchange, server_first) = ServerExchange::begin(
        vector::CLIENT_FIRST.as_bytes(),
        &salt,
        NonZeroU32::new(4096).unwrap(),
        vector::SERVER_NONCE,
    )
    .unwrap();
    assert_eq!(server_first, vector::SERVER_FIRST);

    let keys = vector_keys();
    let proof = exchange.receive(vector::CLIENT_FINAL.as_bytes()).unwrap();
    let (recovered, server_final) = proof.verify(&keys.stored_key(), &keys.server_key).unwrap();
    assert_eq!(server_final, vector::SERVER_FINAL);
    assert_eq!(recovered.client_key, keys.client_key, "the proof reveals the client's key");
}

#[test]
fn the_client_plays_the_vector_of_rfc_7677() {
    // The vector names the user in the first message, as PostgreSQL's clients do not: set it in by hand.
    let first = ServerFirst::parse(vector::SERVER_FIRST.as_bytes()).unwrap();
    let without_proof = format!("c=biws,r={}", first.nonce);
    let bare = vector::CLIENT_FIRST.strip_prefix("n,,").unwrap();
    let proving = ClientProving {
        salt: first.salt,
        iterations: first.iterations,
        auth_message: format!("{bare},{},{without_proof}", first.text),
        without_proof,
    };
    let (verifying, client_final) = proving.prove(&vector_keys());
    assert_eq!(client_final, vector::CLIENT_FINAL);
    assert_eq!(verifying.receive(vector::SERVER_FINAL.as_bytes()), Ok(()));
}

/// Lets postgres_protocol's client log in with `typed` to the server side here, which holds `stored`.
fn login(typed: &[u8], stored: &[u8], binding: ChannelBinding) -> Result<Keys, ScramError> {
    let derivation = Derivation::new(stored, b"0123456789abcdef", ITERATIONS);
    let verifier = Verifier::of(&derivation, &derivation.run());
    let mut client = ScramSha256::new(typed, binding);
    let (exchange, server_first) =
        ServerExchange::begin(client.message(), &verifier.salt, ITERATIONS, "servernonce")?;
    client.update(server_first.as_bytes()).unwrap();
    let proof = exchange.receive(client.message())?;
    let (keys, server_final) = proof.verify(&verifier.stored_key, &verifier.server_key)?;
    client.finish(server_final.as_bytes()).unwrap();
    assert!(verifier.matches(&keys), "keys passed on are those of the verifier");
    Ok(keys)
}

#[test]
fn postgres_protocols_client_logs_in() {
    for binding in [ChannelBinding::unsupported(), ChannelBinding::unrequested()] {
        assert!(login(b"pencil", b"pencil", binding).is_ok());
    }
    assert!(
        login("I\u{ad}X".as_bytes(), b"IX", ChannelBinding::unsupported()).is_ok(),
        "both sides normalize"
    );
    assert!(login(b"\xff", b"\xff", ChannelBinding::unsupported()).is_ok(), "bytes that are no text");
}

#[test]
fn a_wrong_password_is_refused() {
    assert_eq!(login(b"pencil", b"pen", ChannelBinding::unsupported()).err(), Some(ScramError::Proof));
}

#[test]
fn channel_binding_is_refused() {
    let binding = ChannelBinding::tls_server_end_point(vec![1, 2, 3]);
    assert_eq!(login(b"pencil", b"pencil", binding).err(), Some(ScramError::ChannelBindingRequired));
}

/// A whole exchange between our own two sides; the client has the keys only.
#[test]
fn keys_recovered_from_a_login_log_in_to_a_server() {
    let keys = login(b"pencil", b"pencil", ChannelBinding::unsupported()).unwrap();
    let verifier_text = {
        let derivation = Derivation::new(b"pencil", b"0123456789abcdef", ITERATIONS);
        let verifier = Verifier::of(&derivation, &derivation.run());
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            verifier.iterations,
            BASE64_STANDARD.encode(&verifier.salt),
            BASE64_STANDARD.encode(*verifier.stored_key),
            BASE64_STANDARD.encode(*verifier.server_key),
        )
    };
    let Ok(Stored::Scram(verifier)) = Stored::parse(&verifier_text) else { panic!("a verifier") };

    let (client, client_first) = ClientStart::new(nonce([7; NONCE_BYTES]));
    let (server, server_first) =
        ServerExchange::begin(client_first.as_bytes(), &verifier.salt, verifier.iterations, "abc").unwrap();
    let (client, client_final) = client.receive(server_first.as_bytes()).unwrap().prove(&keys);
    let proof = server.receive(client_final.as_bytes()).unwrap();
    let (_, server_final) = proof.verify(&verifier.stored_key, &verifier.server_key).unwrap();
    assert_eq!(client.receive(server_final.as_bytes()), Ok(()));
}

#[test]
fn client_first_messages() {
    use ScramError::{ChannelBindingRequired, Malformed};
    let long = format!("n,,n=,r={}", "a".repeat(MESSAGE_BYTES_MAX));
    for (name, message, nonce) in [
        ("libpq's", &b"n,,n=,r=abc"[..], Ok("abc")),
        ("binding not offered", b"y,,n=,r=abc", Ok("abc")),
        ("named user", b"n,,n=joe,r=a!b", Ok("a!b")),
        ("extensions", b"n,,n=,r=abc,x=1,y=2", Ok("abc")),
        ("required binding", b"p=tls-server-end-point,,n=,r=abc", Err(ChannelBindingRequired)),
        ("authzid", b"n,a=joe,n=,r=abc", Err(Malformed("authorization identity not supported"))),
        ("mandatory extension", b"n,,m=x,n=,r=abc", Err(Malformed("another attribute was expected"))),
        ("no nonce", b"n,,n=", Err(Malformed("another attribute was expected"))),
        ("empty nonce", b"n,,n=,r=", Err(Malformed("the nonce is empty or not printable"))),
        ("control character", b"n,,n=,r=a\x01", Err(Malformed("the nonce is empty or not printable"))),
        ("not UTF-8", b"n,,n=\xff,r=abc", Err(Malformed("not UTF-8"))),
        ("zero byte", b"n,,n=,r=abc\0", Err(Malformed("a zero byte"))),
        ("empty", b"", Err(Malformed("no channel binding flag"))),
        ("garbage", b"x,,n=,r=abc", Err(Malformed("unknown channel binding flag"))),
        ("trailing comma", b"n,,n=,r=abc,", Err(Malformed("an attribute is a letter and an equals sign"))),
        ("too long", long.as_bytes(), Err(Malformed("too long"))),
    ] {
        assert_eq!(ClientFirst::parse(message).map(|first| first.nonce), nonce, "{name}");
    }
}

#[test]
fn a_final_message_must_belong_to_its_exchange() {
    let keys = vector_keys();
    let final_message = |text: &str| {
        let (exchange, _) = ServerExchange::begin(b"n,,n=,r=abc", b"salt", ITERATIONS, "def").unwrap();
        exchange.receive(text.as_bytes()).and_then(|proof| proof.verify(&keys.stored_key(), &keys.server_key))
    };
    let proof = BASE64_STANDARD.encode([0; 32]);
    for (name, message, error) in [
        ("another nonce", format!("c=biws,r=abcdeg,p={proof}"), ScramError::Nonce),
        ("the client's nonce only", format!("c=biws,r=abc,p={proof}"), ScramError::Nonce),
        ("another binding", format!("c=eSws,r=abcdef,p={proof}"), ScramError::ChannelBindingMismatch),
        ("a wrong proof", format!("c=biws,r=abcdef,p={proof}"), ScramError::Proof),
        (
            "a short proof",
            "c=biws,r=abcdef,p=AAAA".into(),
            ScramError::Malformed("the proof is not 32 bytes in base64"),
        ),
        ("no proof", "c=biws,r=abcdef".into(), ScramError::Malformed("no proof")),
        (
            "proof not last",
            format!("c=biws,r=abcdef,p={proof},x=1"),
            ScramError::Malformed("the proof is not 32 bytes in base64"),
        ),
        ("empty", String::new(), ScramError::Malformed("no proof")),
    ] {
        assert_eq!(final_message(&message).err(), Some(error), "{name}");
    }
}

#[test]
fn a_false_server_is_found_out() {
    let start = || ClientStart::new("abc".into()).0;
    for (name, message, error) in [
        ("another nonce", "r=xyz,s=QUFB,i=4096", ScramError::Nonce),
        ("our nonce sent back", "r=abc,s=QUFB,i=4096", ScramError::Nonce),
        ("no salt", "r=abcd,s=,i=4096", ScramError::Malformed("the salt is not base64")),
        (
            "no rounds",
            "r=abcd,s=QUFB,i=0",
            ScramError::Malformed("the iteration count is no positive number"),
        ),
        ("hours of work", "r=abcd,s=QUFB,i=4294967295", ScramError::Iterations),
    ] {
        assert_eq!(start().receive(message.as_bytes()).err(), Some(error), "{name}");
    }
    let keys = vector_keys();
    for (name, message, error) in [
        ("another signature", format!("v={}", BASE64_STANDARD.encode([0; 32])), ScramError::Signature),
        ("an error", "e=other-error".into(), ScramError::Refused),
        ("nothing", String::new(), ScramError::Malformed("an attribute is a letter and an equals sign")),
    ] {
        let (verifying, _) = start().receive(b"r=abcd,s=QUFB,i=1").unwrap().prove(&keys);
        assert_eq!(verifying.receive(message.as_bytes()), Err(error), "{name}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ClientFirst::parse(&bytes);
        let _ = ClientFinal::parse(&bytes);
        let _ = ServerFirst::parse(&bytes);
        let _ = ServerFinal::parse(&bytes);
    }

    #[test]
    fn nor_do_messages_nearly_right(
        message in "[nyp](=x)?,(a=b)?,?(m=x,)?n=[a-z]{0,3},r=[ -~]{0,9}(,[a-z]=[A-Za-z0-9+/=]{0,50}){0,4}",
    ) {
        let _ = ClientFirst::parse(message.as_bytes());
        let _ = ClientFinal::parse(message.as_bytes());
        let _ = ServerFirst::parse(message.as_bytes());
    }

    #[test]
    // Never only characters that normalize to nothing: postgres_protocol takes those for an empty password.
    fn any_password_logs_in_and_no_other(password in "x.{0,20}", other in "x.{0,20}") {
        prop_assert!(login(password.as_bytes(), password.as_bytes(), ChannelBinding::unsupported()).is_ok());
        let same = Derivation::new(password.as_bytes(), b"x", NonZeroU32::MIN).run().stored_key()
            == Derivation::new(other.as_bytes(), b"x", NonZeroU32::MIN).run().stored_key();
        prop_assert_eq!(login(other.as_bytes(), password.as_bytes(), ChannelBinding::unsupported()).is_ok(), same);
    }
}
