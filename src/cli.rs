//! Arguments, subcommands and exit codes.
//!
//! The flags are PgBouncer's. Started under the name `pgbouncer` (a link is enough), the program is PgBouncer to
//! scripts and service files: every file is read as a pgbouncer.ini, and there are no subcommands.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

use crate::admin::VERSION;
use crate::app::{self, RunOptions};
use crate::config::{self, Config, Dialect, Level};

mod pgbouncer;

/// What PgBouncer says where its one argument is missing.
const NO_FILE: &str = "no configuration file specified";

#[derive(Parser, Debug)]
#[command(
    name = "pgweir",
    about = "A PostgreSQL connection pooler that takes PgBouncer's place",
    override_usage = "pgweir [OPTIONS] CONFIG\n       pgweir COMMAND",
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    disable_version_flag = true
)]
struct Arguments {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What PgBouncer takes too.
#[derive(Args, Debug)]
struct Run {
    /// Run in the background
    #[arg(short, long)]
    daemon: bool,
    /// Log to the log file only, not to the terminal
    #[arg(short, long)]
    quiet: bool,
    /// Log more; may be given several times
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Take over from the process that runs already
    #[arg(short = 'R', long)]
    reboot: bool,
    /// User of the system to run as
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    /// Print the version
    #[arg(short = 'V', long)]
    version: bool,
    /// The configuration: TOML, or a pgbouncer.ini if the name ends in .ini
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Report every mistake of a configuration file
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print a configuration file with every setting, its meaning and its default
    Example,
    /// Print the reference of all settings, in Markdown
    Settings,
}

/// Runs the program with these arguments, the first being its own name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match parse(&arguments) {
        Ok(Task::Run(options)) => app::run(options),
        Ok(Task::Check(file)) => check(&file),
        Ok(Task::Print(text)) => print(&text),
        Err(error) if error.kind() == ErrorKind::DisplayHelp => print(&error.render().to_string()),
        Err(error) if is_pgbouncer(&arguments) => {
            eprint!("{}", pgbouncer::complaint(&error, &arguments));
            ExitCode::FAILURE
        }
        Err(error) => {
            // Where standard error is closed there is nobody left to tell.
            let _ = error.print();
            ExitCode::FAILURE
        }
    }
}

/// What the arguments ask for.
#[derive(PartialEq, Eq, Debug)]
enum Task {
    Run(RunOptions),
    Check(PathBuf),
    Print(String),
}

/// Whether the program was started under PgBouncer's name.
fn is_pgbouncer(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == "pgbouncer")
}

fn parse(arguments: &[OsString]) -> Result<Task, clap::Error> {
    let (run, command) = if is_pgbouncer(arguments) {
        (pgbouncer::parse(arguments)?, None)
    } else {
        let arguments = Arguments::try_parse_from(arguments)?;
        (arguments.run, arguments.command)
    };
    match command {
        Some(Command::Check { file }) => Ok(Task::Check(file)),
        Some(Command::Example) => Ok(Task::Print(config::example())),
        Some(Command::Settings) => Ok(Task::Print(config::reference())),
        None if run.version => Ok(Task::Print(format!("{VERSION}\n"))),
        None => options(run, is_pgbouncer(arguments)).map(Task::Run),
    }
}

fn options(run: Run, as_pgbouncer: bool) -> Result<RunOptions, clap::Error> {
    let Run { daemon, quiet, verbose, reboot, user, config, .. } = run;
    let config =
        config.ok_or_else(|| Arguments::command().error(ErrorKind::MissingRequiredArgument, NO_FILE))?;
    let dialect = if as_pgbouncer { Dialect::Ini } else { config::dialect_of(&config) };
    Ok(RunOptions { config, dialect, verbose, quiet, daemon, reboot, user })
}

