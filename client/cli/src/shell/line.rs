//! What is typed, as lines and words: quotes, comments, lines that go on, and texts behind `<<END`, as a POSIX shell
//! has them. Variables, pipes and the rest of a shell it has not.

/// One line to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// A command of the shell itself, without its backslash.
    Own(Vec<String>),
    /// A command line of `tally`, and what it reads as standard input.
    Command(Vec<String>, Option<String>),
}

/// The lines of a text; nothing if it is not complete, as a quote is open, say.
pub(super) fn lines(mut text: &str) -> Option<Vec<Line>> {
    let mut lines = Vec::new();
    loop {
        text = text.trim_start();
        let own = text.strip_prefix('\\');
        let end = match own {
            // Backslashes and quotes mean nothing there, so that one can always get out.
            Some(_) => text.find('\n').unwrap_or(text.len()),
            None => end_of_line(text)?,
        };
        let (line, rest) = (&text[..end], text[end..].strip_prefix('\n'));
        let mut rest = rest.unwrap_or_default();
        if own.is_some() {
            lines.push(Line::Own(
                line.trim_start_matches('\\').split_whitespace().map(str::to_owned).collect(),
            ));
        } else if let Some((line, delimiter)) = here_document(line) {
            let (input, behind) = up_to(rest, delimiter)?;
            rest = behind;
            lines.push(Line::Command(words(line)?, Some(input.to_owned())));
        } else {
            let words = words(line)?;
            if !words.is_empty() {
                lines.push(Line::Command(words, None));
            }
        }
        if rest.is_empty() {
            return Some(lines);
        }
        text = rest;
    }
}

/// Where a scanner is.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// Between words.
    Gap,
    Word,
    Quote(char),
    Comment,
}

/// Tells of each letter where the scanner is behind it, and whether a backslash takes its meaning away; until it
/// is told to stop. Returns where it ended, and whether the last letter was such a backslash.
fn scan(text: &str, mut see: impl FnMut(usize, char, At, bool) -> bool) -> (At, bool) {
    let (mut at, mut is_escaped) = (At::Gap, false);
    for (index, letter) in text.char_indices() {
        let was_escaped = std::mem::take(&mut is_escaped);
        at = match (at, letter) {
            (At::Comment, '\n') => At::Gap,
            (At::Comment, _) => At::Comment,
            // Within single quotes a backslash is one.
            (At::Quote('\''), '\'') => At::Word,
            (At::Quote('\''), _) => at,
            _ if was_escaped => at,
            (At::Gap | At::Word, '\\') => {
                is_escaped = true;
                At::Word
            }
            (At::Quote(_), '\\') => {
                is_escaped = true;
                at
            }
            (At::Quote('"'), '"') => At::Word,
            (At::Quote(_), _) => at,
            (_, '\'' | '"') => At::Quote(letter),
            (At::Gap, '#') => At::Comment,
            (_, ' ' | '\t' | '\n' | '\r') => At::Gap,
            _ => At::Word,
        };
        if see(index, letter, at, was_escaped) {
            return (at, false);
        }
    }
    (at, is_escaped)
}

/// The words of a line. One that goes on behind a backslash is one line, which shlex would give an empty word.
fn words(line: &str) -> Option<Vec<String>> {
    let (mut joined, mut from) = (String::new(), 0);
    scan(line, |index, letter, _, was_escaped| {
        if letter == '\n' && was_escaped {
            joined += &line[from..index - 1];
            from = index + 1;
        }
        false
    });
    shlex::split(&(joined + &line[from..]))
}

/// Where the first line ends: at a newline that is in no quotes, or at the end of the text.
fn end_of_line(text: &str) -> Option<usize> {
    let mut end = None;
    let (at, is_escaped) = scan(text, |index, letter, at, was_escaped| {
        if letter == '\n' && !was_escaped && !matches!(at, At::Quote(_)) {
            end = Some(index);
        }
        end.is_some()
    });
    match end {
        Some(end) => Some(end),
        None if is_escaped || matches!(at, At::Quote(_)) => None,
        None => Some(text.len()),
    }
}

/// A line that ends with `<<END` or `<<'END'`: without that, and the word that ends the text. Within quotes, and in
/// a comment, it is text.
fn here_document(line: &str) -> Option<(&str, &str)> {
    let (before, word) = line.trim_end().rsplit_once(char::is_whitespace)?;
    let word = word.strip_prefix("<<")?.trim_matches(['\'', '"']);
    let is_between_words = matches!(scan(before, |_, _, _, _| false).0, At::Gap | At::Word);
    (!word.is_empty() && is_between_words).then_some((before, word))
}

