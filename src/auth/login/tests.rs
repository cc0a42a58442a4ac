//! Logins of every method against every kind of secret.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::super::ProcessSecret;
use super::super::stored::Verifier;
use super::*;

const USER: &str = "joe";
const PASSWORD: &str = "secret";
const ROUNDS: NonZeroU32 = NonZeroU32::new(8).expect("not zero");

fn request(method: Method) -> Request {
    Request {
        user: USER.to_owned(),
        method,
        mock: MockKind::Md5,
        iterations: ROUNDS,
        drawn: Drawn {
            salt: ProcessSecret::new([1; 32]).salt_for(USER),
            md5_salt: [1, 2, 3, 4],
            nonce: [5; NONCE_BYTES],
        },
    }
}

fn plain() -> Secret {
    Secret::Known(Stored::parse(PASSWORD).unwrap())
}

fn md5() -> Secret {
    Secret::Known(Stored::Md5(Md5Hash::of(PASSWORD.as_bytes(), USER)))
}

fn scram_of(password: &str) -> Secret {
    let derivation = Derivation::new(password.as_bytes(), b"its own salt", ROUNDS);
    Secret::Known(Stored::Scram(Verifier::of(&derivation, &derivation.run())))
}

fn scram() -> Secret {
    scram_of(PASSWORD)
}

/// What a client saw, and how it ended.
struct Outcome {
    asked: Vec<&'static str>,
    result: Result<Authenticated, AuthError>,
}

/// A client that types `password` whatever it is asked, against `secrets` in the order they are asked for.
fn play(request: Request, mut secrets: Vec<(Secret, Origin)>, password: &str) -> Outcome {
    let mut asked = Vec::new();
    let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
    let mut step = Login::start(request);
    loop {
        step = match step {
            Step::NeedSecret(need) => {
                let (secret, origin) = secrets.remove(0);
                need.supply(secret, origin)
            }
            Step::Derive(derivation, deriving) => deriving.keys(&derivation.run()),
            Step::Consult(_, consulting) => {
                assert_eq!(consulting.user(), USER);
                let is_good = consulting.password().as_str() == PASSWORD;
                consulting.verdict(if is_good { Opinion::Good } else { Opinion::Bad })
            }
            Step::Send(challenge, waiting) => {
                let mut message = BytesMut::new();
                challenge.encode(&mut message);
                assert_eq!(message[0], b'R');
                let (name, body) = respond(&challenge, &mut client, password);
                asked.push(name);
                waiting.answer(&body)
            }
            Step::Done(authenticated) => {
                if let Some(message) = &authenticated.sasl_final {
                    client.finish(message.as_bytes()).unwrap();
                }
                return Outcome { asked, result: Ok(*authenticated) };
            }
            Step::Failed(error) => return Outcome { asked, result: Err(error) },
        }
    }
}

fn respond(challenge: &Challenge, client: &mut ScramSha256, password: &str) -> (&'static str, Vec<u8>) {
    match challenge {
        Challenge::Cleartext => ("cleartext", format!("{password}\0").into_bytes()),
        Challenge::Md5(salt) => {
            ("md5", format!("{}\0", md5_hash(USER.as_bytes(), password.as_bytes(), *salt)).into_bytes())
        }
        Challenge::Sasl => ("sasl", initial(MECHANISM, client.message())),
        Challenge::SaslContinue(message) => {
            client.update(message.as_bytes()).unwrap();
            ("continue", client.message().to_vec())
        }
    }
}

fn initial(mechanism: &str, message: &[u8]) -> Vec<u8> {
    let mut body = mechanism.as_bytes().to_vec();
    body.push(0);
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    body
}

fn certain(secret: Secret) -> Vec<(Secret, Origin)> {
    vec![(secret, Origin::Certain)]
}

#[test]
fn each_method_against_each_secret() {
    use Method::{Md5, Plain, Scram, Trust};
    let sasl = &["sasl", "continue"][..];
    let empty = || Secret::Known(Stored::parse("").unwrap());
    let wrong_type = Some(AuthError::Sasl(Reason::Md5Secret));
    let unknown = Some(AuthError::Password(Reason::NoSuchUser));
    let none = Some(AuthError::Password(Reason::NoPassword));
    for (name, method, secret, asked, error) in [
        ("trust", Trust, plain(), &[][..], None),
        ("trust without a password", Trust, Secret::Absent, &[], None),
        ("trust, unknown", Trust, Secret::Unknown, &[], Some(AuthError::Trust)),
        ("plain, plain", Plain, plain(), &["cleartext"], None),
        ("plain, md5", Plain, md5(), &["cleartext"], None),
        ("plain, scram", Plain, scram(), &["cleartext"], None),
        ("plain, empty", Plain, empty(), &["cleartext"], none),
        ("plain, absent", Plain, Secret::Absent, &["cleartext"], none),
        ("plain, unknown", Plain, Secret::Unknown, &["cleartext"], unknown),
        ("md5, plain", Md5, plain(), &["md5"], None),
        ("md5, md5", Md5, md5(), &["md5"], None),
        ("md5, scram", Md5, scram(), sasl, None),
        ("md5, absent", Md5, Secret::Absent, &["md5"], none),
        ("md5, unknown", Md5, Secret::Unknown, &["md5"], unknown),
        ("scram, plain", Scram, plain(), sasl, None),
        ("scram, md5", Scram, md5(), sasl, wrong_type),
        ("scram, scram", Scram, scram(), sasl, None),
        ("scram, absent", Scram, Secret::Absent, sasl, Some(AuthError::Sasl(Reason::NoPassword))),
        ("scram, unknown", Scram, Secret::Unknown, sasl, Some(AuthError::Sasl(Reason::NoSuchUser))),
    ] {
        let outcome = play(request(method), certain(secret), PASSWORD);
        assert_eq!(outcome.asked, asked, "{name}");
        assert_eq!(outcome.result.err(), error, "{name}");
    }
}

