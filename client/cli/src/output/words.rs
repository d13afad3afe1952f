//! Texts of somebody else's, as words of a line, and lines as a table.

use std::borrow::Cow;

/// It prints as itself, and moves nothing: no control character, and none of those that hide text or
/// turn its direction.
fn is_plain(letter: char) -> bool {
    let moves = matches!(letter,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !letter.is_control() && !moves
}

/// A text of somebody else's, on one line and without an effect on the terminal.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_plain(letter) {
            escaped.push(letter)
        } else {
            escaped.extend(letter.escape_default())
        }
    }
    escaped
}

/// A name, or a value, as a word of a line: as it is if nobody can take it for something else, in
/// quotes and escaped otherwise. Two spaces are what columns are separated by.
pub(crate) fn word(text: &str) -> Cow<'_, str> {
    let is_clear = text.chars().all(is_plain)
        && !text.is_empty()
        && !text.contains("  ")
        && !text.starts_with(['"', ' '])
        && !text.ends_with(' ');
    if is_clear {
        return Cow::Borrowed(text);
    }
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            _ if is_plain(letter) => quoted.push(letter),
            _ => quoted.extend(letter.escape_default()),
        }
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

/// Columns, aligned; the first row is the head. What nodes say of themselves is escaped.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let escape = |row: &Vec<String>| row.iter().map(|cell| escaped(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(escape).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_can_be_taken_for_nothing_else() {
        for plain in ["a/x", "page views", "größe", "e\u{301}", "a\\b", "x\"y", "日本"] {
            assert_eq!(word(plain), plain);
        }
        for (name, quoted) in [
            ("", r#""""#),
            ("a/x  0\na/gold  1", r#""a/x  0\na/gold  1""#),
            ("\u{1b}[2J", r#""\u{1b}[2J""#),
            ("a\u{202e}b", r#""a\u{202e}b""#),
            ("\"a\\n\"", r#""\"a\\n\"""#),
            (" a", r#"" a""#),
        ] {
            assert_eq!(word(name), quoted);
        }
        assert_eq!(escaped("a\r\u{9b}b"), "a\\r\\u{9b}b");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["id".into(), "role".into()], vec!["10".into(), "leader".into()]];
        assert_eq!(table(&rows), "id  role\n10  leader");
    }
}
