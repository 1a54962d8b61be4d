//! Standard output: on a terminal, text that scrolls by above a few lines that are redrawn in place; elsewhere,
//! plain lines.

use std::io::{self, IsTerminal, Write};

use super::line::Line;

/// Assumed where the terminal doesn't say.
const WIDTH: usize = 80;
const HEIGHT: usize = 24;

/// Where everything is shown.
#[derive(Debug)]
pub(super) struct Screen {
    live: bool,
    colours: bool,
    /// Widths of the lines that the next drawing replaces.
    drawn: Vec<usize>,
}

impl Screen {
    /// Standard output, as it is and as the environment wants it.
    pub(super) fn stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let live = io::stdout().is_terminal() && set("TERM").is_none_or(|term| term != "dumb");
        Self { live, colours: live && set("NO_COLOR").is_none(), drawn: Vec::new() }
    }

    /// Whether lines can be redrawn.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// How many columns a drawing may use. The last one stays free: terminals differ in what they do once it is full.
    pub(super) fn width() -> usize {
        size().0 - 1
    }

    /// Lines that stay; a terminal breaks them where they are too long.
    pub(super) fn tell(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = self.up_to_drawing();
        if self.live {
            text += "\x1b[J";
        }
        for line in lines {
            text += &line.render(self.colours);
            text.push('\n');
        }
        self.drawn.clear();
        write(&text)
    }

    /// Replaces what was drawn before, on a terminal; elsewhere it does nothing.
    pub(super) fn draw(&mut self, lines: Vec<Line>) -> io::Result<()> {
        if !self.live {
            return Ok(());
        }
        let mut text = self.up_to_drawing();
        let (width, height) = size();
        // More lines than the terminal has could not be replaced any more; the last ones say the most.
        let hidden = lines.len().saturating_sub(height - 1);
        let lines: Vec<Line> = lines.into_iter().skip(hidden).map(|line| line.cut(width - 1)).collect();
        for line in &lines {
            text += &line.render(self.colours);
            text += "\x1b[K\n";
        }
        text += "\x1b[J";
        self.drawn = lines.iter().map(Line::width).collect();
        write(&text)
    }

    /// Moves to the start of what was drawn, which a narrower terminal has broken into more lines since.
    fn up_to_drawing(&self) -> String {
        let width = size().0;
        match self.drawn.iter().map(|drawn| drawn.div_ceil(width).max(1)).sum::<usize>() {
            0 => String::new(),
            rows => format!("\r\x1b[{rows}A"),
        }
    }
}

/// Columns and rows of the terminal, each at least two.
fn size() -> (usize, usize) {
    let or = |size: u16, default: usize| if size == 0 { default } else { usize::from(size).max(2) };
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) => (or(size.ws_col, WIDTH), or(size.ws_row, HEIGHT)),
        Err(_) => (WIDTH, HEIGHT),
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
