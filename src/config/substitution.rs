//! `${NAME}` and `${NAME:-default}` in texts, filled in from the environment. `$${` writes a plain `${`.

use std::borrow::Cow;
use std::fmt;

/// Why a text can't be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SubstitutionError {
    Unclosed,
    Name(String),
    Nested,
    Unset(String),
}

impl SubstitutionError {
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Unclosed => "close it with }, or write $${ for a plain ${".to_owned(),
            Self::Name(_) => {
                "write ${NAME} or ${NAME:-default} with a name of letters, digits and _; $${ writes a plain ${"
                    .to_owned()
            }
            Self::Nested => "write the default out".to_owned(),
            Self::Unset(name) => format!("set {name}, or give a default: ${{{name}:-default}}"),
        }
    }
}

impl fmt::Display for SubstitutionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed => f.write_str("a ${ is never closed"),
            Self::Name(name) => write!(f, "{name:?} is no name of an environment variable"),
            Self::Nested => f.write_str("a default can't hold another ${"),
            Self::Unset(name) => write!(f, "the environment variable {name} is not set"),
        }
    }
}

/// `text` with everything filled in; borrowed when there was nothing to fill in. As in a shell, the default also
/// stands in for a variable that is set to nothing.
pub(super) fn substitute<'t>(
    text: &'t str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Cow<'t, str>, SubstitutionError> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, tail) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            filled += before;
            filled += "${";
            rest = tail;
        } else {
            let (inside, after) = tail.split_once('}').ok_or(SubstitutionError::Unclosed)?;
            filled += before;
            filled += &value(inside, env)?;
            rest = after;
        }
    }
    filled += rest;
    Ok(Cow::Owned(filled))
}

fn value(inside: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, SubstitutionError> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_name(name) {
        return Err(SubstitutionError::Name(name.to_owned()));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(SubstitutionError::Nested);
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(SubstitutionError::Unset(name.to_owned())),
    }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, SubstitutionError> {
        let env = |name: &str| match name {
            "PORT" => Some("8080".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${PORT}".to_owned()),
            _ => None,
        };
        substitute(text, &env).map(Cow::into_owned)
    }

    #[test]
    fn names_and_defaults_are_filled_in_and_nothing_else_is_touched() {
        for (text, wanted) in [
            ("127.0.0.1:${PORT}", "127.0.0.1:8080"),
            ("${PORT}${PORT:-1}", "80808080"),
            ("${HOST:-localhost}:80", "localhost:80"),
            ("${EMPTY:-full}", "full"),
            ("[${EMPTY}]", "[]"),
            ("${NONE:-}", ""),
            ("${NONE:-a:-b}", "a:-b"),
            ("$${PORT}", "${PORT}"),
            ("$$${PORT}", "$${PORT}"),
            ("$PORT $$ $ 5$", "$PORT $$ $ 5$"),
            ("${TRICKY}", "${PORT}"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_can_not_be_filled_in_says_why() {
        assert_eq!(filled("${NONE}"), Err(SubstitutionError::Unset("NONE".into())));
        assert_eq!(filled("a ${PORT"), Err(SubstitutionError::Unclosed));
        assert_eq!(filled("${}"), Err(SubstitutionError::Name(String::new())));
        assert_eq!(filled("${1A}"), Err(SubstitutionError::Name("1A".into())));
        assert_eq!(filled("${A-b}"), Err(SubstitutionError::Name("A-b".into())));
        assert_eq!(filled("${A:-${B}}"), Err(SubstitutionError::Nested));
    }
}
