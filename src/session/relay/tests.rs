//! The relay between a scripted client and a scripted server, both in memory.

use std::time::Instant;

use bytes::BytesMut;

use super::*;
use crate::session::params::Values;
use crate::session::pipe::SLICES_MAX;
use crate::session::residue::Residue;

mod errors;

/// A relay with its surroundings.
struct Bench {
    relay: Relay,
    spare: Spare,
    registry: Registry,
    stats: Cell,
    rules: Rules,
}

const TRANSACTION: Rules = Rules {
    mode: PoolMode::Transaction,
    prepared_max: 200,
    simple_queries: true,
    reset_query_always: false,
    compatibility: Compatibility::Postgres,
};

fn reported() -> std::sync::Arc<Values> {
    std::sync::Arc::new([("TimeZone", "UTC"), ("application_name", "")].into_iter().collect())
}

fn server() -> Box<Server> {
    Box::new(Server::new(reported()))
}

fn take(pipe: &mut Pipe) -> Vec<u8> {
    let mut slices = [std::io::IoSlice::new(&[]); SLICES_MAX];
    let used = pipe.slices(&mut slices);
    slices[..used].iter().flat_map(|it| it.to_vec()).collect()
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let parameters = Parameters { reported: reported(), extra: Default::default() };
        let relay = Relay::new(rules, parameters, Instant::now());
        let (spare, registry, stats) = (Spare::default(), Registry::default(), Cell::default());
        Self { relay, spare, registry, stats, rules }
    }

    fn with<T>(&mut self, event: impl FnOnce(&mut Relay, &mut Turn<'_>) -> T) -> T {
        let Self { relay, spare, registry, stats, .. } = self;
        event(relay, &mut Turn { now: Instant::now(), spare, registry, stats })
    }

    fn client(&mut self, bytes: &[u8]) {
        self.with(|relay, turn| {
            assert_eq!(relay.up.fill_from(bytes, turn.spare), bytes.len());
            relay.on_client_bytes(turn);
        });
    }

    fn server(&mut self, bytes: &[u8]) {
        self.with(|relay, turn| {
            assert_eq!(relay.down.fill_from(bytes, turn.spare), bytes.len());
            relay.on_server_bytes(turn);
        });
    }

    fn grant(&mut self, server: Box<Server>) {
        assert!(self.relay.wants_server());
        let rules = self.rules;
        self.with(|relay, turn| relay.on_granted(server, rules, turn));
    }

    /// All that goes to the server now.
    fn sent_to_server(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.relay.up.ready() > 0 {
            let part = take(&mut self.relay.up);
            self.with(|relay, turn| relay.on_sent_to_server(part.len(), turn));
            out.extend(part);
        }
        out
    }

    /// All that goes to the client now.
    fn sent_to_client(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.relay.down.ready() > 0 {
            let part = take(&mut self.relay.down);
            self.with(|relay, turn| relay.on_sent_to_client(part.len(), turn));
            out.extend(part);
        }
        out
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::message(&mut out, tag, |out| out.extend_from_slice(body));
    out.to_vec()
}

fn messages(list: &[(u8, &[u8])]) -> Vec<u8> {
    list.iter().flat_map(|(tag, body)| message(*tag, body)).collect()
}

fn tags(mut bytes: &[u8]) -> String {
    let mut tags = String::new();
    while let Ok(Some(header)) = crate::wire::Header::peek(bytes) {
        tags.push(header.tag as char);
        bytes = &bytes[header.total()..];
    }
    assert!(bytes.is_empty(), "a cut message remains");
    tags
}

const IDLE: (u8, &[u8]) = (b'Z', b"I");

#[test]
fn a_query_takes_a_server_and_gives_it_back() {
    let mut bench = Bench::new(TRANSACTION);
    let query = message(b'Q', b"select 1\0");
    bench.client(&query);
    bench.grant(server());
    assert_eq!(bench.sent_to_server(), query);
    let answer = messages(&[(b'T', b"\0\0"), (b'D', b"\0\0"), (b'C', b"SELECT 1\0"), IDLE]);
    bench.server(&answer);
    let (_, verdict) = bench.relay.take_released().expect("it is done with");
    assert!(matches!(verdict, Verdict::Reuse(_)));
    assert_eq!(bench.sent_to_client(), answer, "the answer is still whole after the release");
    assert!(!bench.relay.wants_server());
}

#[test]
fn a_message_of_a_server_too_long_to_be_read_is_refused_with_the_length_it_claims() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&message(b'Q', b"select 1\0"));
    bench.grant(server());
    bench.server(b"C\0\x20\0\0");
    let (_, verdict) = bench.relay.take_released().expect("it is closed");
    assert!(matches!(verdict, Verdict::Close(CloseReason::ProtocolViolation)), "{verdict:?}");
    let told = String::from_utf8_lossy(&bench.sent_to_client()).into_owned();
    assert!(told.contains("message 'C' says it has 2097152 bytes"), "{told}");
}

