//! The Debian package: made by scripts/package.sh of the program under test, taken apart, and what is in it tried.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::shell::{self, root};
use crate::support::place;

/// The package, where there is cargo-deb to make it with.
fn package() -> Option<&'static Path> {
    static PACKAGE: OnceLock<Option<PathBuf>> = OnceLock::new();
    PACKAGE.get_or_init(make).as_deref()
}

fn make() -> Option<PathBuf> {
    let cargo = || Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if !cargo().args(["deb", "--version"]).output().is_ok_and(|output| output.status.success()) {
        shell::skipped(
            "no Debian package is made, cargo-deb is not installed (cargo install --locked cargo-deb)",
        );
        return None;
    }
    let output = shell::scratch("package");
    let mut script = Command::new(root().join("scripts/package.sh"));
    script.env("PROFILE", "dev").env("OUTPUT", &output).arg("--fast");
    shell::run(&mut script).succeeded();
    let found = std::fs::read_dir(output).unwrap().map(|entry| entry.unwrap().path());
    let packages: Vec<PathBuf> =
        found.filter(|path| path.extension().is_some_and(|it| it == "deb")).collect();
    assert_eq!(packages.len(), 1, "{packages:?}");
    Some(packages[0].clone())
}

fn dpkg_deb(words: &[&str], package: &Path) -> String {
    shell::run(Command::new("dpkg-deb").args(words).arg(package)).succeeded()
}

#[test]
fn the_package_has_its_files_with_their_modes() {
    let Some(package) = package() else { return };
    let list = dpkg_deb(&["--contents"], package);
    for (mode, path) in [
        ("-rwxr-xr-x", "/usr/bin/pgweir"),
        ("-rw-r-----", "/etc/pgweir/pgweir.toml"),
        ("-rw-r-----", "/etc/pgweir/userlist.txt"),
        ("-rw-r--r--", "/usr/share/man/man1/pgweir.1.gz"),
        ("-rw-r--r--", "/usr/share/bash-completion/completions/pgweir"),
        ("-rw-r--r--", "/usr/share/zsh/vendor-completions/_pgweir"),
        ("-rw-r--r--", "/usr/share/fish/vendor_completions.d/pgweir.fish"),
        ("-rw-r--r--", "/lib/systemd/system/pgweir.service"),
        ("-rw-r--r--", "/lib/systemd/system/pgweir.socket"),
        ("-rw-r--r--", "/usr/lib/tmpfiles.d/pgweir.conf"),
        ("-rw-r--r--", "/usr/share/doc/pgweir/examples/pgweir.toml"),
        ("-rw-r--r--", "/usr/share/doc/pgweir/docs/settings.md"),
        ("-rw-r--r--", "/usr/share/doc/pgweir/docs/operating.md"),
        ("-rw-r--r--", "/usr/share/doc/pgweir/copyright"),
        ("-rw-r--r--", "/usr/share/doc/pgweir/changelog.Debian.gz"),
    ] {
        let line = list.lines().find(|line| line.ends_with(path));
        assert!(line.is_some_and(|line| line.starts_with(mode)), "{mode} {path} in\n{list}");
    }
    let control = dpkg_deb(&["--field"], package);
    for part in ["Package: pgweir", "Section: database", "libpam0g", "libc6", "adduser"] {
        assert!(control.contains(part), "{part} in\n{control}");
    }
    let conffiles = dpkg_deb(&["--info"], package);
    assert!(conffiles.contains("conffiles") && conffiles.contains("postinst"), "{conffiles}");
    let postinst =
        shell::run(Command::new("dpkg-deb").arg("--info").arg(package).arg("postinst")).succeeded();
    assert!(!postinst.contains("#DEBHELPER#") && postinst.contains("deb-systemd-helper"), "{postinst}");
    assert!(postinst.contains("systemd-tmpfiles --create pgweir.conf"), "{postinst}");
    assert!(!postinst.contains("deb-systemd-invoke start"), "nothing is started before it is configured");
}

#[test]
fn what_the_package_brings_works() {
    let Some(package) = package() else { return };
    let here = shell::scratch("unpacked");
    shell::run(place::command("dpkg-deb").arg("-x").arg(package).arg(&here)).succeeded();
    // Its configuration is good, with its own list of users.
    let config = std::fs::read_to_string(here.join("etc/pgweir/pgweir.toml")).unwrap();
    let users = here.join("etc/pgweir/userlist.txt").display().to_string();
    let mine = here.join("pgweir.toml");
    place::write(&mine, &config.replace("/etc/pgweir/userlist.txt", &users));
    let said = shell::run(Command::new(here.join("usr/bin/pgweir")).arg("check").arg(&mine)).succeeded();
    assert!(said.contains("good"), "{said}");
    // The shells take their completions, and bash completes.
    let bash = here.join("usr/share/bash-completion/completions/pgweir").display().to_string();
    let script = "source \"$0\"; COMP_WORDS=(pgweir chec) COMP_CWORD=1; _pgweir pgweir chec pgweir; echo \"${COMPREPLY[@]}\"";
    assert_eq!(shell::run(Command::new("bash").args(["-c", script, &bash])).succeeded(), "check\n");
    // The manual page names every subcommand and is clean roff, where there is a groff to judge it.
    let page = here.join("usr/share/man/man1/pgweir.1.gz");
    let text = shell::run(Command::new("gunzip").arg("-c").arg(&page)).succeeded();
    assert!(text.contains(".TH") && text.contains("check") && text.contains("pool_mode"), "{text}");
    if Command::new("groff").arg("--version").output().is_ok() {
        let script = "gunzip -c \"$0\" | groff -Kutf8 -man -ww -Tutf8 -z";
        let judged = shell::run(Command::new("bash").args(["-c", script]).arg(&page));
        assert!(judged.stderr.is_empty(), "{}", judged.stderr);
    }
}

/// systemd's own judgement of the units, wherever it is installed. Before 253 it does not know `notify-reload`, and goes on
/// with `notify`.
#[test]
fn systemd_takes_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        shell::skipped("the units are not judged, systemd-analyze is not installed");
        return;
    }
    let here = shell::scratch("units");
    for name in ["pgweir.service", "pgweir.socket"] {
        let text = std::fs::read_to_string(root().join("config/systemd").join(name)).unwrap();
        let text = text.replace("/usr/bin/pgweir ", &format!("{} ", place::pgweir_program().display()));
        place::write(&here.join(name), &text);
    }
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["verify", "--man=no"]).args([here.join("pgweir.service"), here.join("pgweir.socket")]);
    let judged = shell::run(&mut analyze);
    let said: Vec<&str> = judged
        .stderr
        .lines()
        .filter(|line| line.contains("pgweir") && !line.ends_with("notify-reload"))
        .collect();
    assert!(said.is_empty(), "{said:?}");
}
