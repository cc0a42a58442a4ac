//! The settings table: every setting once, and all that is derived from it.
//!
//! A row says how a setting is called, read and shown, what it is at first, when a change of it takes effect and
//! what it means. The readers, SHOW CONFIG, SET, the reference page and the example file know no setting by name.

use super::value::Fault;

mod global;

pub use global::{GLOBAL, Settings};

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

/// One row of the table: a setting of `T`, which is [`Settings`] or an entry of a section.
pub struct Setting<T: 'static> {
    /// Its name, as PgBouncer calls it.
    pub name: &'static str,
    /// Its value in a TOML file that does not mention it; `None`: it has none.
    pub default: Option<&'static str>,
    /// The same in an ini file, where it differs.
    pub default_ini: Option<&'static str>,
    /// What kind of value: `time, bare number in seconds` …
    pub kind: &'static str,
    /// The words it takes, where there are only so many.
    pub words: &'static [&'static str],
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
                default: $default,
                default_ini: settings!(@ini $($ini)?),
                kind: $crate::config::value::$kind.name,
                words: $crate::config::value::$kind.words,
                reload: $crate::config::settings::Reload::$reload,
                effect: settings!(@effect $($why)?),
                help: $help,
                read: |it, text| ($crate::config::value::$kind.read)(text).map(|value| it.$name = value),
                show: |it| ($crate::config::value::$kind.show)(&it.$name),
            },)*
        ];

        impl Default for $holder {
            /// What a TOML file without any setting says.
            fn default() -> Self {
                const WHY: &str = "a test reads every default";
                Self {
                    $($name: ($crate::config::value::$kind.read)(Option::<&str>::unwrap_or($default, "")).expect(WHY),)*
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
