//! Holds the source to its design: the order of modules, what is named where, and how large things may grow.
//!
//! Works on the text of `src/**` and `Cargo.toml`. Each rule is a function from text to violations, and is itself
//! tested on text that breaks it.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules from the lowest to the highest: each may use those before it, and itself.
const ORDER: &[&str] = &[
    "ids", "wire", "sql", "config", "stats", "prepared", "session", "auth", // pure
    "net", "server", "pool", "cancel", "client", "admin", "handover", "app", "cli",
];

/// The first modules of [`ORDER`] have no sockets, tasks, clock or randomness of their own.
const PURE: usize = 8;

/// What a pure module may not name.
const IMPURE_NAMES: &[&str] = &[
    "tokio",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os::unix::net",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "getrandom",
    "rustls",
    "hyper",
];

/// Files of pure modules that are let off [`IMPURE_NAMES`], each with its reason.
const PURE_EXCEPTIONS: &[(&str, &str)] = &[
    ("src/config/kinds.rs", "one of the words of `relay_driver` is a crate's name"),
    ("src/config/settings/global.rs", "ditto"),
];

/// What only `net` may name.
const NET_NAMES: &[&str] = &["tokio::net", "rustls"];

/// What no source file may contain outside its tests.
const FORBIDDEN: &[&str] = &[".unwrap()", "todo!(", "unimplemented!(", "#[ignore", "#[allow(", "dbg!("];

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 75;

#[test]
fn each_module_uses_only_those_below_it() {
    check(|path, code| order_violations(&module_of(path), code));
}

#[test]
fn pure_modules_name_no_socket_task_clock_or_randomness() {
    check(|path, code| {
        let excepted = PURE_EXCEPTIONS.iter().any(|(file, _)| path.ends_with(file));
        if excepted { Vec::new() } else { purity_violations(&module_of(path), code) }
    });
}

#[test]
fn only_net_names_sockets_and_tls() {
    check(|path, code| net_violations(&module_of(path), code));
}

#[test]
fn nothing_is_left_undone_or_unwrapped() {
    check(|_, code| forbidden(code));
}

#[test]
fn files_and_functions_stay_small() {
    check(|_, code| size_violations(code));
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{}: does not open with a `//!` comment", path.display());
    }
}

#[test]
fn every_dependency_has_a_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml is readable");
    let violations = unexplained_dependencies(&manifest);
    assert!(violations.is_empty(), "without a comment: {violations:?}");
}

#[test]
fn every_module_has_its_place_in_the_order() {
    let library = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs is readable");
    let declared = library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let placed: Vec<usize> =
        declared.map(|name| rank(name).unwrap_or_else(|| panic!("{name} has no place in ORDER"))).collect();
    assert!(placed.is_sorted(), "lib.rs declares its modules in another order than ORDER");
}

/// Applies a rule to every source file and fails with all violations at once.
fn check(rule: impl Fn(&Path, &str) -> Vec<String>) {
    let mut all = Vec::new();
    for (path, text) in sources() {
        if path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        all.extend(rule(&path, &code_of(&text)).into_iter().map(|violation| format!("{name}: {violation}")));
    }
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<(PathBuf, String)> {
    let (mut found, mut directories) = (Vec::new(), vec![root().join("src")]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("source is UTF-8");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > ORDER.len(), "the source was not found");
    found
}

/// The top-level module a file belongs to: `pool` for `src/pool/schedule.rs`.
fn module_of(path: &Path) -> String {
    let path = path.strip_prefix(root().join("src")).unwrap_or(path);
    let first = path.components().next().expect("a file has a name");
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|&name| name == module)
}

