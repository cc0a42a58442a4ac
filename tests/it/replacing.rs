//! pgweir in the place of a distribution's PgBouncer, and back again, by the lines of the README.

use std::path::Path;
use std::process::Command;

use crate::drivers::{drivers, root};
use crate::support::place;
use crate::support::prelude::*;

/// The shell blocks of a section of the README.
fn shell_blocks(readme: &str, heading: &str) -> Vec<String> {
    let section = readme.split(&format!("\n## {heading}\n")).nth(1).expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// Namespaces in which a package can be installed without a trace on the machine.
const NAMESPACES: &[&str] = &["--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// Why this machine cannot play the distribution's.
fn obstacle(packages: &Path) -> Option<&'static str> {
    if !packages.join("fetched").exists() {
        return Some("Debian's packages are not to be had here");
    }
    if !rustix::process::geteuid().is_root() {
        return Some("it takes root");
    }
    let overlay = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/a /mnt/b && \
                   mount -t overlay -o lowerdir=/etc,upperdir=/mnt/a,workdir=/mnt/b overlay /etc";
    let tried = Command::new("unshare").args(NAMESPACES).args(["sh", "-c", overlay]).output();
    let possible = tried.is_ok_and(|output| output.status.success());
    (!possible).then_some("the system gives no namespaces, or no overlays in them")
}

#[test]
fn a_distributions_pgbouncer_is_replaced_and_put_back_by_the_readmes_lines() {
    let debian = drivers().join("debian");
    if let Some(reason) = obstacle(&debian) {
        println!("not tried: {reason}");
        return;
    }
    let cluster = Cluster::shared();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = shell_blocks(&readme, "In PgBouncer's place");
    let [there, back] = blocks.as_slice() else { panic!("two blocks of lines: {blocks:?}") };
    // Where the lines are run: the project's directory, as far as they can tell.
    let project = place::directory("project");
    std::fs::create_dir_all(project.join("target/release")).unwrap();
    std::os::unix::fs::symlink(place::pgweir_program(), project.join("target/release/pgweir")).unwrap();
    std::fs::write(project.join("there"), there).unwrap();
    std::fs::write(project.join("back"), back).unwrap();
    let path = std::env::var("PATH").unwrap();
    let programs = place::postgres_program("psql");
    let mut command = Command::new("unshare");
    command.args(NAMESPACES).arg("bash").arg(root().join("tests/it/replacing/debian.sh"));
    command.arg(debian.join("packages")).arg(cluster.socket_directory()).arg(cluster.port.to_string());
    command.args([project.join("there"), project.join("back")]).current_dir(&project);
    command.env("PATH", format!("{}:/usr/sbin:/sbin:{path}", programs.parent().unwrap().display()));
    let output = command.output().unwrap();
    let _ = std::fs::remove_dir_all(&project);
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && printed.contains("ok stopped"), "{printed}");
    println!("{printed}");
}
