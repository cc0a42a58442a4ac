//! PgBouncer itself, where one is installed: a second opinion. Debian 12 has 1.18, too old for either test.

use std::ops::RangeBounds;
use std::path::PathBuf;

use super::place;

/// The program of PgBouncer 1.x for an x in that range: named by `PGBOUNCER`, or on the path. Says why there is none.
pub fn installed(minors: impl RangeBounds<u32>) -> Result<PathBuf, String> {
    let on_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let sbin = PathBuf::from("/usr/sbin");
        std::env::split_paths(&path).chain([sbin]).map(|it| it.join("pgbouncer")).find(|it| it.exists())
    };
    let program = std::env::var_os("PGBOUNCER").map(PathBuf::from).or_else(on_path);
    let program = program.ok_or("no PgBouncer is installed, and PGBOUNCER names none")?;
    let version = place::command(&program).arg("--version").output().map_err(|it| it.to_string())?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let number = version.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let minor = number.split('.').nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
    if minors.contains(&minor) { Ok(program) } else { Err(format!("{} is {number}", program.display())) }
}