#[test]
fn messages_cut_anywhere_mean_the_same() {
    let sent = messages(&[
        (b'P', b"\0select $1\0\0\0"),
        (b'B', b"\0\0\0\0\0\0\0\0"),
        (b'E', b"\0\0\0\0\0"),
        (b'S', b""),
    ]);
    let answer = messages(&[(b'1', b""), (b'2', b""), (b'D', b"\0\0"), (b'C', b"SELECT 1\0"), IDLE]);
    for step in 1..sent.len() {
        let mut bench = Bench::new(TRANSACTION);
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        for part in sent.chunks(step) {
            bench.client(part);
            if bench.relay.wants_server() {
                bench.grant(server());
            }
            to_server.extend(bench.sent_to_server());
        }
        assert_eq!(to_server, sent, "step {step}");
        for part in answer.chunks(step) {
            assert!(bench.relay.take_released().is_none());
            bench.server(part);
            to_client.extend(bench.sent_to_client());
        }
        assert_eq!(to_client, answer, "step {step}");
        assert!(bench.relay.take_released().is_some(), "step {step}");
    }
}

#[test]
fn a_transaction_keeps_its_server() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&message(b'Q', b"begin\0"));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"BEGIN\0"), (b'Z', b"T")]));
    assert!(bench.relay.take_released().is_none());
    bench.client(&message(b'Q', b"commit\0"));
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"COMMIT\0"), IDLE]));
    assert!(bench.relay.take_released().is_some());
}

#[test]
fn a_pipeline_keeps_its_server_until_all_is_answered() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'Q', b"select 1\0"), (b'Q', b"select 2\0")]));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "QQ");
    bench.server(&messages(&[(b'C', b"SELECT 1\0"), IDLE]));
    assert!(bench.relay.take_released().is_none());
    bench.server(&messages(&[(b'C', b"SELECT 1\0"), IDLE]));
    assert!(bench.relay.take_released().is_some());
}

#[test]
fn a_batch_without_sync_keeps_its_server() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b"\0select 1\0\0\0"), (b'H', b"")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&message(b'1', b""));
    assert!(bench.relay.take_released().is_none());
    bench.client(&message(b'S', b""));
    bench.sent_to_server();
    bench.server(&message(b'Z', b"I"));
    assert!(bench.relay.take_released().is_some());
}

