//! Lists, page after page, and whether what was printed is one point of the history.
//!
//! A page is one read: consistent in itself. A node holds no state for a list that goes on, so what is
//! written between two pages may be in one and not in the other. Each page says of which state it is, and the
//! same revision is the same counters and keys, whichever node answered. So that nothing was written in
//! between is known, and said; and who needs it can have it read again until it is so.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tally_client::{Error, Header, Page, SessionPage};
use tokio::time::sleep;

use crate::{
    args::Pages,
    load::grouped,
    output::{Failure, Output, note, print_form, word},
    worth,
};

/// What `--one-point` reads, at most, before it gives up.
const ATTEMPTS_MAX: u32 = 5;

/// How long it waits before the second attempt; before each further one twice as long.
const PAUSE: Duration = Duration::from_millis(100);

/// What tells two states apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Each change of a counter or key makes a new one.
    Revision,
    /// Sessions come, go and age without a change of those.
    AppliedIndex,
}

impl Point {
    fn of(self, header: &Header) -> u64 {
        match self {
            Self::Revision => header.revision,
            Self::AppliedIndex => header.applied_index,
        }
    }

    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Revision => ("revision", "revision", "revisions"),
            Self::AppliedIndex => ("applied_index", "applied index", "applied indices"),
        }
    }
}

/// A page of a list.
pub(crate) trait Paged: Serialize {
    /// What tells its states apart.
    const POINT: Point;

    fn header(&self) -> &Header;
    fn next(&self) -> Option<&str>;
    fn items(&self) -> usize;
}

impl<T: Serialize> Paged for Page<T> {
    const POINT: Point = Point::Revision;

    fn header(&self) -> &Header {
        &self.header
    }

    fn next(&self) -> Option<&str> {
        self.next_page_token.as_deref()
    }

    fn items(&self) -> usize {
        self.items.len()
    }
}

impl Paged for SessionPage {
    const POINT: Point = Point::AppliedIndex;

    fn header(&self) -> &Header {
        &self.header
    }

    fn next(&self) -> Option<&str> {
        self.next_page_token.as_deref()
    }

    fn items(&self) -> usize {
        self.sessions.len()
    }
}

/// The states that pages were of.
#[derive(Debug, Clone, Copy)]
struct Span {
    point: Point,
    pages: u64,
    items: u64,
    lowest: u64,
    highest: u64,
}

impl Span {
    fn new(point: Point) -> Self {
        Self { point, pages: 0, items: 0, lowest: u64::MAX, highest: 0 }
    }

    fn add(&mut self, page: &impl Paged) {
        let at = self.point.of(page.header());
        self.pages += 1;
        self.items += page.items() as u64;
        self.lowest = self.lowest.min(at);
        self.highest = self.highest.max(at);
    }

    fn is_one_point(&self) -> bool {
        self.lowest >= self.highest
    }

    fn text(&self) -> String {
        let (_, one, several) = self.point.words();
        if self.is_one_point() {
            format!("all {} at {one} {}", grouped(self.items), self.highest)
        } else {
            format!(
                "pages span {several} {} to {}: not one point of the history",
                self.lowest, self.highest
            )
        }
    }

    fn json(&self) -> Value {
        let (name, ..) = self.point.words();
        let mut all = Map::new();
        all.insert("pages".to_owned(), json!(self.pages));
        all.insert("items".to_owned(), json!(self.items));
        all.insert("one_point".to_owned(), json!(self.is_one_point()));
        all.insert(format!("{name}_min"), json!(self.lowest));
        all.insert(format!("{name}_max"), json!(self.highest));
        Value::Object(all)
    }
}

/// The last page of all says of what states they were.
#[derive(Serialize)]
struct Last<'a, P> {
    #[serde(flatten)]
    page: &'a P,
    all: Value,
}

/// Reads the pages that are asked for, and prints them. Both are told whether a page is the first.
pub(crate) async fn show<P: Paged>(
    pages: &Pages,
    output: Output,
    fetch: impl AsyncFn(Option<String>, bool) -> Result<P, Error>,
    text: impl Fn(&P, bool) -> String,
) -> Result<(), Failure> {
    if !pages.one_point {
        return walk(pages, output, &fetch, &text, &mut None).await.map(drop);
    }
    let mut pause = PAUSE;
    for attempt in 1.. {
        let mut held = Some(Vec::new());
        let span = walk(pages, output, &fetch, &text, &mut held).await?;
        if span.is_one_point() {
            for form in held.into_iter().flatten() {
                print_form(&form)?;
            }
            tell(span, pages, output);
            return Ok(());
        }
        if attempt == ATTEMPTS_MAX {
            return Err(Failure::not_one_point(format!(
                "something was written while it was read, each of {ATTEMPTS_MAX} times: the last {}. Nothing \
                 was printed; try again when less is written, or without --one-point",
                span.text()
            )));
        }
        sleep(pause).await;
        pause *= 2;
    }
    unreachable!("the last attempt ends it")
}

/// Reads them once. With somewhere to hold what is to be printed, it ends as soon as that is not one point.
async fn walk<P: Paged>(
    pages: &Pages,
    output: Output,
    fetch: &impl AsyncFn(Option<String>, bool) -> Result<P, Error>,
    text: &impl Fn(&P, bool) -> String,
    held: &mut Option<Vec<String>>,
) -> Result<Span, Failure> {
    let mut token = pages.page_token.clone();
    let mut span = Span::new(P::POINT);
    loop {
        let is_first = span.pages == 0;
        let page = fetch(token, is_first).await?;
        span.add(&page);
        token = page.next().map(str::to_owned);
        let is_last = token.is_none() && pages.all;
        let form = if is_last {
            let last = Last { page: &page, all: span.json() };
            output.form(&last, |last| text(last.page, is_first))
        } else {
            output.form(&page, |page| text(page, is_first))
        };
        match held {
            Some(_) if !span.is_one_point() => return Ok(span),
            Some(held) => held.push(form),
            None => print_form(&form)?,
        }
        worth::tell(page.header(), output);
        if !more(&token, pages, output) {
            if held.is_none() {
                tell(span, pages, output);
            }
            return Ok(span);
        }
    }
}

/// Says what all of it is worth.
fn tell(span: Span, pages: &Pages, output: Output) {
    if pages.all && !output.json {
        let again = "; --one-point reads again until they are, a few times";
        let hint = if span.is_one_point() { "" } else { again };
        note(&format!("-- {}{hint}", span.text()));
    }
}

/// Whether to read the next page; says how, if that is left to the user.
fn more(token: &Option<String>, pages: &Pages, output: Output) -> bool {
    if let (Some(token), false, false) = (token, pages.all, output.json) {
        note(&format!("-- more: --page-token {}, or --all", word(token)));
    }
    token.is_some() && pages.all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(revision: u64, items: Vec<u64>) -> Page<u64> {
        let header = Header { revision, ..Header::default() };
        Page { items, next_page_token: None, header }
    }

    #[test]
    fn pages_are_one_point_if_nothing_was_written_between_any_two() {
        let mut span = Span::new(Point::Revision);
        span.add(&page(7, vec![1, 2]));
        span.add(&page(7, vec![3]));
        assert_eq!(span.text(), "all 3 at revision 7");
        assert_eq!(span.json()["one_point"], true);
        // A node that is behind is another point, too.
        span.add(&page(5, Vec::new()));
        assert_eq!(span.text(), "pages span revisions 5 to 7: not one point of the history");
        let json = json!({ "pages": 3, "items": 3, "one_point": false, "revision_min": 5, "revision_max": 7 });
        assert_eq!(span.json(), json);
    }
}