/// The text without its tests (from `#[cfg(test)]` on, when a module follows) and without comments; lines keep their
/// numbers.
fn code_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_tests = |at: usize| {
        let next = lines.get(at + 1).map_or("", |line| line.trim_start());
        lines[at] == "#[cfg(test)]"
            && (next.starts_with("mod ") || next.starts_with("pub mod "))
            && next.ends_with('{')
    };
    let end = (0..lines.len()).find(|&at| is_tests(at)).unwrap_or(lines.len());
    let without_comment = |line: &&str| match line.trim_start().starts_with("//") {
        true => String::new(),
        false => (*line).split(" // ").next().unwrap_or_default().to_owned(),
    };
    lines[..end].iter().map(without_comment).collect::<Vec<_>>().join("\n")
}

/// Whether `name` stands in `line` as a whole path: not as the tail of another word.
fn names(line: &str, name: &str) -> bool {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + name.len()..].chars().next();
        let starts = !before.is_some_and(is_word);
        let ends = !name.ends_with(is_word)
            || !after.is_some_and(|it| is_word(it) && name != "std::net::Tcp" && name != "std::net::Udp");
        starts && ends
    })
}

fn numbered(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Modules that a line takes from the crate, also in lists: `use crate::{ids::PoolKey, wire};`.
fn used_modules(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, marker) in line.match_indices("crate::") {
        let rest = &line[at + marker.len()..];
        let items: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => split_list(list),
            None => vec![rest],
        };
        for item in items {
            let word: String =
                item.trim().chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect();
            if rank(&word).is_some() {
                found.push(word);
            }
        }
    }
    found
}

/// The parts of a `use` list between its outermost commas.
fn split_list(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&list[start..at]);
                return parts;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts
}

fn order_violations(module: &str, code: &str) -> Vec<String> {
    // lib.rs and main.rs stand above everything.
    let Some(own) = rank(module) else { return Vec::new() };
    // A list may go over several lines: join what belongs to one `use`.
    let mut violations = Vec::new();
    for (number, statement) in statements(code) {
        for used in used_modules(&statement) {
            if rank(&used).is_some_and(|rank| rank > own) {
                violations.push(format!("{number}: {module} uses {used}, which stands above it"));
            }
        }
    }
    violations
}

/// Lines, with a `use` over several lines as one.
fn statements(code: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in numbered(code) {
        let starts_use = line.trim_start().trim_start_matches("pub ").starts_with("use ");
        let (start, mut text) = match open.take() {
            Some((start, text)) => (start, text + " " + line.trim()),
            None => (number, line.to_owned()),
        };
        let in_use = starts_use || start != number;
        if in_use && !line.contains(';') {
            open = Some((start, std::mem::take(&mut text)));
        } else {
            found.push((start, text));
        }
    }
    found.extend(open);
    found
}

fn purity_violations(module: &str, code: &str) -> Vec<String> {
    if rank(module).is_none_or(|rank| rank >= PURE) {
        return Vec::new();
    }
    named(code, IMPURE_NAMES, &format!("{module} is pure, but names"))
}

fn net_violations(module: &str, code: &str) -> Vec<String> {
    if module == "net" { Vec::new() } else { named(code, NET_NAMES, "only net may name") }
}

fn named(code: &str, wanted: &[&str], complaint: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for (number, line) in numbered(code) {
        for name in wanted.iter().filter(|name| names(line, name)) {
            violations.push(format!("{number}: {complaint} {name}"));
        }
    }
    violations
}

fn forbidden(code: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for (number, line) in numbered(code) {
        for text in FORBIDDEN.iter().filter(|text| line.contains(**text)) {
            violations.push(format!("{number}: {text}"));
        }
    }
    violations
}

/// Sizes of the file and of its functions, by rustfmt's layout: a function ends at a `}` as far in as its `fn`. Flat
/// tables that clippy was told to expect are left to clippy.
fn size_violations(code: &str) -> Vec<String> {
    let lines: Vec<&str> = code.lines().collect();
    let mut violations = Vec::new();
    if lines.len() > FILE_LINES_MAX {
        violations.push(format!("{} lines of code, more than {FILE_LINES_MAX}", lines.len()));
    }
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let is_function =
            line.split_whitespace().take_while(|word| !word.contains('(')).any(|word| word == "fn")
                || line.trim_start().starts_with("fn ");
        if !is_function {
            continue;
        }
        let end = lines[at..].iter().position(|it| *it == format!("{}}}", " ".repeat(indent)));
        let expected = lines[at.saturating_sub(6)..at].iter().any(|it| it.contains("clippy::too_many_lines"));
        if let Some(length) = end.filter(|length| *length > FUNCTION_LINES_MAX && !expected) {
            violations.push(format!("{}: a function of {length} lines: {}", at + 1, line.trim()));
        }
    }
    violations
}