#[test]
fn a_named_statement_follows_its_client_to_another_server() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b"s\0select 1\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    let sent = bench.sent_to_server();
    assert!(sent.starts_with(b"P") && sent[5..].starts_with(b"PGWEIR_1\0select 1\0"));
    bench.server(&messages(&[(b'1', b""), IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "1Z");
    assert!(bench.relay.take_released().is_some());
    bench.client(&messages(&[(b'B', b"\0s\0\0\0\0\0\0\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "PBES");
    bench.server(&messages(&[(b'1', b""), (b'2', b""), (b'C', b"SELECT 1\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "2CZ", "the pooler's own Parse is nobody's business");
}

#[test]
fn preparing_again_is_answered_in_turn_and_not_after_an_error() {
    for (fails, expected) in [(false, "2C1Z"), (true, "EZ")] {
        let mut bench = Bench::new(TRANSACTION);
        bench.client(&messages(&[(b'P', b"a\0select 1\0\0\0"), (b'S', b"")]));
        bench.grant(server());
        bench.sent_to_server();
        bench.server(&messages(&[(b'1', b""), IDLE]));
        bench.sent_to_client();
        let (held, _) = bench.relay.take_released().expect("done");
        bench.client(&messages(&[
            (b'B', b"\0a\0\0\0\0\0\0\0"),
            (b'E', b"\0\0\0\0\0"),
            (b'P', b"b\0select 1\0\0\0"),
            (b'S', b""),
        ]));
        bench.grant(held);
        assert_eq!(tags(&bench.sent_to_server()), "BES");
        let answer: &[(u8, &[u8])] = if fails {
            &[(b'E', b"SERROR\0C22012\0Mdivision\0\0"), IDLE]
        } else {
            &[(b'2', b""), (b'C', b"SELECT 1\0"), IDLE]
        };
        bench.server(&messages(answer));
        assert_eq!(tags(&bench.sent_to_client()), expected);
        assert_eq!(bench.relay.names.find(b"b").is_some(), !fails);
    }
}

#[test]
fn a_changed_result_type_is_healed_where_nothing_was_executed() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b"a\0select 1\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), IDLE]));
    bench.sent_to_client();
    let (held, _) = bench.relay.take_released().expect("done");
    bench.client(&messages(&[
        (b'B', b"\0a\0\0\0\0\0\0\0"),
        (b'D', b"P\0"),
        (b'E', b"\0\0\0\0\0"),
        (b'S', b""),
    ]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "BDES");
    bench.server(&messages(&[(b'E', b"SERROR\0C0A000\0Mcached plan\0RRevalidateCachedQuery\0\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_server()), "CPBDES");
    bench.server(&messages(&[
        (b'3', b""),
        (b'1', b""),
        (b'2', b""),
        (b'n', b""),
        (b'C', b"SELECT 1\0"),
        IDLE,
    ]));
    assert_eq!(tags(&bench.sent_to_client()), "2nCZ");
    assert!(bench.relay.take_released().is_some());
}

#[test]
fn settings_follow_the_client_before_its_first_message() {
    let mut bench = Bench::new(TRANSACTION);
    bench.relay.parameters = Parameters::of_client(&reported(), [("application_name", "me")]);
    bench.client(&message(b'Q', b"select 1\0"));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "Q", "the client's query waits");
    bench.server(&messages(&[
        (b'T', b"\0\0"),
        (b'D', b"\0\0"),
        (b'C', b"SELECT 1\0"),
        (b'S', b"application_name\0me\0"),
        IDLE,
    ]));
    assert_eq!(tags(&bench.sent_to_server()), "Q");
    assert_eq!(tags(&bench.sent_to_client()), "", "that the server agrees is no news");
    bench.server(&messages(&[(b'C', b"SELECT 1\0"), IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    assert!(bench.relay.parameters.agrees_with(&held.parameters));
}

#[test]
fn what_a_client_leaves_behind_is_for_cleaning() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&message(b'Q', b"set statement_timeout = 1\0"));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"SET\0"), IDLE]));
    let (_, verdict) = bench.relay.take_released().expect("done");
    assert!(matches!(verdict, Verdict::Clean(..)), "{verdict:?}");
}

#[test]
fn the_server_of_a_client_that_is_gone_is_brought_to_rest() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'Q', b"begin\0"), (b'P', b"\0select 1\0\0\0")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.with(|relay, turn| relay.on_client_gone(turn));
    bench.server(&messages(&[(b'C', b"BEGIN\0"), (b'Z', b"T"), (b'1', b"")]));
    assert_eq!(tags(&bench.sent_to_server()), "S");
    bench.server(&message(b'Z', b"T"));
    assert_eq!(bench.sent_to_server(), message(b'Q', b"ROLLBACK\0"));
    bench.server(&messages(&[(b'C', b"ROLLBACK\0"), IDLE]));
    assert!(bench.relay.take_released().is_some());
    assert_eq!(bench.sent_to_client(), b"");
}

#[test]
fn a_cancelled_wait_is_answered_and_the_session_goes_on() {
    for (sent, next) in [
        (messages(&[(b'Q', b"select 1\0")]), "Q"),
        (messages(&[(b'P', b"\0select 1\0\0\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")]), "Q"),
    ] {
        let mut bench = Bench::new(TRANSACTION);
        bench.client(&sent);
        let report = Report::error(SqlState::QUERY_CANCELED, "canceling statement due to user request");
        bench.with(|relay, turn| relay.refuse(&report, turn));
        assert_eq!(tags(&bench.sent_to_client()), "EZ");
        bench.client(&message(b'Q', b"select 2\0"));
        bench.grant(server());
        assert_eq!(tags(&bench.sent_to_server()), next);
    }
}

#[test]
fn transaction_blocks_are_refused_in_statement_mode() {
    let mut bench = Bench::new(Rules { mode: PoolMode::Statement, ..TRANSACTION });
    bench.client(&message(b'Q', b"begin\0"));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"BEGIN\0"), (b'Z', b"T")]));
    assert_eq!(tags(&bench.sent_to_client()), "CE");
    let (_, verdict) = bench.relay.take_released().expect("taken off");
    assert!(matches!(verdict, Verdict::Close(CloseReason::TransactionBlock)));
}

#[test]
fn another_clients_unnamed_statement_is_never_bound() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'B', b"\0\0\0\0\0\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "CBS");
    bench.server(&messages(&[(b'3', b""), (b'E', b"SERROR\0C26000\0Mno\0\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "EZ");
}

#[test]
fn an_unnamed_statement_described_first_is_still_there_to_be_bound() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b"\0select 1\0\0\0"), (b'D', b"S\0"), (b'S', b"")]));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "PDS");
    bench.server(&messages(&[(b'1', b""), (b't', b"\0\0"), (b'n', b""), IDLE]));
    assert!(bench.relay.take_released().is_some());
    bench.sent_to_client();
    bench.client(&messages(&[(b'B', b"\0\0\0\0\0\0\0\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "PBES");
    bench.server(&messages(&[(b'1', b""), (b'2', b""), (b'C', b"SELECT 1\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "2CZ");
}

#[test]
fn an_unnamed_statement_closed_in_a_later_batch_is_not_brought_back() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b"\0select 1\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    bench.sent_to_client();
    bench.client(&messages(&[(b'C', b"S\0"), (b'D', b"S\0"), (b'S', b"")]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "CDS");
    bench.server(&messages(&[(b'3', b""), (b'E', b"SERROR\0C26000\0Mno\0\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "3EZ");
}

#[test]
fn copy_data_that_comes_too_late_is_ignored() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'Q', b"copy t from stdin\0"), (b'd', b"bad\n"), (b'c', b"")]));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "Qdc");
    bench.server(&messages(&[(b'G', b"\0\0\0"), (b'E', b"SERROR\0C22P02\0Mbad\0\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "GEZ");
    assert!(bench.relay.take_released().is_some());
    bench.client(&messages(&[(b'd', b"late"), (b'c', b"")]));
    assert!(!bench.relay.wants_server());
}

#[test]
fn the_poolers_own_answers_are_not_awaited_of_the_server_of_a_client_that_is_gone() {
    let mut bench = Bench::new(TRANSACTION);
    let parse = messages(&[(b'P', b"a\0select 1\0\0\0"), (b'S', b"")]);
    bench.client(&parse);
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), IDLE]));
    bench.sent_to_client();
    let (held, _) = bench.relay.take_released().expect("done");
    bench.client(&messages(&[
        (b'B', b"\0a\0\0\0\0\0\0\0"),
        (b'P', b"b\0select 1\0\0\0"),
        (b'E', b"\0\0\0\0\0"),
        (b'S', b""),
    ]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "BES");
    bench.with(|relay, turn| relay.on_client_gone(turn));
    bench.server(&messages(&[(b'2', b""), (b'C', b"SELECT 1\0"), IDLE]));
    let (_, verdict) = bench.relay.take_released().expect("it is at rest");
    assert!(matches!(verdict, Verdict::Reuse(_)), "{verdict:?}");
}

#[test]
fn a_reset_of_a_start_up_parameter_is_not_taken_for_its_value() {
    let mut bench = Bench::new(TRANSACTION);
    bench.relay.parameters = Parameters::of_client(&reported(), [("work_mem", "1MB")]);
    bench.client(&message(b'Q', b"reset work_mem\0"));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"SELECT 1\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_server()), "Q");
    bench.server(&messages(&[(b'C', b"RESET\0"), IDLE]));
    let (_, verdict) = bench.relay.take_released().expect("done");
    assert!(matches!(verdict, Verdict::Clean(_, Residue::SETTING)), "{verdict:?}");
}

#[test]
fn settings_are_set_again_only_where_the_server_listens() {
    let own: std::sync::Arc<Values> =
        std::sync::Arc::new([("TimeZone", "CET"), ("application_name", "")].into_iter().collect());
    let second: [&[(u8, &[u8])]; 2] =
        [&[(b'P', b"\0bad\0\0\0"), (b'H', b"")], &[(b'P', b"\0good\0\0\0"), (b'H', b"")]];
    for (batch, answer) in second.into_iter().zip([(b'E', &b"SERROR\0C42601\0Mno\0\0"[..]), (b'1', b"")]) {
        let mut bench = Bench::new(TRANSACTION);
        bench.relay.parameters.reported = own.clone();
        bench.relay.start = own.clone();
        let reset = [
            (b'P', &b"\0RESET TimeZone\0\0\0"[..]),
            (b'B', b"\0\0\0\0\0\0\0\0"),
            (b'E', b"\0\0\0\0\0"),
            (b'S', b""),
        ];
        bench.client(&[messages(&reset), messages(batch)].concat());
        bench.grant(Box::new(Server::new(own.clone())));
        assert_eq!(tags(&bench.sent_to_server()), "PBESPH");
        let zone = (b'S', &b"TimeZone\0UTC\0"[..]);
        bench.server(&messages(&[(b'1', b""), (b'2', b""), (b'C', b"RESET\0"), zone, IDLE, answer]));
        bench.client(&message(b'S', b""));
        assert_eq!(tags(&bench.sent_to_server()), "S", "its batch comes to its end first");
    }
}

#[test]
fn start_up_parameters_are_still_known_after_deallocate_all() {
    let mut bench = Bench::new(TRANSACTION);
    bench.relay.parameters = Parameters::of_client(&reported(), [("work_mem", "1MB")]);
    bench.client(&message(b'Q', b"deallocate all\0"));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"SELECT 1\0"), IDLE]));
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"DEALLOCATE ALL\0"), IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    assert_eq!(held.parameters.extra.value("work_mem"), Some("1MB"));
}

#[test]
fn a_server_is_asked_for_the_answers_that_it_holds_back_from_a_client_that_is_gone() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&message(b'P', b"\0select 1\0\0\0"));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "P");
    bench.with(|relay, turn| relay.on_client_gone(turn));
    assert_eq!(tags(&bench.sent_to_server()), "S");
    bench.server(&messages(&[(b'1', b""), IDLE]));
    assert!(bench.relay.take_released().is_some());
}

