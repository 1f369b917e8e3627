//! Names of services and ids of instances: short, printable, safe in a URL, a header, a log line and a metric label.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{Invalid, shown};

/// What a name may look like, in the words of an error message.
const ALLOWED: &str = "1 to 63 characters: letters, digits, '.', '_' and '-', the first a letter or a digit";

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// [`Invalid`] when it is empty, longer than 63 bytes, or has a character outside `[A-Za-z0-9._-]` (the first must be a
            /// letter or a digit).
            pub fn new(text: &str) -> Result<Self, Invalid> {
                let mut bytes = text.bytes();
                let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
                let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
                if first && rest && text.len() <= 63 {
                    Ok(Self(text.into()))
                } else {
                    Err(Invalid::new($field, format!("{} is not {ALLOWED}", shown(text))))
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The name of a service: a group of interchangeable instances.
    ServiceName, "name"
}
name! {
    /// The id of one instance, unique within its service.
    InstanceId, "id"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_accepted() {
        for name in ["user-service", "a", "A1", "v1.2_x-y", &"x".repeat(63)] {
            assert!(ServiceName::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn everything_else_is_refused_and_the_message_shows_it_safely() {
        for name in ["", "-a", ".a", "a b", "a/b", "a\n", "é", "a\u{0}", &"x".repeat(64), "x\"} 1\nup 0"] {
            let error = ServiceName::new(name).expect_err(name);
            assert_eq!(error.field, "name");
            assert!(!error.to_string().chars().any(char::is_control), "{error}");
        }
    }
}
