//! The command line of the bench.

use std::path::PathBuf;

const HELP: &str = "\
pgweir under load, beside PostgreSQL itself, PgBouncer and other poolers

cargo bench --bench load -- [OPTIONS] [NAME=PROGRAM …]

  --quick        three short rounds, in less than five minutes in all
  --only WORDS   only works whose names contain all of these words; may be given several times
  --list         what there is to measure
  --chart FILE   also writes the README's chart, an SVG
  NAME=PROGRAM   another pooler: started with the path of a pgbouncer.ini as its only argument

PGWEIR and PGBOUNCER name the two programs; without them pgweir is built with the profile `shipped`, and PgBouncer is
the one on the path.
";

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Full,
    Quick,
}

/// What is asked for.
pub struct Options {
    pub form: Form,
    pub only: Vec<String>,
    pub list: bool,
    pub chart: Option<PathBuf>,
    pub others: Vec<(String, PathBuf)>,
}

impl Options {
    /// Errors: what is to be said instead of measuring.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options =
            Self { form: Form::Full, only: Vec::new(), list: false, chart: None, others: Vec::new() };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} what?\n\n{HELP}"));
            match word.as_str() {
                "--quick" => options.form = Form::Quick,
                "--list" => options.list = true,
                "--only" => options.only.push(value()?),
                "--chart" => options.chart = Some(value()?.into()),
                // Cargo's own.
                "--bench" => {}
                "--help" | "-h" => return Err(HELP.to_owned()),
                other => match other.split_once('=') {
                    Some((name, path)) => options.others.push((name.to_owned(), path.into())),
                    None => return Err(format!("unknown: {other}\n\n{HELP}")),
                },
            }
        }
        Ok(options)
    }

    /// Whether a work is asked for.
    pub fn wants(&self, work: &str) -> bool {
        let contains = |words: &String| words.split_whitespace().all(|word| work.contains(word));
        self.only.is_empty() || self.only.iter().any(contains)
    }
}
