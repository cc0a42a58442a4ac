//! What is believed of a server after an error has made it skip messages: the relay between a scripted client and a
//! scripted server, both in memory.

use super::*;

const FAILED: (u8, &[u8]) = (b'E', b"SERROR\0C22012\0Mdivision by zero\0\0");
const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");
const SYNC: (u8, &[u8]) = (b'S', b"");
const BIND: (u8, &[u8]) = (b'B', b"\0\0\0\0\0\0\0\0");

/// A client that has this statement under the name `x`, and the server it had it from.
fn prepared(text: &[u8]) -> (Bench, Box<Server>) {
    let mut bench = Bench::new(TRANSACTION);
    let parse = [b"x\0", text, b"\0\0\0"].concat();
    bench.client(&messages(&[(b'P', &parse), SYNC]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), IDLE]));
    bench.sent_to_client();
    let (held, _) = bench.relay.take_released().expect("done");
    (bench, held)
}

#[test]
fn a_deallocate_finds_the_name_whatever_the_server_has_under_it() {
    let (mut bench, held) = prepared(b"select 1");
    bench.client(&message(b'Q', b"DEALLOCATE x\0"));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "CPSQ", "the query is not skipped, whatever fails before it");
    bench.server(&messages(&[(b'3', b""), (b'1', b""), IDLE, (b'C', b"DEALLOCATE\0"), IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "CZ");
    assert!(bench.relay.names.find(b"x").is_none());
    let (_, verdict) = bench.relay.take_released().expect("done");
    assert!(matches!(verdict, Verdict::Reuse(_)), "{verdict:?}");
}

#[test]
fn a_deallocate_that_fails_leaves_the_name_and_something_to_clean() {
    let (mut bench, held) = prepared(b"select 1");
    bench.client(&message(b'Q', b"DEALLOCATE x\0"));
    bench.grant(held);
    bench.sent_to_server();
    bench.server(&messages(&[(b'3', b""), (b'1', b""), IDLE, FAILED, IDLE]));
    assert!(bench.relay.names.find(b"x").is_some());
    let (_, verdict) = bench.relay.take_released().expect("done");
    assert!(matches!(verdict, Verdict::Clean(_, Residue::PREPARED)), "{verdict:?}");
}

#[test]
fn a_prepare_finds_the_name_taken() {
    let (mut bench, held) = prepared(b"select 1");
    bench.client(&message(b'Q', b"PREPARE x AS SELECT 2\0"));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "CPSQ");
    let taken = b"SERROR\0C42P05\0Mprepared statement \"x\" already exists\0\0";
    bench.server(&messages(&[(b'3', b""), (b'1', b""), IDLE, (b'E', taken), IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "EZ");
    assert!(bench.relay.names.find(b"x").is_some());
}

#[test]
fn only_an_executed_deallocate_loses_the_name() {
    let (mut bench, held) = prepared(b"select 1");
    let parse = (b'P', &b"\0DEALLOCATE x\0\0\0"[..]);
    bench.client(&messages(&[parse, (b'D', b"S\0"), BIND, SYNC]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "PDBS");
    bench.server(&messages(&[(b'1', b""), (b't', b"\0\0"), (b'n', b""), (b'2', b""), IDLE]));
    assert!(bench.relay.names.find(b"x").is_some());
    let (mut held, _) = bench.relay.take_released().expect("done");
    for (answer, stays) in [(&[FAILED, IDLE][..], true), (&[(b'C', b"DEALLOCATE\0"), IDLE], false)] {
        bench.client(&messages(&[parse, BIND, EXECUTE, SYNC]));
        bench.grant(held);
        assert_eq!(tags(&bench.sent_to_server()), "PBCPES");
        bench.server(&messages(&[(b'1', b""), (b'2', b""), (b'3', b""), (b'1', b"")]));
        bench.server(&messages(answer));
        assert_eq!(bench.relay.names.find(b"x").is_some(), stays);
        held = bench.relay.take_released().expect("done").0;
    }
}

#[test]
fn an_execute_of_another_portal_loses_no_name() {
    let (mut bench, held) = prepared(b"DEALLOCATE x");
    bench.client(&messages(&[
        (b'B', b"p\0x\0\0\0\0\0\0\0"),
        (b'B', b"q\0unknown\0\0\0\0\0\0\0"),
        (b'E', b"q\0\0\0\0\0"),
        (b'E', b"p\0\0\0\0\0"),
        SYNC,
    ]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "BBECPES");
}

#[test]
fn the_unnamed_statement_is_the_last_that_was_not_skipped() {
    let parse = |text: &str| [&b"\0"[..], text.as_bytes(), b"\0\0\0"].concat();
    let (one, two, three) = (parse("select 1"), parse("select 2"), parse("select 3"));
    for (answered, left) in
        [(&[][..], "select 0"), (&[(b'1', &b""[..])], "select 1"), (&[(b'1', b""), (b'1', b"")], "select 2")]
    {
        let mut bench = Bench::new(TRANSACTION);
        bench.client(&messages(&[(b'P', &parse("select 0")), SYNC]));
        bench.grant(server());
        bench.sent_to_server();
        bench.server(&messages(&[(b'1', b""), IDLE]));
        let (mut held, _) = bench.relay.take_released().expect("done");
        // Each Parse comes behind a Describe of a portal, which is what fails.
        let fails = (b'D', &b"P\0"[..]);
        bench.client(&messages(&[fails, (b'P', &one), fails, (b'P', &two), fails, (b'P', &three), SYNC]));
        bench.grant(held);
        bench.sent_to_server();
        for _ in answered {
            bench.server(&messages(&[(b'n', b""), (b'1', b"")]));
        }
        bench.server(&messages(&[FAILED, IDLE]));
        held = bench.relay.take_released().expect("done").0;
        bench.client(&messages(&[BIND, SYNC]));
        bench.grant(held);
        let sent = bench.sent_to_server();
        assert_eq!(tags(&sent), "PBS");
        assert!(memchr::memmem::find(&sent, left.as_bytes()).is_some(), "{}", sent.escape_ascii());
    }
}

#[test]
fn a_parse_that_fails_has_dropped_what_was_before_it() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[
        (b'P', b"\0select 1\0\0\0"),
        (b'P', b"\0bad\0\0\0"),
        (b'P', b"\0select 2\0\0\0"),
        SYNC,
    ]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), FAILED, IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    bench.client(&messages(&[BIND, SYNC]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "CBS", "there is none");
}

#[test]
fn a_query_that_is_skipped_leaves_the_unnamed_statement() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[(b'P', b"\0select 1\0\0\0"), SYNC]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    bench.client(&messages(&[(b'D', b"P\0"), (b'Q', b"select 2\0"), SYNC]));
    bench.grant(held);
    bench.sent_to_server();
    bench.server(&messages(&[FAILED, IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    bench.client(&messages(&[BIND, SYNC]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "PBS");
}

#[test]
fn nothing_that_is_skipped_brings_back_a_name_that_was_deallocated_with_all() {
    let (mut bench, held) = prepared(b"select 1");
    bench.client(&messages(&[
        (b'P', b"\0DEALLOCATE ALL\0\0\0"),
        BIND,
        EXECUTE,
        (b'D', b"P\0"),
        (b'C', b"Sx\0"),
        SYNC,
    ]));
    bench.grant(held);
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), (b'2', b""), (b'C', b"DEALLOCATE ALL\0"), FAILED, IDLE]));
    assert!(bench.relay.names.find(b"x").is_none());
}

#[test]
fn a_name_is_looked_for_only_after_all_are_deallocated() {
    let (mut bench, held) = prepared(b"select 1");
    let deallocate = [(b'P', &b"\0DEALLOCATE ALL\0\0\0"[..]), BIND, EXECUTE];
    bench.client(&messages(&deallocate));
    bench.client(&messages(&[(b'P', b"x\0select 2\0\0\0"), SYNC]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "PBEH");
    bench.server(&messages(&[(b'1', b""), (b'2', b""), (b'C', b"DEALLOCATE ALL\0")]));
    let sent = bench.sent_to_server();
    assert_eq!(tags(&sent), "PS");
    assert!(sent[5..].starts_with(b"PGWEIR_2\0"), "the name is free: {}", sent.escape_ascii());
}

#[test]
fn an_execute_that_deallocates_nothing_holds_up_nobody() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[
        (b'P', b"\0BEGIN\0\0\0"),
        BIND,
        EXECUTE,
        (b'P', b"\0DEALLOCATE ALL\0\0\0"),
        BIND,
    ]));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "PBEPB", "nothing makes the server answer yet");
    bench.client(&messages(&[EXECUTE, BIND, SYNC]));
    assert_eq!(tags(&bench.sent_to_server()), "EH");
}

