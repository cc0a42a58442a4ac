//! Holds the documentation to the tests and to the source: what a page names is there, and nothing is left out.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of a page's tables, without their heads.
fn rows(page: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    let lines: Vec<&str> = page.lines().collect();
    let in_table = |index: &usize| lines[*index].starts_with('|') && !lines[*index].starts_with("|---");
    let is_head = |index: &usize| lines.get(index + 1).is_some_and(|next| next.starts_with("|---"));
    (0..lines.len())
        .filter(in_table)
        .filter(|index| !is_head(index))
        .map(|index| cells(lines[index]))
        .collect()
}

/// What stands between backquotes.
fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_difference_names_a_test_that_exists() {
    let rows = rows(&read("docs/differences.md"));
    assert!(rows.len() > 10, "the table was not found");
    for row in rows {
        let [_, _, reason, test] = row.as_slice() else { panic!("four cells: {row:?}") };
        assert!(!reason.is_empty(), "no reason: {row:?}");
        let named = code(test);
        let [name] = named.as_slice() else { panic!("one test: {row:?}") };
        let (file, function) = name.split_once("::").unwrap_or_else(|| panic!("file::test: {name}"));
        let text = read(format!("tests/it/{file}.rs"));
        let marked =
            text.split("#[test]\n").skip(1).any(|test| test.starts_with(&format!("fn {function}() {{")));
        assert!(marked, "no test {name}");
    }
}

/// The files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let paths = entries.map(|entry| entry.expect("a directory can be read").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn every_place_where_compatibility_decides_is_listed() {
    let page = read("docs/compatibility.md");
    let listed: Vec<String> = rows(&page)
        .iter()
        .flat_map(|row| code(&row[3]).join(" ").split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let source = root().join("src");
    for path in files(&source) {
        let name = path.strip_prefix(&source).expect("below src").display().to_string();
        let text = fs::read_to_string(&path).expect("the source is text");
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let decides = code.contains("Compatibility::Postgres") || code.contains("Compatibility::PgBouncer");
        if !decides || name.starts_with("config/") || name.contains("tests") {
            continue;
        }
        assert!(
            listed.contains(&name),
            "{name} decides by `compatibility` and is not in docs/compatibility.md"
        );
    }
    for name in listed.iter().filter(|name| name.ends_with(".rs")) {
        assert!(source.join(name).exists(), "docs/compatibility.md names {name}, which is not there");
    }
}