#[test]
fn a_copy_that_begins_after_its_client_is_gone_is_ended() {
    for (sent, ends) in
        [(messages(&[(b'Q', b"copy t from stdin\0")]), "f"), (messages(&[(b'E', b"\0\0\0\0\0")]), "SfS")]
    {
        let mut bench = Bench::new(TRANSACTION);
        bench.client(&sent);
        bench.grant(server());
        bench.sent_to_server();
        bench.with(|relay, turn| relay.on_client_gone(turn));
        let mut after = tags(&bench.sent_to_server());
        bench.server(&message(b'G', b"\0\0\0"));
        after += &tags(&bench.sent_to_server());
        assert_eq!(after, ends);
        bench.server(&messages(&[(b'E', b"SERROR\0C57014\0Mfailed\0\0"), IDLE]));
        if tags(&bench.sent_to_server()) == "SCS" {
            bench.server(&messages(&[IDLE, (b'3', b""), IDLE]));
        }
        assert!(bench.relay.take_released().is_some(), "{ends}");
    }
}

#[test]
fn names_are_not_used_while_a_deallocate_all_is_under_way() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b"s\0select 1\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), IDLE]));
    bench.sent_to_client();
    let (held, _) = bench.relay.take_released().expect("done");
    bench.client(&messages(&[
        (b'Q', b"begin\0"),
        (b'Q', b"deallocate all\0"),
        (b'P', b"s\0select 2\0\0\0"),
        (b'S', b""),
    ]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "QQ");
    bench.server(&messages(&[(b'C', b"BEGIN\0"), (b'Z', b"T"), (b'C', b"DEALLOCATE ALL\0"), (b'Z', b"T")]));
    assert_eq!(tags(&bench.sent_to_server()), "PS", "the name is free");
}

