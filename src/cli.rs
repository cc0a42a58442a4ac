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

mod health;
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
    /// Take the configuration from variables of the environment, unless a file is mounted where images have theirs
    #[arg(long, conflicts_with = "config")]
    env: bool,
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

/// Where a container image's users mount a file; one that is there comes before the variables.
const MOUNTED: [&str; 3] =
    ["/etc/pgweir/pgweir.toml", "/etc/pgbouncer/pgbouncer.ini", "/bitnami/pgbouncer/conf/pgbouncer.ini"];

/// The address that `pgweir health` asks unless told otherwise.
const HEALTH_ADDRESS: &str = "127.0.0.1:9930";

#[derive(Subcommand, Debug)]
enum Command {
    /// Report every mistake of a configuration file
    Check {
        /// The file
        #[arg(value_name = "FILE", required_unless_present = "env")]
        file: Option<PathBuf>,
        /// The variables of the environment in place of a file
        #[arg(long, conflicts_with = "file")]
        env: bool,
    },
    /// Print a configuration file with every setting, its meaning and its default
    Example,
    /// Print the reference of all settings, in Markdown
    Settings,
    /// Succeed if the pgweir whose http_listen is ADDRESS takes clients
    Health {
        /// Host and port
        #[arg(value_name = "ADDRESS", default_value = HEALTH_ADDRESS)]
        address: String,
    },
    /// Print the manual page, in roff
    Man,
    /// Print the completions for a shell
    Completions {
        /// Which one
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
}

/// Runs the program with these arguments, the first being its own name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match parse(&arguments) {
        Ok(Task::Run(options)) => app::run(options),
        Ok(Task::Check(Source { file, dialect })) => check(&file, dialect),
        Ok(Task::Print(text)) => print(&text),
        Ok(Task::Health(address)) => match health::ask(&address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        },
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
    Check(Source),
    Print(String),
    Health(String),
}

/// Where a configuration is, and how it is written.
#[derive(PartialEq, Eq, Debug)]
struct Source {
    file: PathBuf,
    dialect: Dialect,
}

impl Source {
    fn file(file: PathBuf) -> Self {
        Self { dialect: config::dialect_of(&file), file }
    }

    fn environment() -> Self {
        Self { file: config::ENVIRONMENT.into(), dialect: Dialect::Environment }
    }
}

/// Whether the program was started under PgBouncer's name.
fn is_pgbouncer(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == "pgbouncer")
}

fn parse(arguments: &[OsString]) -> Result<Task, clap::Error> {
    if is_pgbouncer(arguments) {
        let mut run = pgbouncer::parse(arguments)?;
        let source = run.config.take().map(|file| Source { file, dialect: Dialect::Ini });
        return start(run, source);
    }
    let Arguments { mut run, env, command } = Arguments::try_parse_from(arguments)?;
    match command {
        Some(Command::Check { file, .. }) => {
            Ok(Task::Check(file.map_or_else(Source::environment, Source::file)))
        }
        Some(Command::Example) => Ok(Task::Print(config::example())),
        Some(Command::Settings) => Ok(Task::Print(config::reference())),
        Some(Command::Health { address }) => Ok(Task::Health(address)),
        Some(Command::Man) => Ok(Task::Print(manual_page())),
        Some(Command::Completions { shell }) => Ok(Task::Print(completions(shell))),
        None if env => start(run, Some(mounted())),
        None => {
            let source = run.config.take().map(Source::file);
            start(run, source)
        }
    }
}

/// A file that was mounted for a container, else its environment.
fn mounted() -> Source {
    let file = MOUNTED.iter().map(PathBuf::from).find(|file| file.exists());
    file.map_or_else(Source::environment, Source::file)
}

fn start(run: Run, source: Option<Source>) -> Result<Task, clap::Error> {
    let Run { daemon, quiet, verbose, reboot, user, version, .. } = run;
    if version {
        return Ok(Task::Print(format!("{VERSION}\n")));
    }
    let Source { file: config, dialect } =
        source.ok_or_else(|| Arguments::command().error(ErrorKind::MissingRequiredArgument, NO_FILE))?;
    Ok(Task::Run(RunOptions { config, dialect, verbose, quiet, daemon, reboot, user }))
}

/// pgweir(1): the command line as clap knows it, the rest from the settings table.
fn manual_page() -> String {
    let mut page = Vec::new();
    let written = clap_mangen::Man::new(Arguments::command()).render(&mut page);
    written.expect("a vector takes everything");
    String::from_utf8_lossy(&page).into_owned() + &config::manual()
}

fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "pgweir", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Prints what is wrong with a configuration; fails if it cannot be used, or not started with.
fn check(file: &Path, dialect: Dialect) -> ExitCode {
    let (findings, config) = match config::load(file, dialect) {
        Ok(mut loaded) => {
            let found = app::preflight(&loaded);
            loaded.notes.extend(found);
            let is_good = loaded.notes.iter().all(|it| it.level == Level::Note);
            (loaded.notes, is_good.then_some(loaded.config))
        }
        Err(findings) => (findings, None),
    };
    let mut text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    match config {
        Some(config) => {
            text.push_str(&summary(file, &config));
            print(&text)
        }
        None => {
            let mistakes = findings.iter().filter(|finding| finding.level > Level::Note).count();
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
        assert_eq!(parsed("pgweir check a.toml"), Ok(Task::Check(Source::file("a.toml".into()))));
        assert_eq!(parsed("pgweir check --env"), Ok(Task::Check(Source::environment())));
        assert_eq!(parsed("pgweir health"), Ok(Task::Health(HEALTH_ADDRESS.to_owned())));
        assert_eq!(parsed("pgweir -V"), Ok(Task::Print(format!("{VERSION}\n"))));
        assert_eq!(parsed("pgbouncer --version"), Ok(Task::Print(format!("{VERSION}\n"))));
        assert_eq!(parsed("pgweir settings"), Ok(Task::Print(config::reference())));
        assert_eq!(parsed("pgweir -h"), Err(ErrorKind::DisplayHelp));
        assert_eq!(parsed("pgbouncer --help"), Err(ErrorKind::DisplayHelp));
    }

    #[test]
    fn a_container_is_told_by_its_environment() {
        assert_eq!(runs("pgweir --env").dialect, Dialect::Environment);
        assert!(parsed("pgweir --env a.toml").is_err());
        assert!(parsed("pgweir check --env a.toml").is_err());
        assert!(parsed("pgbouncer --env").is_err());
    }

    #[test]
    fn the_manual_page_and_the_completions_know_every_command() {
        for command in Arguments::command().get_subcommands() {
            let name = command.get_name();
            assert!(manual_page().contains(&format!("pgweir\\-{name}")), "{name}");
            for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
                assert!(completions(shell).contains(name), "{name}");
            }
        }
        assert!(manual_page().contains("\\fBserver_idle_timeout\\fR"));
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