#[test]
fn a_close_leaves_no_statement_of_that_name_to_be_found() {
    let (mut bench, held) = prepared(b"select 1");
    bench.client(&messages(&[(b'Q', b"BEGIN;PREPARE x AS SELECT 2\0")]));
    bench.grant(held);
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"BEGIN\0"), (b'C', b"PREPARE\0"), (b'Z', b"T")]));
    bench.client(&messages(&[(b'C', b"Sx\0"), SYNC]));
    let sent = bench.sent_to_server();
    assert!(sent[5..].starts_with(b"Sx\0"), "{}", sent.escape_ascii());
    bench.sent_to_client();
    bench.server(&messages(&[(b'3', b""), (b'Z', b"T")]));
    assert_eq!(tags(&bench.sent_to_client()), "3Z");
}

/// A COPY that has begun, with this many Syncs behind it.
fn copying(syncs: usize) -> Bench {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[EXECUTE]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&message(b'G', b"\0\0\0"));
    bench.sent_to_client();
    bench.client(&message(b'd', b"bad\n"));
    (0..syncs).for_each(|_| bench.client(&message(b'S', b"")));
    assert_eq!(tags(&bench.sent_to_server()), format!("d{}", "S".repeat(syncs)));
    bench
}

#[test]
fn each_sync_that_a_failed_copy_has_not_read_is_answered() {
    for answered in 0..=2 {
        let mut bench = copying(2);
        bench.server(&messages(&[FAILED]));
        assert_eq!(tags(&bench.sent_to_server()), "SCS", "the server is asked which");
        let early: Vec<_> = (0..answered).map(|_| IDLE).collect();
        bench.server(&[messages(&early), messages(&[IDLE])].concat());
        bench.server(&message(b'3', b""));
        assert!(bench.relay.take_released().is_none(), "an answer is due");
        bench.server(&messages(&[IDLE]));
        assert_eq!(tags(&bench.sent_to_client()), format!("E{}", "Z".repeat(answered)));
        assert_eq!(
            bench.relay.take_released().is_some(),
            answered > 0,
            "without, the client's Sync is to come"
        );
        if answered == 0 {
            bench.client(&messages(&[(b'c', b""), (b'Q', b"select 1\0"), SYNC]));
            assert_eq!(tags(&bench.sent_to_server()), "S");
            bench.server(&messages(&[IDLE]));
            assert_eq!(tags(&bench.sent_to_client()), "Z");
            let (_, verdict) = bench.relay.take_released().expect("done");
            assert!(matches!(verdict, Verdict::Reuse(_)), "{verdict:?}");
        }
    }
}