/// Prints what is wrong with a file; fails if it cannot be used.
fn check(file: &Path) -> ExitCode {
    let (findings, config) = match config::load(file, config::dialect_of(file)) {
        Ok(loaded) => (loaded.notes, Some(loaded.config)),
        Err(findings) => (findings, None),
    };
    let mut text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    match config {
        Some(config) => {
            text.push_str(&summary(file, &config));
            print(&text)
        }
        None => {
            let mistakes = findings.iter().filter(|finding| finding.level == Level::Error).count();
            let noun = if mistakes == 1 { "mistake" } else { "mistakes" };
            text.push_str(&format!("{}: {mistakes} {noun}\n", file.display()));
            print(&text);
            ExitCode::FAILURE
        }
    }
}

fn summary(file: &Path, config: &Config) -> String {
    let databases = config.databases.len() + usize::from(config.any_database.is_some());
    format!(
        "{}: good; databases: {databases}, users with a secret: {}\n",
        file.display(),
        config.secrets.len()
    )
}

/// Prints to standard output; fails if nobody reads it.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn parsed(line: &str) -> Result<Task, ErrorKind> {
        parse(&words(line)).map_err(|it| it.kind())
    }

    fn runs(line: &str) -> RunOptions {
        match parsed(line) {
            Ok(Task::Run(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_flags_are_pgbouncers() {
        let options = runs("pgweir -d -q -v -v -R -u nobody /etc/a.toml");
        assert!(options.daemon && options.quiet && options.reboot);
        assert_eq!((options.verbose, options.user.as_deref()), (2, Some("nobody")));
        assert_eq!(options.config, Path::new("/etc/a.toml"));
        assert_eq!(options, runs("pgweir --daemon --quiet -vv --reboot --user=nobody /etc/a.toml"));
    }

    #[test]
    fn the_name_of_the_file_or_of_the_program_decides_the_syntax() {
        assert_eq!(runs("pgweir a.toml").dialect, Dialect::Toml);
        assert_eq!(runs("pgweir a.INI").dialect, Dialect::Ini);
        assert_eq!(runs("/usr/sbin/pgbouncer -q a.conf").dialect, Dialect::Ini);
        assert_eq!(runs("pgbouncer check").config, Path::new("check"));
    }

    #[test]
    fn commands_and_versions_need_no_configuration() {
        assert_eq!(parsed("pgweir check a.toml"), Ok(Task::Check("a.toml".into())));
        assert_eq!(parsed("pgweir -V"), Ok(Task::Print(format!("{VERSION}\n"))));
        assert_eq!(parsed("pgbouncer --version"), Ok(Task::Print(format!("{VERSION}\n"))));
        assert_eq!(parsed("pgweir settings"), Ok(Task::Print(config::reference())));
        assert_eq!(parsed("pgweir -h"), Err(ErrorKind::DisplayHelp));
        assert_eq!(parsed("pgbouncer --help"), Err(ErrorKind::DisplayHelp));
    }

    #[test]
    fn under_pgbouncers_name_options_are_read_and_refused_as_getopt_does() {
        assert_eq!(runs("pgbouncer --quie --verb --verb -d -d a").verbose, 2);
        assert_eq!(runs("pgbouncer a -unobody -q").user.as_deref(), Some("nobody"));
        for (line, expected) in [
            ("pgbouncer -q", "no configuration file specified"),
            ("pgbouncer a b", "no configuration file specified"),
            ("pgbouncer -qx a", "invalid option -- 'x'"),
            ("pgbouncer --nonsense=1 a", "unrecognized option '--nonsense'"),
            ("pgbouncer a -u", "option requires an argument -- 'u'"),
            ("pgbouncer a --user", "option '--user' requires an argument"),
            ("pgbouncer --quiet=yes a", "option '--quiet' doesn't allow an argument"),
        ] {
            let error = parse(&words(line)).unwrap_err();
            let said = pgbouncer::complaint(&error, &words(line));
            assert_eq!(said.lines().next(), Some(&*format!("pgbouncer: {expected}")), "{line}");
        }
    }

    #[test]
    fn a_command_line_without_or_with_two_files_is_refused() {
        assert_eq!(parsed("pgweir"), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(parsed("pgbouncer -q"), Err(ErrorKind::MissingRequiredArgument));
        assert!(parsed("pgweir a b").is_err());
        assert!(parsed("pgweir --nonsense a").is_err());
        assert!(parsed("pgweir check").is_err());
    }
}
