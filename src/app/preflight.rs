//! What would keep a good configuration from starting: looked up, and nothing opened for writing, bound or changed.
//!
//! Takes the same roads as the start, so that what passes here starts. It does not look whether a port is free, nor up
//! names in DNS.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::Access;

use super::pidfile;
use crate::config::{Diagnostic, Fault, Level, Loaded, Settings};
use crate::net::{ListenError, Names, Tls, TlsError, listen};

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// What stands in the way of a start, and what is worth knowing beside. Blocks on the file system.
pub fn findings(loaded: &Loaded) -> Vec<Diagnostic> {
    let settings = &loaded.config.settings;
    let error = |(setting, fault)| loaded.about(Level::Error, setting, fault);
    let mut found = tls(loaded);
    found.extend(user(settings).map(error));
    found.extend(listen::foresee(settings).iter().map(socket).map(error));
    found.extend(resolver(settings).map(error));
    found.extend(written("logfile", settings.logfile.as_deref()).map(error));
    found.extend(written("pidfile", settings.pidfile.as_deref()).map(error));
    found
}

/// A setting and what is wrong with it.
type Mistake = (&'static str, Fault);

fn tls(loaded: &Loaded) -> Vec<Diagnostic> {
    let settings = &loaded.config.settings;
    let Ok(tls) = Tls::of(settings) else {
        let mistake = |error: TlsError| loaded.about(Level::Error, error.setting(), tls_fault(&error));
        return Tls::errors(settings).into_iter().map(mistake).collect();
    };
    let note = |note: &str| {
        let (setting, what) = note.split_once(": ").unwrap_or(("", note));
        loaded.about(Level::Note, setting, Fault::new(what))
    };
    let ended = tls.clients.certificate_expires().and_then(|end| SystemTime::now().duration_since(end).ok());
    let expired = ended.map(|since| {
        let what = format!("the certificate has expired, {} days ago", since.as_secs() / DAY_SECONDS);
        loaded.about(Level::Note, "client_tls_cert_file", Fault::new(what))
    });
    tls.notes().map(note).chain(expired).collect()
}

/// The same without the setting's name, which stands in front of it.
fn tls_fault(error: &TlsError) -> Fault {
    let (text, setting) = (error.to_string(), error.setting());
    Fault::new(match error {
        TlsError::Value { value, .. } => format!("invalid value: {value}"),
        TlsError::Needs { needs, .. } => format!("requires {needs}"),
        _ => text.strip_prefix(&format!("invalid {setting}: ")).unwrap_or(&text).to_owned(),
    })
}

fn user(settings: &Settings) -> Option<Mistake> {
    let name = settings.user.as_deref().filter(|it| !it.is_empty())?;
    pidfile::look_up(name).err().map(|why| ("user", Fault::new(why)))
}

fn socket(error: &ListenError) -> Mistake {
    let setting = match error {
        ListenError::Group { .. } => "unix_socket_group",
        _ => "unix_socket_dir",
    };
    let text = error.to_string();
    let what = text.strip_prefix("unix_socket_group: ").unwrap_or(&text);
    (setting, Fault { what: what.to_owned(), hint: error.hint() })
}

fn resolver(settings: &Settings) -> Option<Mistake> {
    let text = Names::new(settings).err()?.to_string();
    Some(("resolv_conf", Fault::new(text.strip_prefix("resolv_conf ").unwrap_or(&text))))
}

fn written(setting: &'static str, file: Option<&Path>) -> Option<Mistake> {
    let (path, why) = can_be_written(file.filter(|it| !it.as_os_str().is_empty())?).err()?;
    Some((setting, Fault::new(format!("{}: {why}", path.display()))))
}

/// Whether a file can be written, or made where there is none.
///
/// Errors: the file or directory that is in the way, and why.
fn can_be_written(file: &Path) -> Result<(), (PathBuf, io::Error)> {
    let access = |path: &Path, how| {
        rustix::fs::access(path, how).map_err(|why| (path.to_path_buf(), io::Error::from(why)))
    };
    if file.is_dir() {
        return Err((file.to_path_buf(), io::ErrorKind::IsADirectory.into()));
    }
    if file.exists() {
        return access(file, Access::WRITE_OK);
    }
    let directory = file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    access(directory, Access::WRITE_OK | Access::EXEC_OK)
}