/// The lines before the one that is the delimiter, and what is behind that.
fn up_to<'a>(text: &'a str, delimiter: &str) -> Option<(&'a str, &'a str)> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end() == delimiter {
            return Some((&text[..at], &text[at + line.len()..]));
        }
        at += line.len();
    }
    None
}

/// A line that is being typed: the words so far, and the one at its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Typed {
    pub(super) before: Vec<String>,
    /// Where the last word begins.
    pub(super) start: usize,
    /// The last word, without its quotes.
    pub(super) word: String,
}

/// The words of the last line of a text that ends at the cursor. Nothing where none can be completed.
pub(super) fn typed(text: &str) -> Option<Typed> {
    let (mut line, mut start) = (0, text.len());
    let mut last_gap = 0;
    let (at, is_escaped) = scan(text, |index, letter, at, _| {
        if at == At::Gap {
            last_gap = index + letter.len_utf8();
            if letter == '\n' {
                line = last_gap;
            }
        }
        false
    });
    if at == At::Comment {
        return None;
    }
    if last_gap < text.len() {
        start = last_gap;
    }
    let before = words(&text[line..start])?;
    // What a backslash at the end will take is not there yet.
    let raw = &text[start..text.len() - usize::from(is_escaped)];
    let closed = ["", "'", "\""].iter().find_map(|quote| words(&format!("{raw}{quote}")));
    let word = closed?.into_iter().next().unwrap_or_default();
    Some(Typed { before, start, word })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Line {
        Line::Command(words.iter().map(|&word| word.to_owned()).collect(), None)
    }

    #[test]
    fn words_are_those_of_a_shell() {
        let add = |name: &str| Some(vec![command(&["counter", "add", name])]);
        assert_eq!(lines("counter add hits"), add("hits"));
        assert_eq!(lines("counter add 'page views'"), add("page views"));
        assert_eq!(lines(r#"counter add "it's"  # what's new"#), add("it's"));
        assert_eq!(lines(r"counter add page\ views"), add("page views"));
        assert_eq!(lines("counter add ''"), add(""));
        assert_eq!(lines("counter \\\n  add hits"), add("hits"), "a line that goes on");
        assert_eq!(lines("  "), Some(vec![]));
        assert_eq!(lines("# nothing"), Some(vec![]));
        let two = Some(vec![command(&["status"]), command(&["counter", "get", "a\nb"])]);
        assert_eq!(lines("status\ncounter get 'a\nb'\n"), two, "pasted together");
    }

    #[test]
    fn what_is_open_goes_on() {
        for open in ["counter add 'a", "counter add \"a", "counter add a\\", "status\nkv put k 'v"]
        {
            assert_eq!(lines(open), None, "{open}");
        }
        for text in ["status # see <<END", "kv put note \"a <<b\"", "kv put note 'a <<b'"] {
            assert!(lines(text).is_some(), "{text}");
        }
        assert_eq!(lines("apply <<END"), None);
        assert_eq!(lines("apply <<END\n{}\nEN"), None);
    }

    #[test]
    fn a_text_can_stand_for_standard_input() {
        let apply = Line::Command(vec!["apply".to_owned()], Some("{\"it's\": 1}\n".to_owned()));
        assert_eq!(lines("apply <<'END'\n{\"it's\": 1}\nEND"), Some(vec![apply.clone()]));
        let both = Some(vec![apply, command(&["status"])]);
        assert_eq!(lines("apply <<END\n{\"it's\": 1}\nEND\nstatus"), both);
    }

    #[test]
    fn own_commands_need_no_quotes() {
        let own = |words: &[&str]| Line::Own(words.iter().map(|&word| word.to_owned()).collect());
        assert_eq!(lines(r"\read bounded:5s"), Some(vec![own(&["read", "bounded:5s"])]));
        assert_eq!(lines("\\q'\nstatus"), Some(vec![own(&["q'"]), command(&["status"])]));
    }

    #[test]
    fn the_word_at_the_cursor_is_known_within_quotes_too() {
        let known = |text: &str| {
            let Typed { before, start, word } = typed(text).unwrap();
            (before.len(), start, word)
        };
        assert_eq!(known(""), (0, 0, String::new()));
        assert_eq!(known("counter g"), (1, 8, "g".into()));
        assert_eq!(known("counter get "), (2, 12, String::new()));
        assert_eq!(known("counter get 'page v"), (2, 12, "page v".into()));
        assert_eq!(known("counter get \"it's"), (2, 12, "it's".into()));
        assert_eq!(known("counter get page\\ v"), (2, 12, "page v".into()));
        assert_eq!(known("counter get page\\"), (2, 12, "page".into()));
        assert_eq!(known("status\ncounter g"), (1, 15, "g".into()), "of the last line");
        assert_eq!(typed("status # wh"), None);
    }
}