#[test]
fn a_servers_good_bye_is_not_for_a_client_that_has_done_with_it() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&message(b'Q', b"select 1\0"));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[
        (b'C', b"SELECT 1\0"),
        IDLE,
        (b'E', b"SFATAL\0C57P01\0Mterminating connection\0\0"),
    ]));
    assert_eq!(tags(&bench.sent_to_client()), "CZ");
    let (_, verdict) = bench.relay.take_released().expect("done");
    assert!(matches!(verdict, Verdict::Close(CloseReason::ServerGone)), "{verdict:?}");
    assert!(bench.relay.closing().is_none());
}

#[test]
fn an_answer_does_not_land_in_the_middle_of_a_message() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b"a\0select 1\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), IDLE]));
    bench.sent_to_client();
    let (held, _) = bench.relay.take_released().expect("done");
    bench.client(&messages(&[(b'D', b"Sa\0"), (b'P', b"b\0select 1\0\0\0"), (b'S', b"")]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "DS");
    let answer = messages(&[(b't', b"\0\0"), (b'T', b"\0\x01column\0............")]);
    bench.server(&answer[..answer.len() - 3]);
    let mut got = bench.sent_to_client();
    bench.server(&answer[answer.len() - 3..]);
    bench.server(&message(b'Z', b"I"));
    got.extend(bench.sent_to_client());
    assert_eq!(tags(&got), "tT1Z");
}

#[test]
fn a_name_that_is_taken_is_refused_by_the_server_under_the_clients_name() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b"s\0select 1\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), IDLE]));
    bench.sent_to_client();
    let (held, _) = bench.relay.take_released().expect("done");
    bench.client(&messages(&[(b'P', b"s\0select 2\0\0\0"), (b'S', b"")]));
    bench.grant(held);
    let sent = bench.sent_to_server();
    assert!(memchr::memmem::find(&sent, b"PGWEIR_0\0select 2\0").is_some(), "{}", sent.escape_ascii());
    let taken = b"SERROR\0C42P05\0Mstatement \"PGWEIR_0\" already exists\0\0";
    bench.server(&messages(&[(b'3', b""), (b'1', b""), (b'E', taken), IDLE]));
    let answer = bench.sent_to_client();
    assert!(memchr::memmem::find(&answer, b"\"s\" already exists").is_some(), "{}", answer.escape_ascii());
    let (_, verdict) = bench.relay.take_released().expect("done");
    assert!(matches!(verdict, Verdict::Reuse(_)), "{verdict:?}");
}

