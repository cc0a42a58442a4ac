//! `relay_driver`: io_uring where it is to be had, and what happens where it is forbidden.

use crate::support::prelude::*;

/// Runs a program as a container runtime does that forbids io_uring: seccomp lets io_uring_setup (425 on every
/// architecture) fail with EPERM.
const FORBID: &str = r"
import ctypes, os, struct, sys
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(rules), ctypes.addressof(code)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0, 'PR_SET_NO_NEW_PRIVS'
assert prctl(22, 2, program, 0, 0) == 0, 'PR_SET_SECCOMP'
os.execv(sys.argv[1], sys.argv[1:])
";

fn with_driver(driver: &str) -> Setup {
    Setup::of(Cluster::shared()).set("relay_driver", &format!("{driver:?}"))
}

#[test]
fn clients_of_both_workers_take_turns_with_the_servers_of_a_small_pool() {
    let pooler = with_driver("io_uring").set("workers", "2").set("default_pool_size", "2").start();
    let address = pooler.address();
    std::thread::scope(|scope| {
        for client in 0..12 {
            scope.spawn(move || {
                let mut raw = Raw::connect(address, "app", "app");
                for round in 0..100 {
                    let mark = format!("{client}:{round}");
                    assert_eq!(raw.value(&format!("SELECT '{mark}'")), mark);
                }
            });
        }
    });
    assert!(pooler.log().contains("relay_driver: io_uring"), "{}", pooler.log());
}

#[test]
fn where_it_is_forbidden_another_driver_serves_and_the_log_says_so() {
    let pooler = with_driver("auto").within(&["python3", "-c", FORBID]).start();
    assert_eq!(pooler.app().value("SELECT 40 + 2"), "42");
    let log = pooler.log();
    assert_eq!(log.matches("no io_uring here (Operation not permitted").count(), 1, "{log}");
}

#[test]
fn who_insists_on_it_where_it_is_forbidden_is_told_so() {
    let mut pooler = with_driver("io_uring").within(&["python3", "-c", FORBID]).launch();
    assert!(!pooler.wait().success());
    let expected = "relay_driver = io_uring, but there is no io_uring here: Operation not permitted";
    assert!(pooler.log().contains(expected), "{}", pooler.log());
}
