//! SPDX licence expressions, as Cargo.toml has them.

/// Whether an expression leaves one who has `allowed` a choice.
///
/// ```text
/// any  = all ("OR" all)*          "/" is an old way to write OR
/// all  = one ("AND" one)*
/// one  = "(" any ")" | name ["WITH" name]
/// ```
pub(crate) fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, allowed };
    let allowed = reader.any();
    assert!(reader.words.is_empty(), "{expression:?} is no licence expression");
    allowed
}

struct Reader<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl Reader<'_> {
    fn any(&mut self) -> bool {
        let mut allowed = self.all();
        while self.take("OR") {
            allowed |= self.all();
        }
        allowed
    }

    fn all(&mut self) -> bool {
        let mut allowed = self.one();
        while self.take("AND") {
            allowed &= self.one();
        }
        allowed
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let allowed = self.any();
            return self.take(")") && allowed;
        }
        let mut name = self.word().to_owned();
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.word());
        }
        self.allowed.contains(&name)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    /// Empty at the end, which is the name of no licence.
    fn word(&mut self) -> &str {
        let Some((first, rest)) = self.words.split_first() else { return "" };
        self.words = rest;
        first
    }
}

#[test]
fn an_expression_is_allowed_if_there_is_a_way_to_fulfil_it() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "ISC AND (GPL-3.0 OR (MIT AND ISC))"] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "Apache-2.0 WITH exception", "(MIT", "ISC AND (GPL-3.0)"]
    {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
    assert!(is_allowed("GPL-3.0 OR Apache-2.0 WITH LLVM-exception", &allowed));
}
