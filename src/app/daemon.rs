//! `-d`: the process that was started leaves another one in the background, and ends when that one serves.
//!
//! A process with threads can't be forked, so the program starts itself anew. Whoever started it hears what went wrong
//! on the terminal and by the exit code: success means that clients can connect.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Set for the process in the background.
const MARK: &str = "PGWEIR_IN_BACKGROUND";

/// Whether this is the process in the background.
pub fn is_in_background() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts the process in the background and waits until it serves or has failed.
pub fn launch() -> ExitCode {
    match try_launch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("FATAL cannot start in the background: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_launch() -> io::Result<ExitCode> {
    let mut words = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    command.args(words).env(MARK, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut word = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut word)?;
    }
    if !word.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let code = child.wait()?.code().and_then(|it| u8::try_from(it).ok());
    Ok(code.filter(|it| *it != 0).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// In the background: leaves the terminal's session, so that its end is not ours.
///
/// Errors: the system refuses.
pub fn leave_terminal() -> io::Result<()> {
    rustix::process::setsid()?;
    // Else the process would be called `exe`, and those who look for `pgbouncer` would not find it.
    let path = std::env::args_os().next().map(PathBuf::from);
    if let Some(name) = path.as_deref().and_then(Path::file_name) {
        rustix::thread::set_name(&CString::new(name.as_encoded_bytes())?)?;
    }
    Ok(())
}

/// In the background: tells who started us that we serve, and lets go of its terminal.
///
/// Errors: there is no /dev/null.
pub fn report_ready() -> io::Result<()> {
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    // Nobody may be left to hear it.
    let _ = io::stdout().write_all(b"ready\n").and_then(|()| io::stdout().flush());
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}
