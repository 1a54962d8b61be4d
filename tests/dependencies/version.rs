//! Versions that are too old.

/// A crate that is banned, below a version or in all of them: `h2:<0.4.18`, `rustls-pemfile`.
pub(crate) struct Ban<'a> {
    name: &'a str,
    below: Option<[u64; 3]>,
}

impl<'a> Ban<'a> {
    pub(crate) fn parse(spec: &'a str) -> Self {
        let Some((name, range)) = spec.split_once(':') else { return Self { name: spec, below: None } };
        let below = range.strip_prefix('<').unwrap_or_else(|| panic!("{spec:?} in deny.toml is no `crate:<version`"));
        Self { name, below: Some(numbers(below)) }
    }

    pub(crate) fn covers(&self, name: &str, version: &str) -> bool {
        name == self.name && self.below.is_none_or(|below| numbers(version) < below)
    }
}

/// Major, minor and patch; what is left out is 0, what follows them doesn't count.
fn numbers(version: &str) -> [u64; 3] {
    let end = version.find(['-', '+']).unwrap_or(version.len());
    let mut parts = version[..end].split('.');
    [(); 3]
        .map(|()| parts.next().map_or(0, |part| part.parse().unwrap_or_else(|_| panic!("{version:?} is no version"))))
}

#[test]
fn a_ban_ends_where_it_says() {
    let ban = Ban::parse("h2:<0.4.18");
    assert!(ban.covers("h2", "0.4.9") && ban.covers("h2", "0.3.99") && ban.covers("h2", "0.4.17+build"));
    assert!(!ban.covers("h2", "0.4.18") && !ban.covers("h2", "1.0.0") && !ban.covers("h3", "0.1.0"));
    assert!(Ban::parse("rustls-pemfile").covers("rustls-pemfile", "9.9.9"));
    assert!(!Ban::parse("hyper:<1.11").covers("hyper", "1.11.0"));
}
