//! What follows the `?` of a question.

use std::collections::BTreeMap;

use http::StatusCode;
use tally_proto::v1;

use super::tells::refused_page;
use crate::{machine::limits, port::plain::Page};

/// Words that are not asked for yet. Each must be, so that none is misspelt: a `preview` that nobody reads would be
/// a change.
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// As a browser's form or its `URLSearchParams` write it; what is wrong with it if they would not.
    pub(super) fn parse(text: &str) -> Result<Query, String> {
        let mut words = BTreeMap::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (decoded(key)?, decoded(value)?);
            if words.insert(key.clone(), value).is_some() {
                return Err(format!("{key:?} is there twice"));
            }
        }
        Ok(Query(words))
    }

    /// A word, or nothing.
    pub(super) fn text(&mut self, key: &str) -> String {
        self.0.remove(key).unwrap_or_default()
    }

    /// A word that must be there.
    pub(super) fn required(&mut self, key: &str) -> Result<String, Page> {
        self.0.remove(key).ok_or_else(|| wrong(format!("{key:?} is missing")))
    }

    /// A number of 0 or more.
    pub(super) fn number(&mut self, key: &str) -> Result<Option<u64>, Page> {
        let Some(text) = self.0.remove(key) else { return Ok(None) };
        let number = text.parse().map_err(|_| wrong(format!("{key:?} is no number")));
        number.map(Some)
    }

    /// 1 for yes; for no it is not there.
    pub(super) fn flag(&mut self, key: &str) -> Result<bool, Page> {
        match self.0.remove(key).as_deref() {
            None => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(wrong(format!("{key:?} is 1 or not there"))),
        }
    }

    /// How many items are on a page; 0 for as many as the API says.
    pub(super) fn limit(&mut self) -> Result<i32, Page> {
        let limit = self.number("limit")?.unwrap_or(0);
        let max = limits::PAGE_SIZE_MAX;
        let size = i32::try_from(limit).ok().filter(|_| limit <= max as u64);
        size.ok_or_else(|| wrong(format!("\"limit\" is at most {max}")))
    }

    /// The promise that is asked for.
    pub(super) fn read(&mut self) -> Result<v1::ReadOptions, Page> {
        let text = self.0.remove("read").unwrap_or_default();
        let mut options = v1::ReadOptions::default();
        let level = match text.split_once(':').unwrap_or((&text, "")) {
            ("" | "linearizable", "") => v1::ReadLevel::Linearizable,
            ("local", "") => v1::ReadLevel::Local,
            ("bounded", ms) => {
                let ms = ms.parse().map_err(|_| wrong("bounded:MS has a number of ms".into()))?;
                options.max_staleness_ms = ms;
                v1::ReadLevel::Bounded
            }
            ("session", token) => {
                let token = from_hex(token).filter(|token| !token.is_empty());
                let why = || wrong("session:TOKEN has the session_token of an answer".into());
                options.session_token = token.ok_or_else(why)?.into();
                v1::ReadLevel::Session
            }
            _ => {
                let why = "\"read\" is linearizable, bounded:MS, session:TOKEN or local";
                return Err(wrong(why.into()));
            }
        };
        options.set_level(level);
        Ok(options)
    }

    /// There is no further word.
    pub(super) fn end(self) -> Result<(), Page> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(wrong(format!("{key:?} is not known here"))),
        }
    }
}

fn wrong(why: String) -> Page {
    refused_page(StatusCode::BAD_REQUEST, tally_proto::reason::INVALID_REQUEST, &why)
}

fn decoded(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.and_then(hex_digit));
                let [Some(high), Some(low)] = digits else { return Err(wrong()) };
                high << 4 | low
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let mut query = Query::parse("name=a%26b%3D%25+%2B%C4%8D%00&x=").unwrap();
        assert_eq!(query.required("name").unwrap(), "a&b=% +č\0");
        assert_eq!((query.text("x"), query.text("y")), (String::new(), String::new()));
        query.end().unwrap();
        for broken in ["name=%", "name=%4", "name=%zz", "name=%ff", "a=1&a=2", "a=1&%61=2"] {
            assert!(Query::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_nobody_asks_for_is_refused() {
        let mut query = Query::parse("node=1&preveiw=1").unwrap();
        assert_eq!(query.number("node").unwrap(), Some(1));
        assert!(!query.flag("preview").unwrap());
        assert_eq!(query.end().unwrap_err().status, StatusCode::BAD_REQUEST);
        for broken in ["preview=0", "preview=", "preview=true", "preview"] {
            Query::parse(broken).unwrap().flag("preview").unwrap_err();
        }
    }

    #[test]
    fn levels_are_those_of_the_api() {
        let read = |text: &str| Query::parse(text).unwrap().read();
        assert_eq!(read("").unwrap().level(), v1::ReadLevel::Linearizable);
        assert_eq!(read("read=local").unwrap().level(), v1::ReadLevel::Local);
        let bounded = read("read=bounded:250").unwrap();
        assert_eq!((bounded.level(), bounded.max_staleness_ms), (v1::ReadLevel::Bounded, 250));
        let session = read("read=session%3A00fF").unwrap();
        assert_eq!(
            (session.level(), session.session_token.to_vec()),
            (v1::ReadLevel::Session, vec![0, 255])
        );
        for wrong in
            ["local:1", "linearizable:", "bounded", "session:", "session:0", "session:xy", "LOCAL"]
        {
            let refused = read(&format!("read={wrong}"));
            assert!(refused.is_err() || wrong == "linearizable:", "{wrong}");
        }
        assert_eq!(Query::parse("limit=1000").unwrap().limit().unwrap(), 1000);
        Query::parse("limit=1001").unwrap().limit().unwrap_err();
        Query::parse("limit=-1").unwrap().limit().unwrap_err();
    }
}
