//! What a daemon leaves on the system and takes from it: its pid file and its user.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::unistd::User;
use rustix::process::{Gid, Pid, Uid, getuid, test_kill_process};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

/// The pid file, removed when this is dropped.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes the process's number into the file, if one is asked for.
    ///
    /// Errors: another instance runs, or the file can't be written.
    pub fn claim(path: Option<&Path>) -> Result<Option<Self>, String> {
        let Some(path) = path.filter(|it| !it.as_os_str().is_empty()) else { return Ok(None) };
        if let Ok(text) = fs::read_to_string(path) {
            if is_alive(&text) {
                return Err(format!("pidfile '{}' exists, another instance running?", path.display()));
            }
            tracing::warn!("removing stale pidfile '{}'", path.display());
            // If it can't be removed, the next step says why.
            let _ = fs::remove_file(path);
        }
        let failed = |error| format!("cannot write pidfile '{}': {error}", path.display());
        let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Some(Self(path.to_path_buf())))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn is_alive(text: &str) -> bool {
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    // A process that may not be signalled is alive.
    pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// A user of the system.
///
/// Errors: there is none of this name, or the system cannot tell.
pub fn look_up(name: &str) -> Result<User, String> {
    let user = User::from_name(name).map_err(|it| format!("cannot look up user {name}: {it}"))?;
    user.ok_or_else(|| format!("no such user of the system: {name}"))
}

/// Becomes another user of the system, for good. Must come before any thread is started.
///
/// Errors: this is root and nobody was named, or the user is unknown, or the system refuses.
pub fn become_user(name: Option<&str>) -> Result<(), String> {
    let Some(name) = name.filter(|it| !it.is_empty()) else {
        return if getuid().is_root() {
            Err("pgweir should not run as root: name a user with -u or `user`".to_owned())
        } else {
            Ok(())
        };
    };
    let user = look_up(name)?;
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    if getuid().as_raw() == uid {
        return Ok(());
    }
    let refused = |it| format!("cannot become user {name}: {it}");
    set_thread_groups(&[Gid::from_raw(gid)]).map_err(refused)?;
    set_thread_gid(Gid::from_raw(gid)).map_err(refused)?;
    set_thread_uid(Uid::from_raw(uid)).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_kept_by_a_living_process_and_taken_from_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let held = PidFile::claim(Some(&path)).unwrap();
        assert!(PidFile::claim(Some(&path)).unwrap_err().contains("another instance running"));
        drop(held);
        assert!(!path.exists());
        fs::write(&path, "4194305\n").unwrap();
        assert!(PidFile::claim(Some(&path)).unwrap().is_some());
    }
}
