//! Reads the `auth_file`: lines of `"user" "secret"`, as `load_auth_file` in PgBouncer's `src/loader.c` does.
//!
//! A quote inside is doubled, a comment begins with `;`, and what follows the secret on its line does not count.

use crate::ids::UserName;

use super::Secret;
use super::value::{self, user_name};
use super::words::unquote;

/// PgBouncer's limit: MAX_PASSWORD in `include/bouncer.h`, less its terminator.
const SECRET_BYTES_MAX: usize = 65530;

/// A line's number and what is wrong with it.
pub type Fault = (usize, value::Fault);

/// The users of a file, or every line that is wrong. Of a user with two lines the later counts.
pub fn read(text: &str) -> Result<Vec<(UserName, Secret)>, Vec<Fault>> {
    let (mut users, mut faults) = (Vec::new(), Vec::new());
    for (index, line) in text.split('\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        match user(line) {
            Ok(user) => users.push(user),
            Err(fault) => faults.push((index + 1, fault)),
        }
    }
    if faults.is_empty() { Ok(users) } else { Err(faults) }
}

fn user(line: &str) -> Result<(UserName, Secret), value::Fault> {
    let broken = || value::Fault::new("broken line").hint("as in \"user\" \"secret\"; comments begin with ;");
    let (name, rest) = line.strip_prefix('"').and_then(unquote).ok_or_else(broken)?;
    // Whatever stands between the two is passed over, as in PgBouncer.
    let (_, secret) = rest.split_once('"').ok_or_else(broken)?;
    let (secret, _) = unquote(secret).ok_or_else(broken)?;
    if secret.len() > SECRET_BYTES_MAX {
        return Err(value::Fault::new(format!("secret too long: at most {SECRET_BYTES_MAX} bytes")));
    }
    Ok((user_name(&name)?, Secret::new(secret)))
}