#[test]
fn a_result_type_that_changed_within_a_transaction_is_cured_after_it() {
    let mut bench = Bench::new(TRANSACTION);
    let batch = messages(&[(b'B', b"\0a\0\0\0\0\0\0\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")]);
    bench.client(&messages(&[(b'P', b"a\0select 1\0\0\0"), (b'S', b""), (b'Q', b"begin\0")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), IDLE, (b'C', b"BEGIN\0"), (b'Z', b"T")]));
    bench.client(&batch);
    assert_eq!(tags(&bench.sent_to_server()), "BES");
    let stale = b"SERROR\0C0A000\0Mcached plan\0RRevalidateCachedQuery\0\0";
    bench.server(&messages(&[(b'E', stale), (b'Z', b"E")]));
    bench.client(&message(b'Q', b"rollback\0"));
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"ROLLBACK\0"), IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    bench.client(&batch);
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "CPBES");
}

#[test]
fn an_unnamed_statement_that_was_skipped_is_not_bound() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b"a\0savepoint s\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    // All by named statements, so that the server keeps another client's unnamed one.
    bench.client(&messages(&[
        (b'B', b"p\0a\0\0\0\0\0\0\0"),
        (b'P', b"\0select 1\0\0\0"),
        (b'S', b""),
        (b'B', b"\0\0\0\0\0\0\0\0"),
    ]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "BPS", "whether it is the client's own is not known yet");
    bench.server(&messages(&[(b'E', b"SERROR\0C25P02\0Maborted\0\0"), (b'Z', b"E")]));
    assert_eq!(tags(&bench.sent_to_server()), "CB");
}

#[test]
fn an_unnamed_statement_of_a_later_batch_outlives_the_error_of_an_earlier_one() {
    let mut bench = Bench::new(TRANSACTION);
    let bad = messages(&[(b'P', b"\0bad\0\0\0"), (b'S', b"")]);
    let good = messages(&[(b'P', b"\0select 1\0\0\0"), (b'B', b"\0\0\0\0\0\0\0\0")]);
    bench.client(&[&bad[..], &good[..18]].concat());
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'E', b"SERROR\0C42601\0Msyntax\0\0"), IDLE]));
    bench.client(&good[18..]);
    assert_eq!(tags(&bench.sent_to_server()), "B");
}

#[test]
fn the_error_of_a_query_skips_no_unnamed_statement() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'Q', b"bad\0"), (b'P', b"\0select 1\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'E', b"SERROR\0C42601\0Msyntax\0\0"), IDLE, (b'1', b""), IDLE]));
    assert!(bench.relay.take_released().is_some());
    bench.client(&messages(&[(b'B', b"\0\0\0\0\0\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "PBS");
}

#[test]
fn pgbouncers_way_closes_for_names_that_are_unknown_or_taken() {
    let theirs = Rules { compatibility: Compatibility::PgBouncer, ..TRANSACTION };
    let parse = (b'P', &b"a\0select 1\0\0\0"[..]);
    for (name, sent, passed_on) in [
        ("unknown in Bind", messages(&[(b'B', b"\0a\0\0\0\0\0\0\0"), (b'S', b"")]), ""),
        ("unknown in Describe", messages(&[(b'D', b"Sa\0"), (b'S', b"")]), ""),
        ("taken", messages(&[parse, parse, (b'S', b"")]), "P"),
    ] {
        for rules in [theirs, TRANSACTION] {
            let mut bench = Bench::new(rules);
            bench.client(&sent);
            bench.grant(server());
            let closes = matches!(bench.relay.closing(), Some(Closing::Told(report)) if report.sqlstate == SqlState::PROTOCOL_VIOLATION);
            assert_eq!(closes, rules == theirs, "{name}");
            if !closes {
                assert!(tags(&bench.sent_to_server()).starts_with(passed_on), "{name}");
            }
        }
    }
}

#[test]
fn a_smaller_limit_takes_more_than_one_statement_off_a_server() {
    let mut bench = Bench::new(TRANSACTION);
    let parse = |name: char| format!("{name}\0select '{name}'\0\0\0").into_bytes();
    let all: Vec<_> = ['a', 'b', 'c'].map(parse).into();
    let batch: Vec<(u8, &[u8])> = all.iter().map(|it| (b'P', &it[..])).chain([(b'S', &b""[..])]).collect();
    bench.client(&messages(&batch));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), (b'1', b""), (b'1', b""), IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    bench.rules.prepared_max = 2;
    bench.client(&messages(&[(b'P', &parse('d')), (b'S', b"")]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "CCPS");
}

#[test]
fn a_parse_without_a_body_is_broken() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b""), (b'\0', b"")]));
    bench.grant(server());
    assert!(matches!(bench.relay.closing(), Some(Closing::Told(_))));
}

