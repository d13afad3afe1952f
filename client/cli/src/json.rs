//! The JSON that is printed: integers as numbers, or as strings for readers that would round them.

use std::io;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

/// How integers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Integers {
    /// As JSON numbers.
    #[default]
    Numbers,
    /// As strings, whatever their size, so that a field is always of one kind.
    Strings,
}

/// One line.
pub(crate) fn text(value: &impl Serialize, integers: Integers) -> serde_json::Result<String> {
    if integers == Integers::Numbers {
        return serde_json::to_string(value);
    }
    let mut text = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Quoting))?;
    Ok(String::from_utf8(text).unwrap_or_else(|_| unreachable!("JSON is UTF-8")))
}

/// Writes integers in quotes. A map whose keys are integers would have them twice: there is none.
struct Quoting;

macro_rules! quoted {
    ($($method:ident $integer:ty,)*) => {$(
        fn $method<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: $integer) -> io::Result<()> {
            writer.write_all(b"\"")?;
            CompactFormatter.$method(writer, value)?;
            writer.write_all(b"\"")
        }
    )*};
}

impl Formatter for Quoting {
    quoted! {
        write_i8 i8,
        write_i16 i16,
        write_i32 i32,
        write_i64 i64,
        write_i128 i128,
        write_u8 u8,
        write_u16 u16,
        write_u32 u32,
        write_u64 u64,
        write_u128 u128,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Serialize)]
    struct Answer {
        value: i64,
        pid: u32,
        share: f64,
        is_new: bool,
        left: Option<u64>,
    }

    #[test]
    fn integers_are_strings_and_nothing_else_is() {
        let answer = Answer { value: i64::MIN, pid: 7, share: 0.5, is_new: true, left: None };
        let numbers =
            r#"{"value":-9223372036854775808,"pid":7,"share":0.5,"is_new":true,"left":null}"#;
        assert_eq!(text(&answer, Integers::Numbers).unwrap(), numbers);
        let strings =
            r#"{"value":"-9223372036854775808","pid":"7","share":0.5,"is_new":true,"left":null}"#;
        assert_eq!(text(&answer, Integers::Strings).unwrap(), strings);
        let any = json!({ "all": [1, "1", 1.5] });
        assert_eq!(text(&any, Integers::Strings).unwrap(), r#"{"all":["1","1",1.5]}"#);
    }
}