#[test]
fn a_server_is_not_asked_in_the_middle_of_a_message() {
    let mut bench = copying(1);
    let data = message(b'd', b"a long row\n");
    bench.client(&data[..9]);
    bench.sent_to_server();
    bench.server(&messages(&[FAILED]));
    assert_eq!(bench.sent_to_server(), b"");
    bench.client(&data[9..]);
    let sent = bench.sent_to_server();
    assert_eq!((&sent[..data.len() - 9], &*tags(&sent[data.len() - 9..])), (&data[9..], "SCS"));
}

#[test]
fn a_copy_that_never_began_keeps_no_server_for_the_end_of_its_data() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&messages(&[EXECUTE, SYNC, (b'c', b""), (b'P', b"\0select 1\0\0\0")]));
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "EScH", "what comes next waits for what became of the Sync");
    bench.server(&messages(&[FAILED, IDLE]));
    assert_eq!(tags(&bench.sent_to_client()), "EZ");
    assert_eq!(tags(&bench.sent_to_server()), "P");
    bench.client(&messages(&[SYNC]));
    bench.server(&messages(&[(b'1', b""), IDLE]));
    bench.sent_to_server();
    assert!(bench.relay.take_released().is_some());
}

/// A COPY has failed whose client has said all: the server is asked which of its Syncs it has answered.
fn failed_copy() -> Bench {
    let mut bench = copying(1);
    bench.client(&messages(&[(b'c', b""), SYNC]));
    bench.sent_to_server();
    bench.server(&messages(&[FAILED, IDLE]));
    bench
}

