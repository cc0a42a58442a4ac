//! Keys: whose they are, and that nobody else has them.

use std::time::Instant;

use super::*;
use crate::ids::{ClientId, WorkerId};
use crate::pool::Claim;
use crate::stats::{Address, ClientConnected, ClientSeat, Roster};

fn client(id: u64) -> (ClientSeat, Claim<ServerConn>) {
    let roster = Roster::new(Instant::now(), std::time::SystemTime::now());
    let peer = Address::Unix { pid: 0, port: 6432 };
    let connected = ClientConnected { id: ClientId(id), worker: WorkerId(0), local: peer.clone(), peer };
    let seat = roster.client(connected, Instant::now());
    let claim = Claim::new(Arc::clone(seat.entry()));
    (seat, claim)
}

fn found(registry: &Registry, key: &CancelKey) -> Option<ClientId> {
    match registry.cancel(key) {
        Found::Ours(caller, Cancel::Nothing) => Some(caller.id()),
        Found::Ours(..) => panic!("it does nothing that could be cancelled"),
        Found::Console | Found::Foreign(_) | Found::Unknown => None,
    }
}

#[test]
fn a_key_finds_its_own_client_until_it_is_dropped() {
    let registry = Registry::new(None);
    let (_seat1, first) = client(1);
    let (_seat2, second) = client(2);
    let (first_ticket, first_key) = registry.mint(0, first.caller()).expect("a key");
    let (_second_ticket, second_key) = registry.mint(2, second.caller()).expect("a key");
    assert_eq!(first_key.secret().len(), 4);
    assert_eq!(second_key.secret().len(), 32);
    assert_eq!(found(&registry, &first_key), Some(ClientId(1)));
    assert_eq!(found(&registry, &second_key), Some(ClientId(2)));
    drop(first_ticket);
    assert_eq!(found(&registry, &first_key), None);
    assert_eq!(registry.owners.len(), 1);
    registry.shrink();
    assert_eq!(found(&registry, &second_key), Some(ClientId(2)));
}

#[test]
fn a_key_that_differs_anywhere_is_nobodys() {
    let registry = Registry::new(None);
    let (_seat, claim) = client(1);
    let (_ticket, key) = registry.mint(2, claim.caller()).expect("a key");
    for index in 0..key.secret().len() {
        let mut secret = key.secret().to_vec();
        secret[index] ^= 1;
        let wrong = CancelKey::new(key.pid, &secret).expect("32 bytes");
        assert_eq!(found(&registry, &wrong), None, "byte {index}");
    }
    let shorter = CancelKey::new(key.pid, &key.secret()[..31]).expect("31 bytes");
    assert_eq!(found(&registry, &shorter), None);
    let wrong = CancelKey::new(key.pid ^ 1, key.secret()).expect("32 bytes");
    assert_eq!(found(&registry, &wrong), None);
}

#[test]
fn process_ids_look_positive() {
    let registry = Registry::new(None);
    let (_seat, claim) = client(1);
    for _ in 0..64 {
        assert!(registry.mint(0, claim.caller()).expect("a key").1.pid < 1 << 31);
    }
}

#[test]
fn keys_carry_the_number_of_their_process_and_lose_hops_on_the_way() {
    let ours: Arc<Registry> = Registry::new(Some(PeerId(0x1203)));
    let other: Arc<Registry> = Registry::new(Some(PeerId(2)));
    let (_seat, claim) = client(1);
    let (_ticket, key) = ours.mint(0, claim.caller()).expect("a key");
    assert_eq!(key.pid.to_be_bytes()[1..3], [0x03, 0x12]);
    assert!(matches!(other.cancel(&key), Found::Foreign(PeerId(0x1203))));
    let mut secret = key.secret().to_vec();
    assert_eq!(secret[3] & HOPS_MASK, HOPS_MASK);
    secret[3] -= 2;
    let forwarded = CancelKey::new(key.pid, &secret).expect("4 bytes");
    assert_eq!(found(&ours, &forwarded), Some(ClientId(1)));
}
