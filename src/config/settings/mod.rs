//! The settings table: every setting once, and all that is derived from it.
//!
//! A row says how a setting is called, read and shown, what it is at first, when a change of it takes effect and
//! what it means. The readers, SHOW CONFIG, SET, the reference page and the example file know no setting by name.

use super::diagnostic::nearest;
use super::kinds::Facts;
use super::value::Fault;
use crate::ids::PeerId;

mod entries;
mod global;

pub use entries::{DATABASE, PEER, USER};
pub use global::{GLOBAL, Settings};

/// Which section a setting stands in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// `[pgweir]`, in an ini file `[pgbouncer]`.
    Global,
    /// An entry of `[databases]`.
    Database,
    /// An entry of `[users]`.
    User,
    /// An entry of `[peers]`.
    Peer,
}

/// When a changed value takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reload {
    /// At once.
    Live,
    /// For connections made from then on.
    NewConnections,
    /// When the program starts next; RELOAD and SET leave the old value in force.
    Restart,
}

/// Whether a setting does anything here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It does.
    Full,
    /// Taken from a PgBouncer's file and shown, without a meaning here; why is said to who sets it.
    None(&'static str),
}

/// What zero means for an entry in an ini file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zero {
    /// Zero.
    Value,
    /// Zero, but a number below it means the global setting: PgBouncer's own way to say that nothing is set.
    InheritBelow,
    /// As the global setting: so in PgBouncer, whose entries have no other way to say it.
    Inherit,
}

/// One row of the table: a setting of `T`, which is [`Settings`] or an entry of a section.
pub struct Setting<T: 'static> {
    /// Its name, as PgBouncer calls it.
    pub name: &'static str,
    /// An older name that PgBouncer still takes.
    pub alias: Option<&'static str>,
    /// Its value in a TOML file that does not mention it; `None`: it has none.
    pub default: Option<&'static str>,
    /// The same in an ini file, where it differs.
    pub default_ini: Option<&'static str>,
    /// What kind of value it has.
    pub facts: Facts,
    /// What zero means in an ini file.
    pub zero: Zero,
    /// When a change takes effect.
    pub reload: Reload,
    /// Whether it does anything.
    pub effect: Effect,
    /// What it means, for the reference.
    pub help: &'static str,
    /// Reads a text into its field.
    pub read: fn(&mut T, &str) -> Result<(), Fault>,
    /// Shows its field as a text that `read` takes back; `None`: it has no value.
    pub show: fn(&T) -> Option<String>,
    /// Whether two have the same value.
    pub same: fn(&T, &T) -> bool,
    /// Gives the first the second's value.
    pub copy: fn(&mut T, &T),
}

/// The row with that name.
pub fn find<T>(table: &'static [Setting<T>], name: &str) -> Option<&'static Setting<T>> {
    table.iter().find(|row| row.name == name || row.alias == Some(name))
}

/// The global setting with that name.
pub fn global(name: &str) -> Option<&'static Setting<Settings>> {
    find(GLOBAL, name)
}

/// The names a setting of this section may have.
pub fn names(scope: Scope) -> Vec<&'static str> {
    match scope {
        Scope::Global => GLOBAL.iter().map(|row| row.name).collect(),
        Scope::Database => DATABASE.iter().map(|row| row.name).collect(),
        Scope::User => USER.iter().map(|row| row.name).collect(),
        Scope::Peer => PEER.iter().map(|row| row.name).collect(),
    }
}

/// What to say of a name that is no setting of this section.
pub fn unknown(scope: Scope, name: &str) -> Fault {
    let fault = Fault::new(match scope {
        Scope::Global => "unknown setting".to_owned(),
        Scope::Database => "unknown setting of a database".to_owned(),
        Scope::User => "unknown setting of a user".to_owned(),
        Scope::Peer => "unknown setting of a peer".to_owned(),
    });
    let elsewhere = [
        (Scope::Global, "the global section"),
        (Scope::Database, "[databases]"),
        (Scope::User, "[users]"),
        (Scope::Peer, "[peers]"),
    ];
    let lower = name.to_ascii_lowercase();
    let own = names(scope);
    if own.contains(&lower.as_str()) {
        return fault.hint(format!("did you mean \"{lower}\"? names are in lower case"));
    }
    if let Some((_, section)) = elsewhere.iter().find(|(it, _)| *it != scope && names(*it).contains(&name)) {
        return fault.hint(format!("\"{name}\" is a setting of {section}"));
    }
    match nearest(name, own.iter().copied()) {
        Some(word) => fault.hint(format!("did you mean \"{word}\"?")),
        None => fault,
    }
}

impl Settings {
    /// What an ini file without any setting says.
    pub fn ini() -> Self {
        let mut settings = Self::default();
        for row in GLOBAL {
            if let Some(text) = row.default_ini {
                (row.read)(&mut settings, text).expect("a test reads every default");
            }
        }
        settings
    }

    /// Our own number among processes that share a port: `peer_id`, where it is set.
    pub fn peer(&self) -> Option<PeerId> {
        (self.peer_id > 0).then_some(PeerId(self.peer_id))
    }
}

/// Declares a struct of settings together with its table.
macro_rules! settings {
    (
        $(#[$doc:meta])* $holder:ident, $(#[$table_doc:meta])* $table:ident;
        $($name:ident: $type:ty = $kind:ident, $default:expr, $reload:ident $(, ini $ini:literal)? $(, idle $why:literal)?; $help:literal)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug)]
        pub struct $holder {
            $(#[doc = $help] pub $name: $type,)*
        }

        $(#[$table_doc])*
        pub const $table: &[$crate::config::settings::Setting<$holder>] = &[
            $($crate::config::settings::Setting {
                name: stringify!($name),
                alias: None,
                default: $default,
                default_ini: settings!(@ini $($ini)?),
                facts: $crate::config::kinds::$kind.facts,
                zero: $crate::config::settings::Zero::Value,
                reload: $crate::config::settings::Reload::$reload,
                effect: settings!(@effect $($why)?),
                help: $help,
                read: |it, text| ($crate::config::kinds::$kind.read)(text).map(|value| it.$name = value),
                show: |it| ($crate::config::kinds::$kind.show)(&it.$name),
                same: |a, b| a.$name == b.$name,
                copy: |to, from| to.$name = from.$name.clone(),
            },)*
        ];

        impl Default for $holder {
            /// What a TOML file without any setting says.
            fn default() -> Self {
                const WHY: &str = "a test reads every default";
                Self {
                    $($name: ($crate::config::kinds::$kind.read)(Option::<&str>::unwrap_or($default, "")).expect(WHY),)*
                }
            }
        }
    };
    (@ini) => { None };
    (@ini $ini:literal) => { Some($ini) };
    (@effect) => { $crate::config::settings::Effect::Full };
    (@effect $why:literal) => { $crate::config::settings::Effect::None($why) };
}
use settings;