#[test]
fn a_wrong_password_never_gets_in() {
    for method in [Method::Plain, Method::Md5, Method::Scram] {
        for (secret, name) in [(plain(), "plain"), (md5(), "md5"), (scram(), "scram")] {
            let outcome = play(request(method.clone()), certain(secret), "wrong");
            let text = outcome.result.err().map(|error| error.to_string()).unwrap_or_default();
            let asked_by_sasl = outcome.asked.contains(&"sasl");
            let expected = if asked_by_sasl { "SASL" } else { "password" };
            assert_eq!(text, format!("{expected} authentication failed"), "{method:?} with a {name} secret");
        }
    }
}

#[test]
fn somebody_else_may_judge_and_the_pool_gets_the_password() {
    for (authority, refusal) in [(Authority::Ldap, AuthError::Ldap), (Authority::Pam, AuthError::Pam)] {
        let outcome = play(request(Method::Outside(authority)), Vec::new(), PASSWORD);
        assert_eq!(outcome.asked, ["cleartext"]);
        let credentials = outcome.result.unwrap().credentials;
        let secret = credentials.secret.unwrap();
        assert!(matches!(&*secret, Stored::Plain(password) if password.as_str() == PASSWORD));
        for (password, error) in [("wrong", refusal), ("", AuthError::EmptyPassword)] {
            let outcome = play(request(Method::Outside(authority)), Vec::new(), password);
            assert_eq!(outcome.result.err(), Some(error));
        }
    }
}

#[test]
fn a_mock_user_can_be_asked_as_one_with_a_verifier() {
    let request = Request { mock: MockKind::Scram, ..request(Method::Md5) };
    let outcome = play(request, certain(Secret::Unknown), PASSWORD);
    assert_eq!(outcome.asked, ["sasl", "continue"]);
    assert_eq!(outcome.result.err(), Some(AuthError::Sasl(Reason::NoSuchUser)));
}

/// The server-first-message for a user with this secret, its nonce left out.
fn salt_shown(secret: Secret) -> String {
    let Step::NeedSecret(need) = Login::start(request(Method::Scram)) else { panic!() };
    let Step::Send(_, waiting) = need.supply(secret, Origin::Certain) else { panic!() };
    let Step::Send(Challenge::SaslContinue(message), _) = waiting.answer(&initial(MECHANISM, b"n,,n=,r=abc"))
    else {
        panic!()
    };
    message.split_once(",s=").unwrap().1.to_owned()
}

#[test]
fn the_salt_of_a_user_stays_whether_or_not_it_exists() {
    let unknown = salt_shown(Secret::Unknown);
    assert_eq!(unknown, salt_shown(Secret::Unknown));
    assert_eq!(unknown, salt_shown(plain()));
    assert_eq!(unknown.len(), "MTIzNDU2Nzg5MDEyMzQ1Ng==,i=8".len(), "as long as PostgreSQL's");
    let secret = ProcessSecret::new([1; 32]);
    assert_ne!(secret.salt_for("joe"), secret.salt_for("jane"));
    assert_ne!(secret.salt_for("joe"), ProcessSecret::new([2; 32]).salt_for("joe"));
}

#[test]
fn keys_are_passed_on_only_where_there_is_a_verifier() {
    for (name, method, secret, keys) in [
        ("scram", Method::Scram, scram(), true),
        ("md5 upgraded", Method::Md5, scram(), true),
        ("clear text against a verifier", Method::Plain, scram(), true),
        ("scram against a password", Method::Scram, plain(), false),
        ("md5", Method::Md5, md5(), false),
        ("trust", Method::Trust, scram(), false),
    ] {
        let authenticated = play(request(method), certain(secret), PASSWORD).result.unwrap();
        assert_eq!(authenticated.credentials.keys.is_some(), keys, "{name}");
        assert!(authenticated.credentials.secret.is_some(), "{name}");
    }
}

