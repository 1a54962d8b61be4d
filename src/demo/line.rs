//! A line of text with colours, kept apart until it is known how wide the terminal is and whether it wants them.

/// How a piece of text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Blue,
    Green,
    Red,
}

impl Style {
    /// The number of its ANSI escape code; `None` where it needs none.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bold => Some("1"),
            Self::Dim => Some("2"),
            Self::Blue => Some("94"),
            Self::Green => Some("92"),
            Self::Red => Some("91"),
        }
    }
}

/// One line, without its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line {
    pieces: Vec<(Style, String)>,
}

impl Line {
    /// Adds `text`, which holds only characters that take one column each.
    #[must_use]
    pub(super) fn with(mut self, style: Style, text: impl Into<String>) -> Self {
        self.pieces.push((style, text.into()));
        self
    }

    /// In columns.
    pub(super) fn width(&self) -> usize {
        self.pieces.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// Cut off at `width` columns, so that a terminal doesn't break it.
    #[must_use]
    pub(super) fn cut(mut self, width: usize) -> Self {
        let mut left = width;
        for (_, text) in &mut self.pieces {
            let count = text.chars().count();
            if count > left {
                *text = text.chars().take(left).collect();
            }
            left = left.saturating_sub(count);
        }
        self
    }

    /// As it is written out.
    pub(super) fn render(&self, colours: bool) -> String {
        let piece = |(style, text): &(Style, String)| match style.code() {
            Some(code) if colours => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.clone(),
        };
        let text: String = self.pieces.iter().map(piece).collect();
        if colours { text } else { text.trim_end().to_owned() }
    }
}

impl From<&str> for Line {
    fn from(text: &str) -> Self {
        Self::default().with(Style::Plain, text)
    }
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        Self::default().with(Style::Plain, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_by_what_is_seen_not_by_what_is_written() {
        let line = Line::from("one ").with(Style::Blue, "two").with(Style::Plain, " three");
        assert_eq!(line.width(), 13);
        assert_eq!(line.clone().cut(6).render(false), "one tw");
        assert_eq!(line.clone().cut(6).width(), 6);
        assert_eq!(line.cut(5).render(true), "one \x1b[94mt\x1b[0m");
    }
}
