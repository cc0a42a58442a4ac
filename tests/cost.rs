//! What a transaction costs the pooler itself, apart from the kernel: no allocation at all, and no more instructions
//! than a ceiling allows. Both are the same on any machine, so that a gain can't be lost unseen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::Command;

#[path = "support/transaction.rs"]
mod transaction;

use transaction::scenarios;

/// Transactions until everything has the size that it keeps.
const WARM_UP: usize = 100;
/// Says which scenario the counted process is to run, and how often: `simple 1000`.
const ORDER: &str = "PGWEIR_COUNTED";

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator; counts what each thread asks of it.
struct Counting;

#[expect(unsafe_code, reason = "the trait asks for it; every call is passed on as it is")]
// SAFETY: each method hands its arguments to the system's allocator, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // At a thread's very end there is nothing left to count with.
        let _ = ALLOCATIONS.try_with(|it| it.set(it.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|it| it.set(it.get() + 1));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_transaction_allocates_nothing() {
    for scenario in scenarios() {
        let mut client = scenario.client();
        (0..WARM_UP).for_each(|_| scenario.run(&mut client));
        let before = ALLOCATIONS.get();
        (0..WARM_UP).for_each(|_| scenario.run(&mut client));
        assert_eq!(ALLOCATIONS.get() - before, 0, "{}", scenario.name);
    }
}

/// Instructions that a transaction may cost the relay in an unoptimized build, as `cargo test` makes it; a tenth above
/// what was measured. An optimized one takes a small part of that.
const CEILINGS: [(&str, u64); 3] = [("simple", 42_300), ("extended", 54_500), ("prepared", 39_600)];

#[test]
fn a_transaction_takes_no_more_instructions_than_its_ceiling() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return eprintln!("valgrind is not installed: no instructions are counted");
    }
    for (name, ceiling) in CEILINGS {
        let (few, many) = (instructions(name, WARM_UP), instructions(name, 10 * WARM_UP));
        let each = (many - few) / (9 * WARM_UP as u64);
        eprintln!("{name}: {each} instructions, at most {ceiling}");
        assert!(each <= ceiling, "{name}: {each} instructions, more than {ceiling}");
    }
}

/// What the process takes in all that runs the scenario so often.
fn instructions(scenario: &str, times: usize) -> u64 {
    let program = std::env::current_exe().expect("a test has a program");
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(program)
        .args(["--exact", "the_counted_loop", "--test-threads=1"])
        .env(ORDER, format!("{scenario} {times}"))
        .output()
        .expect("valgrind runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let line = text.lines().find(|it| it.contains("I ") && it.contains("refs:")).expect("cachegrind sums up");
    let count = line.rsplit(':').next().expect("a number").trim().replace(',', "");
    count.parse().expect("a number")
}

/// Nothing by itself: it is what [`instructions`] counts.
#[test]
fn the_counted_loop() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let (name, times) = order.split_once(' ').expect("a scenario and a number");
    let all = scenarios();
    let scenario = all.iter().find(|it| it.name == name).expect("the scenario exists");
    let mut client = scenario.client();
    (0..times.parse().expect("a number")).for_each(|_| scenario.run(&mut client));
}
