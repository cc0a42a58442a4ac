//! Reads the `auth_file`: lines of `"user" "secret"`, as `load_auth_file` in PgBouncer's `src/loader.c` does.
//!
//! A quote inside is doubled, a comment begins with `;`, and what follows the secret on its line does not count. What
//! does not count may be in any encoding.

use std::collections::BTreeMap;

use crate::ids::UserName;

use super::Secret;
use super::value::{self, is_utf8, not_utf8, user_name};
use super::words::unquote;

/// PgBouncer's limit: MAX_PASSWORD in `include/bouncer.h`, less its terminator.
const SECRET_BYTES_MAX: usize = 65530;

/// A line's number and what is wrong with it.
pub type Fault = (usize, value::Fault);

/// What a file says.
#[derive(Debug)]
pub struct UserList {
    /// Its users.
    pub secrets: BTreeMap<UserName, Secret>,
    /// Lines that PgBouncer can use and nobody can log in by here, because they are not UTF-8.
    pub left_out: Vec<Fault>,
}

/// The users of a file, or every line that is wrong. Of a user with two lines the later counts, also where it is left
/// out: the earlier one may have a secret that is not to be used any more.
pub fn read(text: &str) -> Result<UserList, Vec<Fault>> {
    let mut users = UserList { secrets: BTreeMap::new(), left_out: Vec::new() };
    let mut faults = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        match user(line) {
            Ok((name, _)) if !is_utf8(name.as_str()) => {
                users.left_out.push((index + 1, not_utf8("the user's name")));
            }
            Ok((name, secret)) if !is_utf8(secret.reveal()) => {
                users.secrets.remove(&name);
                users.left_out.push((index + 1, not_utf8(&format!("the secret of {}", name.as_str()))));
            }
            Ok((name, secret)) => drop(users.secrets.insert(name, secret)),
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
