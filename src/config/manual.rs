//! The manual page's sections on settings and variables, in roff, from the table.

use std::fmt::Write;

use super::kinds::Facts;
use super::settings::{DATABASE, Effect, GLOBAL, PEER, Setting, USER};

/// The sections, to be added to a page that has the command line.
pub fn manual() -> String {
    let mut out = String::from(HEAD);
    section(&mut out, "SETTINGS", "Settings of [pgweir], in an ini file [pgbouncer].", GLOBAL);
    section(&mut out, "DATABASES", "Settings of [databases.NAME].", DATABASE);
    section(&mut out, "USERS", "Settings of [users.NAME].", USER);
    section(&mut out, "PEERS", "Settings of [peers.ID].", PEER);
    out.push_str(TAIL);
    out
}

fn section<T>(out: &mut String, name: &str, head: &str, table: &[Setting<T>]) {
    write(out, &format!(".SH {name}\n{}\n", escaped(head)));
    for row in table.iter().filter(|row| row.effect == Effect::Full) {
        let values = match row.default {
            Some(default) if !default.is_empty() => format!("{}; default {default}", values(&row.facts)),
            _ => values(&row.facts),
        };
        let help = escaped(&row.help.replace('`', ""));
        write(out, &format!(".TP\n\\fB{}\\fR ({})\n{help}\n", escaped(row.name), escaped(&values)));
    }
}

fn values(facts: &Facts) -> String {
    if facts.words.is_empty() { facts.name.to_owned() } else { facts.words.join(", ") }
}

fn write(out: &mut String, text: &str) {
    out.write_str(text).expect("writing to a string cannot fail");
}

/// A text as roff takes it literally: backslashes, hyphens, and what begins a request at a line's start.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

const HEAD: &str = "\
.SH CONFIGURATION
A file whose name ends in .ini is read as pgbouncer.ini, any other as TOML with the sections [pgweir],
[databases.NAME], [users.NAME] and [peers.ID].
Times are numbers of seconds or texts with a unit (us, ms, s, min, h, d), sizes numbers of bytes or texts with one
(B, kB, MB, GB, TB).
In the strings of a TOML file ${NAME} stands for a variable of the environment, ${NAME:\\-text} for one with a default.
.SH ENVIRONMENT
With \\-\\-env there is no file. Every setting of [pgweir] is a variable: PGWEIR_POOL_MODE, PGBOUNCER_POOL_MODE or
POOL_MODE. DATABASE_URL, or DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD, say where PostgreSQL is;
so do the same names with POSTGRESQL_ and POSTGRES_, and libpq's PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSWORD.
NAME_FILE names a file that holds what NAME would.
.SH SIGNALS
.TP
\\fBSIGHUP\\fR
Read the configuration again. A file with a mistake changes nothing.
.TP
\\fBSIGTERM\\fR
Take no new clients and end when the last one has left; a second one ends at once.
.TP
\\fBSIGINT\\fR
End when the last transaction has ended; a second one ends at once.
.TP
\\fBSIGQUIT\\fR
End at once.
.TP
\\fBSIGUSR1\\fR, \\fBSIGUSR2\\fR
PAUSE, RESUME.
";

const TAIL: &str = "\
.SH SEE ALSO
\\fBpsql\\fR(1), \\fBpg_isready\\fR(1), \\fBpgbouncer\\fR(1)
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_setting_that_does_something() {
        let page = manual();
        for row in GLOBAL.iter().filter(|row| row.effect == Effect::Full) {
            assert!(page.contains(&format!("\\fB{}\\fR", row.name)), "{}", row.name);
        }
        for row in DATABASE {
            assert!(page.contains(&format!("\\fB{}\\fR", row.name)), "{}", row.name);
        }
    }

    #[test]
    fn text_is_taken_literally() {
        assert_eq!(escaped(".hidden -v a\\b"), "\\&.hidden \\-v a\\eb");
    }
}
