//! A private LDAP server: OpenLDAP's slapd on free ports, with a handful of people.

use std::path::{Path, PathBuf};

use super::certs::Certificates;
use super::place::{self, Guarded};

/// What everybody's name ends in.
pub const BASE: &str = "dc=example,dc=net";

/// `ann-secret` is the password of `ann`, and so on; `scram_user` has the one it has in every cluster. Two people share the mail address `both@example.net`.
const PEOPLE: &str = "\
dn: dc=example,dc=net
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,dc=example,dc=net
objectClass: organizationalUnit
ou: people

dn: uid=ann,ou=people,dc=example,dc=net
objectClass: inetOrgPerson
uid: ann
sn: A
cn: Ann
mail: ann@example.net
mail: both@example.net
userPassword: ann-secret

dn: uid=bob,ou=people,dc=example,dc=net
objectClass: inetOrgPerson
uid: bob
sn: B
cn: Bob
mail: both@example.net
userPassword: bob-secret

dn: uid=scram_user,ou=people,dc=example,dc=net
objectClass: inetOrgPerson
uid: scram_user
sn: S
cn: S
userPassword: scram-secret

dn: cn=reader,dc=example,dc=net
objectClass: inetOrgPerson
sn: R
cn: reader
userPassword: reader-secret
";

/// A running slapd; it ends when it is dropped.
pub struct Slapd {
    directory: PathBuf,
    /// For `ldap://` and StartTLS.
    pub port: u16,
    /// For `ldaps://`.
    pub tls_port: u16,
    server: Option<Guarded>,
}

impl Slapd {
    /// Starts one and waits until it answers. Its certificate is the one for `localhost`.
    #[track_caller]
    pub fn start() -> Self {
        let program = ["/usr/sbin/slapd", "/usr/libexec/slapd", "/usr/lib/openldap/slapd"];
        let program = program.into_iter().map(Path::new).find(|path| path.exists());
        let program = program.expect("slapd is not installed: `make test` installs it");
        let schemas = ["/etc/ldap/schema", "/etc/openldap/schema"];
        let schemas = schemas.into_iter().find(|path| Path::new(path).exists()).expect("slapd has schemas");
        let directory = place::directory("ldap");
        let at = |name: &str| directory.join(name).display().to_string();
        std::fs::create_dir(directory.join("data")).expect("a new directory takes another");
        place::give_away(&directory.join("data"));
        let certificates = Certificates::get();
        place::write(&directory.join("ca.crt"), &certificates.authority);
        place::write(&directory.join("server.crt"), &certificates.server.certificate);
        place::write(&directory.join("server.key"), &certificates.server.key);
        place::write(&directory.join("people.ldif"), PEOPLE);
        let config = format!(
            "include {schemas}/core.schema\ninclude {schemas}/cosine.schema\ninclude {schemas}/inetorgperson.schema\n\
             pidfile {}\nTLSCACertificateFile {}\nTLSCertificateFile {}\nTLSCertificateKeyFile {}\n\
             database ldif\ndirectory {}\nsuffix \"{BASE}\"\n\
             access to attrs=userPassword by anonymous auth\n\
             access to dn.subtree=\"ou=people,{BASE}\" by dn.exact=\"cn=reader,{BASE}\" read by anonymous read\n\
             access to * by anonymous read by * read\n",
            at("pid"),
            at("ca.crt"),
            at("server.crt"),
            at("server.key"),
            at("data")
        );
        place::write(&directory.join("slapd.conf"), &config);
        let added = place::command(program)
            .args(["-T", "add", "-f", &at("slapd.conf"), "-l", &at("people.ldif")])
            .output()
            .expect("slapd runs");
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let (port, tls_port) = (place::free_port(), place::free_port());
        let urls = format!("ldap://127.0.0.1:{port} ldaps://127.0.0.1:{tls_port}");
        // The guard's shell has SIGQUIT ignored for what it starts, and slapd would leave it so.
        let slapd = program.display().to_string();
        let arguments = ["--default-signal=QUIT", &slapd, "-d", "0", "-f", &at("slapd.conf"), "-h", &urls];
        let server = Guarded::start(&directory, Path::new("/usr/bin/env"), &arguments);
        let slapd = Self { directory, port, tls_port, server: Some(server) };
        super::eventually("slapd listens", || {
            [port, tls_port].iter().all(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok())
        });
        slapd
    }

    /// A new `ldap.conf` with these lines.
    pub fn client_conf(&self, lines: &str) -> String {
        let path = self.directory.join("ldap.conf");
        place::write(&path, lines);
        path.display().to_string()
    }

    /// The certificate of the authority that has signed its own.
    pub fn authority(&self) -> String {
        self.directory.join("ca.crt").display().to_string()
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.remove();
        }
    }
}