#[test]
fn certificates_and_peers_log_in_as_whom_they_name() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (name, identities, secret, reason) in [
        ("its own", names(&["x", USER]), plain(), None),
        ("no password needed", names(&[USER]), Secret::Absent, None),
        ("another's", names(&["jane"]), plain(), Some(Reason::WrongIdentity)),
        ("none", names(&[]), plain(), Some(Reason::NoIdentity)),
        ("nobody", names(&[USER]), Secret::Unknown, Some(Reason::NoSuchUser)),
    ] {
        let cert = play(request(Method::Cert(identities.clone())), certain(secret.clone()), "");
        assert_eq!(cert.result.err(), reason.map(AuthError::Certificate), "{name}");
        let peer = play(request(Method::Peer(identities)), certain(secret), "");
        assert_eq!(peer.result.err(), reason.map(AuthError::Peer), "{name}");
    }
}

#[test]
fn any_and_reject_ask_nothing() {
    assert!(play(request(Method::Any), vec![], "").result.is_ok());
    assert_eq!(play(request(Method::Reject), vec![], "").result.err(), Some(AuthError::Rejected));
}

#[test]
fn a_remembered_secret_is_asked_for_again_before_anybody_is_refused() {
    let old = || Secret::Known(Stored::parse("old").unwrap());
    let again = |first: Secret, second: Secret| vec![(first, Origin::Remembered), (second, Origin::Certain)];
    for (name, method, secrets, error) in [
        ("clear text", Method::Plain, again(old(), plain()), None),
        ("clear text, now a verifier", Method::Plain, again(old(), scram()), None),
        ("md5", Method::Md5, again(old(), md5()), None),
        (
            "md5, now a verifier",
            Method::Md5,
            again(old(), scram()),
            Some(AuthError::Password(Reason::Changed)),
        ),
        ("scram by password", Method::Scram, again(old(), plain()), None),
        (
            "scram by verifier",
            Method::Scram,
            again(plain(), scram_of("newer")),
            None, // The remembered one is right: nobody asks again.
        ),
        (
            "role dropped",
            Method::Plain,
            again(old(), Secret::Unknown),
            Some(AuthError::Password(Reason::NoSuchUser)),
        ),
        ("still wrong", Method::Plain, again(old(), old()), Some(AuthError::Password(Reason::WrongPassword))),
    ] {
        assert_eq!(play(request(method), secrets, PASSWORD).result.err(), error, "{name}");
    }
}

#[test]
fn garbage_at_every_stage_is_refused() {
    let waiting = |method| {
        let Step::NeedSecret(need) = Login::start(request(method)) else { panic!() };
        let Step::Send(_, waiting) = need.supply(scram(), Origin::Certain) else { panic!() };
        waiting
    };
    let failure = |step| match step {
        Step::Failed(error) => error,
        _ => panic!("not refused"),
    };
    for (name, body, error) in [
        ("nothing", &b""[..], AuthError::Malformed),
        ("empty password", b"\0", AuthError::EmptyPassword),
        ("no terminator", b"secret", AuthError::Malformed),
        ("bytes after it", b"secret\0x\0", AuthError::Malformed),
    ] {
        assert_eq!(failure(waiting(Method::Plain).answer(body)), error, "{name}");
    }
    let mut lying = initial(MECHANISM, b"n,,n=,r=abc");
    lying.push(b'x');
    for (name, body, error) in [
        ("nothing", &b""[..], AuthError::Malformed),
        ("a password", b"secret\0", AuthError::Mechanism),
        ("PLUS", &initial("SCRAM-SHA-256-PLUS", b"x"), AuthError::Mechanism),
        ("no length", b"SCRAM-SHA-256\0", AuthError::Malformed),
        ("no message", b"SCRAM-SHA-256\0\xff\xff\xff\xff", AuthError::Malformed),
        ("wrong length", &lying, AuthError::Malformed),
    ] {
        assert_eq!(failure(waiting(Method::Scram).answer(body)), error, "{name}");
    }
    let Step::Send(_, last) = waiting(Method::Scram).answer(&initial(MECHANISM, b"n,,n=,r=abc")) else {
        panic!()
    };
    assert!(matches!(failure(last.answer(b"\xff\0garbage")), AuthError::Sasl(Reason::Scram(_))));
}

#[test]
fn the_reason_of_a_refusal_is_not_in_its_text() {
    for error in [AuthError::Password(Reason::NoSuchUser), AuthError::Sasl(Reason::NoSuchUser)] {
        assert!(!error.to_string().contains("user"), "{error}");
        assert_eq!(error.reason(), Some(Reason::NoSuchUser));
    }
}

proptest! {
    #[test]
    fn no_answer_makes_a_login_panic_or_succeed(
        answers in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..4),
        method in prop_oneof![
            Just(Method::Plain),
            Just(Method::Md5),
            Just(Method::Scram),
            Just(Method::Outside(Authority::Ldap)),
        ],
    ) {
        let mut step = Login::start(request(method));
        let mut answers = answers.into_iter();
        loop {
            step = match step {
                Step::NeedSecret(need) => need.supply(scram(), Origin::Certain),
                Step::Derive(derivation, deriving) => deriving.keys(&derivation.run()),
                Step::Consult(_, consulting) => consulting.verdict(Opinion::Bad),
                Step::Send(_, waiting) => match answers.next() {
                    Some(answer) => waiting.answer(&answer),
                    None => break,
                },
                Step::Done(_) => panic!("random bytes log in"),
                Step::Failed(_) => break,
            };
        }
    }
}
