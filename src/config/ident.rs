//! The `auth_ident_file`: which users of a certificate or of the operating system may log in as which users.
//!
//! Lines of `map system-user user`, as in PgBouncer; the user `all` without quotes stands for every user. A line that
//! is none of these is left out and reported: what it would have allowed is then not allowed. PostgreSQL's patterns
//! (`/^(.*)@example.org$`) are not known, here as in PgBouncer.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::value::is_utf8;
use super::words::Words;

/// All maps of a file, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Maps(BTreeMap<String, Arc<Map>>);

/// One map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Map {
    /// Its name.
    pub name: String,
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    system_user: String,
    user: Mapped,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Mapped {
    Anybody,
    User(String),
}

impl Maps {
    /// Reads a file's text; and the numbers of the lines that are left out, each with the reason.
    pub fn read(text: &str) -> (Self, Vec<(usize, String)>) {
        let mut maps: BTreeMap<String, Map> = BTreeMap::new();
        let mut faults = Vec::new();
        for (index, line) in text.split('\n').enumerate() {
            let mut words = Words::of(line);
            if words.is_at_end() {
                continue;
            }
            match entry(&mut words) {
                Ok((name, entry)) => {
                    let map = maps.entry(name.clone());
                    map.or_insert_with(|| Map { name, entries: Vec::new() }).entries.push(entry);
                }
                Err(why) => faults.push((index + 1, why.to_owned())),
            }
        }
        (Self(maps.into_iter().map(|(name, map)| (name, Arc::new(map))).collect()), faults)
    }

    /// The map of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Map>> {
        self.0.get(name)
    }
}

impl Map {
    /// One by which nobody can log in.
    pub fn nobody(name: &str) -> Self {
        Self { name: name.to_owned(), entries: Vec::new() }
    }

    /// The users whom somebody of these names may log in as; for one who may be anybody, that is `wanted`.
    pub fn users_for(&self, names: &[String], wanted: &str) -> Vec<String> {
        let entries = self.entries.iter().filter(|entry| names.contains(&entry.system_user));
        let user = |entry: &Entry| match &entry.user {
            Mapped::Anybody => wanted.to_owned(),
            Mapped::User(user) => user.clone(),
        };
        entries.map(user).collect()
    }
}

fn entry(words: &mut Words<'_>) -> Result<(String, Entry), &'static str> {
    let name = words.take_text().ok_or("no name of a map")?;
    let is_bare = matches!(words.word(), super::words::Word::Bare(_));
    let system_user = words.take_text().ok_or("no system user")?;
    if is_bare && system_user.starts_with('/') {
        return Err("patterns are not supported: name each system user");
    }
    let user = match words.take_keyword("all") {
        true => Mapped::Anybody,
        false => Mapped::User(words.take_text().ok_or("no user")?),
    };
    if !words.is_at_end() {
        return Err("more than a map, a system user and a user");
    }
    let user_name = match &user {
        Mapped::Anybody => "",
        Mapped::User(name) => name,
    };
    if ![name.as_str(), &system_user, user_name].into_iter().all(is_utf8) {
        return Err("not UTF-8");
    }
    Ok((name, Entry { system_user, user }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn users(maps: &Maps, map: &str, names: &[&str], wanted: &str) -> Vec<String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        maps.find(map).map_or_else(Vec::new, |map| map.users_for(&names, wanted))
    }

    #[test]
    fn a_map_turns_names_into_users() {
        let text = "# maps\n\nm\tann@example.org\tann\nm ann@example.org \"all\"\nm bob carl # once\nn \"bob\" all\r\nn ann \"dora\"";
        let (maps, faults) = Maps::read(text);
        assert_eq!(faults, []);
        assert_eq!(users(&maps, "m", &["ann@example.org"], "x"), ["ann", "all"]);
        assert_eq!(users(&maps, "m", &["bob", "other"], "x"), ["carl"]);
        assert_eq!(users(&maps, "m", &["ann"], "x"), Vec::<String>::new());
        assert_eq!(users(&maps, "n", &["bob"], "anybody"), ["anybody"]);
        assert_eq!(users(&maps, "n", &["ann"], "anybody"), ["dora"]);
        assert_eq!(users(&maps, "o", &["bob"], "x"), Vec::<String>::new());
    }

    #[test]
    fn a_bad_line_is_left_out_and_the_others_count() {
        let (maps, faults) = Maps::read("m\nm a\nm a b c\nm /^(.*)$ b\nm , b\nm \"a b\nm good one");
        let lines: Vec<_> = faults.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6]);
        assert_eq!(users(&maps, "m", &["good"], "x"), ["one"]);
        assert_eq!(users(&maps, "m", &["a"], "x"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*") {
            let _ = Maps::read(&text);
        }
    }
}