#[test]
fn a_client_whose_settings_are_refused_leaves_its_server_in_session_mode_too() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let mut bench = Bench::new(Rules { mode, ..TRANSACTION });
        bench.relay.parameters = Parameters::of_client(&reported(), [("work_mem", "much")]);
        bench.client(&message(b'Q', b"select 1\0"));
        bench.grant(server());
        assert_eq!(tags(&bench.sent_to_server()), "Q");
        bench.server(&messages(&[(b'E', b"SERROR\0C22023\0Minvalid value\0\0"), IDLE]));
        assert_eq!(tags(&bench.sent_to_client()), "E");
        assert!(bench.relay.take_released().is_some(), "{mode:?}");
    }
}

#[test]
fn a_sync_after_copy_data_that_was_sent_too_early_is_not_dropped() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'E', b"\0\0\0\0\0"), (b'd', b"row\n"), (b'c', b"")]));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "Edc");
    bench.server(&message(b'G', b"\0\0\0"));
    bench.client(&message(b'S', b""));
    assert_eq!(tags(&bench.sent_to_server()), "S");
    bench.server(&messages(&[(b'C', b"COPY 1\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "GCZ");
    assert!(bench.relay.take_released().is_some());
}

#[test]
fn a_query_may_copy_twice() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'Q', b"copy t from stdin;copy t from stdin\0"), (b'c', b"")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'G', b"\0\0\0"), (b'C', b"COPY 0\0"), (b'G', b"\0\0\0")]));
    bench.client(&message(b'S', b""));
    assert_eq!(tags(&bench.sent_to_server()), "S", "COPY mode ignores it");
    bench.client(&message(b'c', b""));
    assert_eq!(tags(&bench.sent_to_server()), "c");
    bench.server(&messages(&[(b'C', b"COPY 0\0"), IDLE]));
    assert!(bench.relay.take_released().is_some());
}

#[test]
fn what_is_left_anew_after_a_discard_is_cleaned() {
    let bench_of = |text: &[u8], answer: &[(u8, &[u8])]| {
        let mut bench = Bench::new(TRANSACTION);
        bench.client(&message(b'Q', text));
        bench.grant(server());
        bench.sent_to_server();
        bench.server(&messages(answer));
        bench
    };
    let both: &[(u8, &[u8])] = &[(b'C', b"DISCARD TEMP\0"), (b'C', b"CREATE TABLE\0"), IDLE];
    let mut bench = bench_of(b"discard temp;create temp table t (a int)\0", both);
    let (_, verdict) = bench.relay.take_released().expect("done");
    assert!(matches!(verdict, Verdict::Clean(_, Residue::TEMPORARY)), "{verdict:?}");
    // A rollback brings back what was discarded.
    let begun: &[(u8, &[u8])] = &[(b'C', b"CREATE TABLE\0"), (b'C', b"BEGIN\0"), (b'Z', b"T")];
    let mut bench = bench_of(b"create temp table t (a int);begin\0", begun);
    bench.client(&message(b'Q', b"discard temp\0"));
    bench.server(&messages(&[(b'C', b"DISCARD TEMP\0"), (b'Z', b"T")]));
    bench.client(&message(b'Q', b"rollback\0"));
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"ROLLBACK\0"), IDLE]));
    let (_, verdict) = bench.relay.take_released().expect("done");
    assert!(matches!(verdict, Verdict::Clean(_, Residue::TEMPORARY)), "{verdict:?}");
    let alone: &[(u8, &[u8])] = &[(b'C', b"DISCARD ALL\0"), IDLE];
    let mut bench = bench_of(b"discard all\0", alone);
    let (_, verdict) = bench.relay.take_released().expect("done");
    assert!(matches!(verdict, Verdict::Reuse(_)), "{verdict:?}");
}

#[test]
fn what_is_left_anew_while_a_discard_is_answered_is_cleaned() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&message(b'Q', b"discard temp\0"));
    bench.grant(server());
    bench.server(&message(b'C', b"DISCARD TEMP\0"));
    bench.client(&message(b'Q', b"create temp table t()\0"));
    bench.sent_to_server();
    bench.server(&messages(&[IDLE, (b'C', b"CREATE TABLE\0"), IDLE]));
    let (_, verdict) = bench.relay.take_released().expect("it is done with");
    assert!(matches!(verdict, Verdict::Clean(_, Residue::TEMPORARY)), "{verdict:?}");
}

