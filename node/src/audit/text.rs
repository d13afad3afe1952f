//! How a line is written: JSON, whatever clients choose as names, and times by RFC 3339.

use std::fmt::Write as _;

use time::OffsetDateTime;

use super::SCHEMA_VERSION;

/// Longest text of a field, in bytes before it is escaped: that of a name. What is longer is cut, and ends in "…".
pub(super) const WORD_BYTES_MAX: usize = 512;

/// Most lines are shorter.
const LINE_BYTES: usize = 640;

/// The beginning of a line.
pub(super) fn begin(wall_ms: u64, node_id: u64, kind: &str) -> String {
    let mut text = String::with_capacity(LINE_BYTES);
    text.push_str("{\"v\":");
    number(&mut text, SCHEMA_VERSION);
    text.push_str(",\"time\":\"");
    time(&mut text, wall_ms);
    text.push_str("\",\"node\":");
    number(&mut text, node_id);
    field(&mut text, "kind");
    word(&mut text, kind);
    text
}

/// The name of a field that is not the first.
pub(super) fn field(text: &mut String, name: &str) {
    text.push_str(",\"");
    text.push_str(name);
    text.push_str("\":");
}

pub(super) fn number(text: &mut String, number: u64) {
    let mut digits = [0; 20];
    let (mut at, mut left) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    text.extend(digits[at..].iter().map(|digit| char::from(*digit)));
}

/// A text in quotes. Nothing in it ends the line, begins another, or tells a terminal anything.
pub(super) fn word(text: &mut String, word: &str) {
    text.push('"');
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if word.len() <= WORD_BYTES_MAX && word.bytes().all(is_plain) {
        text.push_str(word);
    } else {
        escaped(text, word);
    }
    text.push('"');
}

fn escaped(text: &mut String, word: &str) {
    let end = (0..=word.len().min(WORD_BYTES_MAX)).rev().find(|end| word.is_char_boundary(*end));
    let kept = &word[..end.unwrap_or(0)];
    for char in kept.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            // Line separators, and what turns the direction of a text around.
            _ if char.is_control()
                || matches!(char, '\u{200e}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                let _ = write!(text, "\\u{:04x}", u32::from(char));
            }
            _ => text.push(char),
        }
    }
    if kept.len() < word.len() {
        text.push('…');
    }
}

/// A moment, in UTC, with milliseconds.
pub(super) fn time(text: &mut String, wall_ms: u64) {
    let seconds = i64::try_from(wall_ms / 1000).unwrap_or(i64::MAX);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    let year = u32::try_from(year).unwrap_or(0);
    digits(text, year, 1000);
    for (before, number) in
        [('-', u8::from(month)), ('-', day), ('T', hour), (':', minute), (':', second)]
    {
        text.push(before);
        digits(text, u32::from(number), 10);
    }
    text.push('.');
    digits(text, (wall_ms % 1000) as u32, 100);
    text.push('Z');
}

/// A number with leading zeros; `first` is the worth of its first digit.
fn digits(text: &mut String, number: u32, first: u32) {
    let mut worth = first;
    while worth > 0 {
        text.push(char::from(b'0' + (number / worth % 10) as u8));
        worth /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let told = |wall_ms| {
            let mut text = String::new();
            time(&mut text, wall_ms);
            text
        };
        assert_eq!(told(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(told(1_795_920_351_007), "2026-11-29T02:45:51.007Z");
        assert_eq!(told(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(told(951_782_400_000), "2000-02-29T00:00:00.000Z");
        // The end of what a time can be, and beyond it.
        assert_eq!(told(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(told(u64::MAX).len(), 24);
    }

    #[test]
    fn whatever_a_name_is_made_of_it_stays_one_word_of_one_line() {
        let nasty = [
            "plain stock/1",
            "a\nb\r\t\0\u{1b}[31m\u{7f}\u{9b}2J\u{85}\u{2028}\u{2029}\u{202e}x",
            "\"},{\"v\":1,\"kind\":\"forged\"",
            "\\",
            "ključ 名前 🦀",
            "",
        ];
        for name in nasty {
            let mut text = begin(0, 1, "request");
            field(&mut text, "counter");
            word(&mut text, name);
            text.push('}');
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(!text.contains(['\u{2028}', '\u{202e}']), "{text:?}");
            let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(parsed["counter"], name, "{text}");
            assert_eq!(parsed["kind"], "request");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        for long in ["é".repeat(WORD_BYTES_MAX), format!("a{}", "é".repeat(WORD_BYTES_MAX))] {
            let mut text = String::new();
            word(&mut text, &long);
            let parsed: String = serde_json::from_str(&text).unwrap();
            assert!(parsed.ends_with('…') && parsed.len() <= WORD_BYTES_MAX + 3, "{parsed}");
            assert!(long.starts_with(parsed.trim_end_matches('…')));
        }
    }

    #[test]
    fn numbers() {
        for given in [0, 7, 10, 1234, u64::MAX] {
            let mut text = String::new();
            number(&mut text, given);
            assert_eq!(text, given.to_string());
        }
    }
}
