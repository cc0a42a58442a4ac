//! What is wrong with a configuration, and where: `file:line: name: what`, then a hint.

use std::fmt;
use std::path::PathBuf;

/// Whether a file with this finding may be used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// The file can be used; this is worth knowing.
    Note,
    /// The file can be used, but another that is there cannot be read. A start goes on without it and a reload with what
    /// it said before, as in PgBouncer; `check` finds fault with it.
    Unread,
    /// The file cannot be used.
    Error,
}

/// One finding in a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// Error or note.
    pub level: Level,
    /// The file it is in.
    pub file: PathBuf,
    /// The line, counted from 1; 0 where the finding has no line.
    pub line: usize,
    /// The setting, entry or section it is about.
    pub name: String,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        if self.level == Level::Note {
            f.write_str(" note:")?;
        }
        if !self.name.is_empty() {
            write!(f, " {}:", self.name)?;
        }
        write!(f, " {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The word most like `text`, if any is like it at all.
pub fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this Jaro-Winkler likeness a suggestion puzzles more than it helps.
    const LIKENESS_MIN: f64 = 0.8;
    let text = text.to_ascii_lowercase();
    words
        .map(|word| (strsim::jaro_winkler(&text, word), word))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}
