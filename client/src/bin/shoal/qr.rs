//! QR codes for a terminal: two modules a character, one above the other.

use std::io::IsTerminal as _;

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code. Four are asked for, of which two do for cameras of today, and narrow terminals are many.
const QUIET: usize = 2;
/// White on black, whatever the terminal's colours are.
const COLOURS: &str = "\u{1b}[38;5;231;48;5;16m";
const PLAIN: &str = "\u{1b}[0m";

/// `text`, which is understood in capitals too (as everything in bech32 is), drawn for the terminal that is there.
///
/// # Errors
/// What to tell somebody whose terminal is too small.
pub(crate) fn drawn(text: &str) -> Result<String, String> {
    let stdout = std::io::stdout();
    let columns = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
    draw(text, columns.filter(|columns| *columns > 0), stdout.is_terminal())
}

/// `columns`: how wide the terminal is, if it is known.
fn draw(text: &str, columns: Option<usize>, colours: bool) -> Result<String, String> {
    // capitals and digits take 5.5 bits a letter, small letters 8
    let code = QrCode::with_error_correction_level(text.to_uppercase(), EcLevel::L)
        .map_err(|error| format!("there is no QR code for it: {error}"))?;
    let width = code.width() + 2 * QUIET;
    if columns.is_some_and(|columns| columns < width) {
        return Err(format!("the terminal is too narrow for a QR code: {width} columns are needed"));
    }
    let modules = code.to_colors();
    let is_light = |row: usize, column: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < code.width());
        let module = inside(row).zip(inside(column)).and_then(|(row, column)| modules.get(row * code.width() + column));
        module.is_none_or(|module| *module == Color::Light)
    };
    let line = |row: usize| {
        let letters = (0..width).map(|column| match (is_light(row, column), is_light(row + 1, column)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        });
        let line: String = letters.collect();
        if colours { format!("{COLOURS}{line}{PLAIN}") } else { line }
    };
    Ok((0..width).step_by(2).map(line).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_fits_a_small_terminal() {
        let address = format!("shoal1{}", "q".repeat(59));
        let drawn = draw(&address, Some(40), false).unwrap();
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(lines.len() <= 17 && lines.iter().all(|line| line.chars().count() == 33), "{drawn}");
        // the corner of the finder pattern, in rows two and three
        assert!(lines[1].starts_with("██ ▄▄▄▄▄ █"), "{drawn}");
        assert!(draw(&address, Some(32), false).unwrap_err().contains("33 columns"));
        assert!(draw(&address, None, true).unwrap().lines().all(|line| line.starts_with(COLOURS)));
    }
}