fn unexplained_dependencies(manifest: &str) -> Vec<String> {
    let mut in_dependencies = false;
    let mut violations = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
        } else if in_dependencies && line.contains('=') && !line.contains(" # ") {
            violations.push(line.to_owned());
        }
    }
    violations
}

/// The rules themselves, on text that breaks them and text that does not.
mod the_rules {
    use super::*;

    #[test]
    fn a_use_of_a_higher_module_is_found_however_it_is_written() {
        for code in [
            "use crate::pool::Pool;",
            "use crate::{ids::PoolKey, pool::{Pool, Pools}};",
            "use crate::{\n    ids::PoolKey,\n    pool::Pool,\n};",
            "pub use crate::admin::http;",
            "    let pool = crate::pool::Pool::new();",
        ] {
            assert_eq!(order_violations("session", code).len(), 1, "{code}");
        }
    }

    #[test]
    fn a_use_of_a_lower_module_or_of_ones_own_is_let_pass() {
        let code = "use crate::ids::PoolKey;\nuse crate::{wire, session::relay::{pool, Relay}};\nuse other_crate::x;";
        assert_eq!(order_violations("session", code), Vec::<String>::new());
        assert_eq!(order_violations("lib", "use crate::app::run;"), Vec::<String>::new());
    }

    #[test]
    fn impure_names_are_found_in_pure_modules_only() {
        for code in [
            "use tokio::time::sleep;",
            "let now = Instant::now();",
            "use std::net::TcpStream;",
            "use std::os::unix::net::UnixStream;",
            "getrandom::fill(&mut nonce);",
        ] {
            assert_eq!(purity_violations("session", code).len(), 1, "{code}");
            assert_eq!(purity_violations("pool", code).len(), 0, "{code}");
        }
        assert_eq!(purity_violations("session", "use std::net::IpAddr; let my_tokio = 1;").len(), 0);
    }

    #[test]
    fn sockets_and_tls_are_found_outside_net() {
        assert_eq!(net_violations("client", "use tokio::net::TcpStream;").len(), 1);
        assert_eq!(net_violations("client", "fn f(it: rustls::Error) {}").len(), 1);
        assert_eq!(net_violations("net", "use tokio::net::TcpStream;").len(), 0);
        assert_eq!(net_violations("client", "use tokio_rustls_like::x; use crate::net;").len(), 0);
    }

    #[test]
    fn forbidden_text_is_found_outside_tests_and_comments() {
        let code = "fn f() {\n    x.unwrap();\n    todo!()\n}\n";
        assert_eq!(forbidden(&code_of(code)).len(), 2);
        let allowed =
            "// x.unwrap()\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() { x.unwrap(); }\n}\n";
        assert_eq!(forbidden(&code_of(allowed)), Vec::<String>::new());
    }

    #[test]
    fn large_files_and_functions_are_found() {
        let body = "    x();\n".repeat(FUNCTION_LINES_MAX + 1);
        assert_eq!(size_violations(&format!("pub async fn f() {{\n{body}}}\n")).len(), 1);
        assert_eq!(size_violations("fn f() {\n    x();\n}\n").len(), 0);
        assert_eq!(size_violations(&"const X: u8 = 1;\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
    }

    #[test]
    fn a_dependency_without_a_comment_is_found() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na = \"1\" # why\nb = \"2\"\n[dev-dependencies]\nc = \"3\"\n";
        assert_eq!(unexplained_dependencies(manifest), ["b = \"2\"", "c = \"3\""]);
    }
}
