//! Names of services and backends: what appears in URLs, labels, logs and commands, so it is kept to characters
//! that need no quoting in any of them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: a DNS label, so that a name can become part of a host name.
const NAME_BYTES_MAX: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameError {
    Empty,
    TooLong(usize),
    Character(char),
    Start(char),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a name can't be empty"),
            Self::TooLong(len) => write!(f, "a name has at most {NAME_BYTES_MAX} bytes, this one has {len}"),
            Self::Character(c) => write!(f, "a name is made of letters, digits, '-', '_' and '.', not {c:?}"),
            Self::Start(c) => write!(f, "a name starts with a letter or a digit, not {c:?}"),
        }
    }
}

impl std::error::Error for NameError {}

fn check(name: &str) -> Result<(), NameError> {
    let first = name.chars().next().ok_or(NameError::Empty)?;
    if let Some(c) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
        return Err(NameError::Character(c));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Start(first));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong(name.len()));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                check(name).map(|()| Self(name.into()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                name.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The name of a service: 1 to 63 letters, digits, `-`, `_`, `.`, starting with a letter or digit.
    ServiceName
}
name! {
    /// The name of a backend within its service; the same characters as a service's.
    BackendName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_needs_no_quoting_anywhere() {
        for good in ["shop", "shop-2", "a.b_c", "9lives", &"x".repeat(63)] {
            assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
        }
        assert_eq!("".parse::<ServiceName>(), Err(NameError::Empty));
        assert_eq!("a b".parse::<ServiceName>(), Err(NameError::Character(' ')));
        assert_eq!("a/b".parse::<ServiceName>(), Err(NameError::Character('/')));
        assert_eq!("caf\u{e9}".parse::<BackendName>(), Err(NameError::Character('\u{e9}')));
        assert_eq!("-a".parse::<ServiceName>(), Err(NameError::Start('-')));
        assert_eq!("x".repeat(64).parse::<ServiceName>(), Err(NameError::TooLong(64)));
    }
}
