//! The head of an HTTP/1 message, as it stood on the wire.

/// Start line and fields, in order and in their original case.
#[derive(Debug, Clone)]
pub struct Head {
    pub line: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// Parses everything up to the empty line, strictly.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).expect("a head is text");
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let line = lines.next().expect("a head has a start line").to_owned();
        Self { line, fields: lines.map(field).collect() }
    }

    /// The only value of a field; `None` without one.
    pub fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() < 2, "{name} stands there {} times: {self:?}", values.len());
        values.first().copied()
    }

    pub fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect()
    }

    /// Of a response.
    pub fn status(&self) -> u16 {
        let status = self.line.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("{:?} is no status line", self.line))
    }

    pub fn content_length(&self) -> Option<usize> {
        self.value("content-length").map(|length| length.parse().expect("a length is a number"))
    }

    pub fn is_chunked(&self) -> bool {
        self.value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?} is no field"));
    (name.to_owned(), value.trim().to_owned())
}