/// Of two versions of PostgreSQL behind one pooler the newer one reports `search_path`.
#[test]
fn what_a_statement_leaves_is_not_judged_by_the_server_that_saw_it_first() {
    let mut bench = Bench::new(TRANSACTION);
    let newer = Arc::new(
        [("TimeZone", "UTC"), ("application_name", ""), ("search_path", "public")].into_iter().collect(),
    );
    let parse = (b'P', &b"s\0set search_path to x\0\0\0"[..]);
    bench.client(&messages(&[parse, (b'S', b"")]));
    bench.grant(Box::new(Server::new(newer)));
    assert_eq!(tags(&bench.sent_to_server()), "Q", "the client has no search_path of its own");
    bench.server(&messages(&[(b'C', b"RESET\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_server()), "PS");
    bench.server(&messages(&[(b'1', b""), IDLE]));
    assert!(bench.relay.take_released().is_some());
    bench.sent_to_client();
    bench.client(&messages(&[(b'B', b"\0s\0\0\0\0\0\0\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), (b'2', b""), (b'C', b"SET\0"), IDLE]));
    let (_, verdict) = bench.relay.take_released().expect("done");
    assert!(matches!(verdict, Verdict::Clean(_, Residue::SETTING)), "{verdict:?}");
}

#[test]
fn a_function_call_may_leave_something_behind() {
    for (oid, cleaned) in [(954u32, false), (2880, true)] {
        let mut bench = Bench::new(TRANSACTION);
        bench.client(&message(b'F', &[&oid.to_be_bytes()[..], b"\0\0\0\0\0\0"].concat()));
        bench.grant(server());
        bench.sent_to_server();
        bench.server(&messages(&[(b'V', b"\0\0\0\0"), IDLE]));
        let (_, verdict) = bench.relay.take_released().expect("done");
        assert_eq!(matches!(verdict, Verdict::Clean(..)), cleaned, "{verdict:?}");
    }
}

#[test]
fn what_a_server_could_not_finish_saying_is_not_put_before_the_next_ones_words() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&message(b'Q', b"select 1\0"));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"SELECT 1\0"), IDLE]));
    assert!(bench.relay.take_released().is_some());
    bench.sent_to_client();
    bench.client(&message(b'Q', b"select 2\0"));
    bench.grant(server());
    bench.sent_to_server();
    let half = message(b'S', b"TimeZone\0CET\0");
    bench.server(&[&messages(&[(b'C', b"SELECT 1\0"), IDLE])[..], &half[..half.len() - 1]].concat());
    assert!(bench.relay.has_server(), "it is in the middle of a message");
    bench.with(|relay, turn| relay.on_server_gone(turn));
    assert!(bench.relay.take_released().is_some() && bench.relay.closing().is_none());
    bench.sent_to_client();
    bench.client(&message(b'Q', b"select 3\0"));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"SELECT 1\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "CZ");
}

#[test]
fn a_copy_whose_early_sync_went_unheard_keeps_its_server_until_the_next_one() {
    for vanishes in [false, true] {
        let mut bench = Bench::new(TRANSACTION);
        bench.client(&messages(&[(b'E', b"\0\0\0\0\0"), (b'S', b"")]));
        bench.grant(server());
        assert_eq!(tags(&bench.sent_to_server()), "ES");
        bench.server(&message(b'G', b"\0\0\0"));
        bench.client(&message(b'c', b""));
        assert_eq!(tags(&bench.sent_to_server()), "cH");
        if vanishes {
            bench.with(|relay, turn| relay.on_client_gone(turn));
        }
        bench.server(&message(b'C', b"COPY 0\0"));
        assert!(bench.relay.take_released().is_none(), "it is in a transaction");
        if !vanishes {
            bench.client(&message(b'S', b""));
        }
        assert_eq!(tags(&bench.sent_to_server()), "S");
        bench.server(&message(b'Z', b"I"));
        assert!(bench.relay.take_released().is_some());
    }
}

#[test]
fn a_query_that_copies_behind_a_batch_gives_its_server_back() {
    for (end, answer) in
        [((b'c', &b""[..]), (b'C', &b"COPY 0\0"[..])), ((b'f', b"no\0"), (b'E', b"SERROR\0C57014\0Mno\0\0"))]
    {
        let mut bench = Bench::new(TRANSACTION);
        bench.client(&messages(&[(b'E', b"\0\0\0\0\0"), (b'S', b""), (b'Q', b"copy t from stdin\0"), end]));
        bench.grant(server());
        bench.sent_to_server();
        bench.server(&messages(&[(b'C', b"SELECT 0\0"), IDLE, (b'G', b"\0\0\0"), answer, IDLE]));
        assert!(bench.relay.take_released().is_some(), "no Sync is to come");
    }
}
