//! How a setting is written down: once, as one field with its documentation, its default and its range.
//!
//! `settings!` makes of that one line the field, its default, its JSON name, its check, and its line in `weft config --annotated`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// A value that can stand in the configuration.
pub trait Setting {
    /// Writes the value as JSON; a group of settings writes each field under its documentation.
    fn annotate(&self, out: &mut String, indent: usize);

    /// Adds what is not allowed about it to `faults`; `path` is where it stands, empty at the top.
    fn check(&self, path: &str, faults: &mut Vec<Invalid>) {
        let _ = (path, faults);
    }

    /// The value as a number, when it is one: what its range is checked by.
    fn number(&self) -> Option<f64> {
        None
    }
}

/// A duration in milliseconds, as it is written in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

macro_rules! leaf {
    ($($ty:ty => $number:expr),* $(,)?) => {$(
        impl $crate::model::settings::Setting for $ty {
            fn annotate(&self, out: &mut String, _: usize) {
                out.push_str(&serde_json::to_string(self).unwrap_or_default());
            }

            fn number(&self) -> Option<f64> {
                let number: fn(&Self) -> Option<f64> = $number;
                number(self)
            }
        }
    )*};
}
pub(crate) use leaf;

leaf! {
    bool => |_| None,
    String => |_| None,
    u16 => |n| Some(f64::from(*n)),
    u32 => |n| Some(f64::from(*n)),
    usize => |n| Some(*n as f64),
    f64 => |n| Some(*n),
    Millis => |n| Some(n.0 as f64),
    serde_json::Value => |_| None,
    Vec<u16> => |_| None,
    Vec<String> => |_| None,
    BTreeMap<String, String> => |_| None,
}

impl<T: Setting> Setting for Option<T> {
    fn annotate(&self, out: &mut String, indent: usize) {
        match self {
            None => out.push_str("null"),
            Some(value) => value.annotate(out, indent),
        }
    }

    fn check(&self, path: &str, faults: &mut Vec<Invalid>) {
        if let Some(value) = self {
            value.check(path, faults);
        }
    }

    fn number(&self) -> Option<f64> {
        self.as_ref().and_then(Setting::number)
    }
}

/// Writes one field of a group.
pub fn annotate_field(out: &mut String, indent: usize, docs: &[&str], field: &str, value: &dyn Setting, last: bool) {
    let pad = "  ".repeat(indent + 1);
    for line in docs {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{pad}//{line}");
    }
    let _ = write!(out, "{pad}\"{}\": ", camel(field));
    value.annotate(out, indent + 1);
    out.push_str(if last { "\n" } else { ",\n" });
}

/// Checks one field of a group against its range and by its own rules.
pub fn check_field(path: &str, field: &str, value: &dyn Setting, range: Option<(f64, f64)>, faults: &mut Vec<Invalid>) {
    let path = if path.is_empty() { camel(field) } else { format!("{path}.{}", camel(field)) };
    if let (Some((low, high)), Some(number)) = (range, value.number())
        && !(low <= number && number <= high)
    {
        faults.push(Invalid::new(path.clone(), format!("{number} is out of range; use {low} to {high}")));
    }
    value.check(&path, faults);
}

/// `snake_case` as `camelCase`.
pub fn camel(field: &str) -> String {
    // A keyword, as Rust writes it.
    let field = field.strip_prefix("r#").unwrap_or(field);
    let mut out = String::with_capacity(field.len());
    let mut upper = false;
    for c in field.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

/// Declares a group of settings. Each field is `/// why` + `name: Type = default[, in low, high];`.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident : $ty:ty = $default:expr $(, in $low:literal, $high:literal)? ; )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $ty, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $crate::model::settings::Setting for $name {
            fn annotate(&self, out: &mut String, indent: usize) {
                let fields: &[(&[&str], &str, &dyn $crate::model::settings::Setting)] =
                    &[$( (&[$($doc),+], stringify!($field), &self.$field), )+];
                out.push_str("{\n");
                for (i, (docs, field, value)) in fields.iter().enumerate() {
                    $crate::model::settings::annotate_field(out, indent, docs, field, *value, i + 1 == fields.len());
                }
                out.push_str(&"  ".repeat(indent));
                out.push('}');
            }

            fn check(&self, path: &str, faults: &mut Vec<$crate::model::Invalid>) {
                $( $crate::model::settings::check_field(
                    path, stringify!($field), &self.$field, None$(.or(Some(($low as f64, $high as f64))))?, faults,
                ); )+
            }
        }
    };
}
pub(crate) use settings;

#[cfg(test)]
mod tests {
    use super::*;

    settings! {
        /// Inner.
        #[allow(unreachable_pub)]
        pub struct Inner {
            /// How often.
            max_tries: u32 = 3, in 1, 10;
        }
    }
    settings! {
        /// Outer.
        #[allow(unreachable_pub)]
        pub struct Outer {
            /// The inside.
            inner: Inner = Inner::default();
            /// How long.
            wait_ms: Millis = Millis(5);
        }
    }

    #[test]
    fn a_group_prints_each_field_under_its_documentation() {
        let mut out = String::new();
        Outer::default().annotate(&mut out, 0);
        assert_eq!(
            out,
            "{\n  // The inside.\n  \"inner\": {\n    // How often.\n    \"maxTries\": 3\n  },\n  // How long.\n  \"waitMs\": 5\n}"
        );
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_path_and_what_is_allowed() {
        let mut faults = Vec::new();
        Outer { inner: Inner { max_tries: 0 }, ..Outer::default() }.check("", &mut faults);
        assert_eq!(faults, [Invalid::new("inner.maxTries", "0 is out of range; use 1 to 10")]);
    }
}