#[test]
fn a_server_that_was_asked_goes_back_before_its_clients_next_message() {
    let mut bench = failed_copy();
    assert_eq!(tags(&bench.sent_to_client()), "EZ", "all that the client has asked is answered");
    assert_eq!(tags(&bench.sent_to_server()), "SCS");
    bench.client(&message(b'Q', b"select 1\0"));
    bench.server(&messages(&[IDLE, (b'3', b""), IDLE]));
    assert!(bench.relay.take_released().is_some());
    assert_eq!(bench.sent_to_server(), b"", "the query waits for a server");
    bench.grant(server());
    assert_eq!(tags(&bench.sent_to_server()), "Q");
}

#[test]
fn a_statement_of_the_poolers_own_that_a_client_deallocates_is_prepared_anew() {
    let (mut bench, held) = prepared(b"select 1");
    bench.client(&message(b'Q', b"deallocate \"PGWEIR_1\"\0"));
    bench.grant(held);
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"DEALLOCATE\0"), IDLE]));
    let (held, _) = bench.relay.take_released().expect("it is done with");
    bench.sent_to_client();
    bench.client(&messages(&[(b'B', b"\0x\0\0\0\0\0\0\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "CPBES");
}

#[test]
fn a_client_that_has_all_its_answers_is_idle_while_its_server_is_asked() {
    let mut bench = failed_copy();
    bench.sent_to_client();
    bench.sent_to_server();
    bench.server(&messages(&[IDLE, (b'3', b""), IDLE]));
    assert!(bench.relay.take_released().is_some());
    assert_eq!((bench.relay.query_since(), bench.relay.transaction_since()), (None, None));
    assert!(matches!(bench.relay.activity(), Activity::Idle(_)));
}

#[test]
fn no_notice_is_put_behind_half_a_message_of_a_server_that_is_gone() {
    let mut bench = Bench::new(TRANSACTION);
    bench.client(&message(b'Q', b"select 1\0"));
    bench.grant(server());
    bench.sent_to_server();
    let row = message(b'D', b"\0\x01\0\0\0\x04half");
    let half = &row[..row.len() - 3];
    bench.server(half);
    bench.with(|relay, turn| relay.on_server_gone(turn));
    let notice = Report::notice("client being queued");
    assert!(!bench.with(|relay, turn| relay.notify(&notice, turn)), "the client would take it for the row's");
    assert_eq!(bench.sent_to_client(), half);
}

#[test]
fn nothing_is_answered_behind_the_last_words_of_a_server() {
    let (mut bench, held) = prepared(b"select 1");
    bench.client(&message(b'Q', b"begin\0"));
    bench.grant(held);
    bench.sent_to_server();
    bench.server(&messages(&[(b'C', b"BEGIN\0"), (b'Z', b"T")]));
    bench.server(&message(b'E', b"SFATAL\0C57P01\0Mterminating connection\0\0"));
    assert_eq!(tags(&bench.sent_to_client()), "CZE");
    bench.client(&messages(&[(b'C', b"Sx\0"), SYNC]));
    assert_eq!(bench.sent_to_client(), b"", "it has heard of the end");
    bench.with(|relay, turn| relay.on_server_gone(turn));
    assert!(matches!(bench.relay.closing(), Some(Closing::Told(_))));
    assert_eq!(bench.sent_to_client(), b"");
}

#[test]
fn a_server_gets_no_more_statements_than_it_may_have_where_a_batch_fails() {
    let mut bench = Bench::new(Rules { prepared_max: 2, ..TRANSACTION });
    bench.client(&messages(&[(b'P', b"a\0select 1\0\0\0"), (b'P', b"b\0select 2\0\0\0"), SYNC]));
    bench.grant(server());
    bench.sent_to_server();
    bench.server(&messages(&[(b'1', b""), (b'1', b""), IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    // What makes room for the statement is skipped.
    bench.client(&messages(&[(b'D', b"P\0"), (b'P', b"c\0select 3\0\0\0"), SYNC]));
    bench.client(&messages(&[(b'P', b"d\0select 4\0\0\0"), SYNC]));
    bench.grant(held);
    assert_eq!(tags(&bench.sent_to_server()), "DCPS", "whether there is room is not known yet");
    bench.server(&messages(&[FAILED, IDLE]));
    assert_eq!(tags(&bench.sent_to_server()), "CPS");
    bench.server(&messages(&[(b'3', b""), (b'1', b""), IDLE]));
    let (held, _) = bench.relay.take_released().expect("done");
    assert_eq!(held.shelf.len(), 2);
}
