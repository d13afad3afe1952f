//! Pages of lists and scans, as a history has them: reads of one state.
//!
//! A page of a range says of every name in it, up to its last item, whether it is there. So it is
//! recorded as a batch read of all those names that users ever write, and judged as one: its items
//! are the items of one state. What a page alone has to keep (names ascend and do not repeat, nothing
//! outside of the range, no more than asked for) is looked at here.

use tally_client::{
    CounterValue, KeyValue, Page,
    history::{Answer, Part, Record, Scalar, Told},
};

/// A range of names: those after `after` (if anything) of a list of all that exist.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// All names in the range that users ever write.
    pub(super) names: Vec<String>,
    /// The last name of the page before.
    pub(super) after: Option<String>,
    /// The most that a page may hold.
    pub(super) size: u16,
    /// Values are left out.
    pub(super) keys_only: bool,
}

/// An item of a page.
pub(super) trait Item {
    fn name(&self) -> &str;
    fn part(&self) -> Part;
    fn answer(&self, keys_only: bool) -> Answer;
    fn absent(name: &str) -> Part;
}

impl Item for CounterValue {
    fn name(&self) -> &str {
        &self.name
    }

    fn part(&self) -> Part {
        Part::get(&self.name)
    }

    fn answer(&self, _: bool) -> Answer {
        Answer {
            value: Some(Some(Scalar::Int(self.value))),
            version: Some(self.modified_revision),
            created: Some(self.created_revision),
            floor: Some(self.floor),
            ceiling: Some(self.ceiling),
            ..Answer::default()
        }
    }

    fn absent(name: &str) -> Part {
        Part::get(name)
    }
}

impl Item for KeyValue {
    fn name(&self) -> &str {
        &self.key
    }

    fn part(&self) -> Part {
        Part::read(&self.key)
    }

    fn answer(&self, keys_only: bool) -> Answer {
        Answer {
            value: (!keys_only).then(|| Some(Scalar::from(&*self.value))),
            version: Some(self.modified_revision),
            created: Some(self.created_revision),
            ..Answer::default()
        }
    }

    fn absent(name: &str) -> Part {
        Part::read(name)
    }
}

/// A page with what was asked for.
#[derive(Debug)]
pub(super) struct Got<'a, T> {
    pub(super) asked: &'a Asked,
    pub(super) page: &'a Page<T>,
}

impl<T: Item> Got<'_, T> {
    /// What is wrong with the page by itself.
    pub(super) fn wrong(&self) -> Option<String> {
        let Got { asked, page } = self;
        let names: Vec<&str> = page.items.iter().map(Item::name).collect();
        let before = asked.after.as_deref().into_iter().chain(names.iter().copied());
        let ascends = before.zip(&names).all(|(before, name)| {
            // (Without a page before, the first name is compared with itself.)
            before < *name || (asked.after.is_none() && before == *name)
        });
        let repeats = names.windows(2).any(|pair| pair[0] >= pair[1]);
        if !ascends || repeats {
            return Some(format!("a page does not ascend after {:?}: {names:?}", asked.after));
        }
        if let Some(foreign) = names.iter().find(|name| !asked.names.iter().any(|n| n == **name)) {
            return Some(format!("a page holds {foreign:?}, which is not in its range"));
        }
        if names.len() > usize::from(asked.size) {
            return Some(format!("a page of {} has {} items", asked.size, names.len()));
        }
        (names.is_empty() && page.next_page_token.is_some())
            .then(|| "an empty page has one after it".to_owned())
    }
}

impl<T: Item> Told for Got<'_, T> {
    fn tell(&self, record: &mut Record) {
        let Got { asked, page } = self;
        super::raw::tell_header(&page.header, record);
        let last = page.items.last().filter(|_| page.next_page_token.is_some()).map(Item::name);
        let covered = asked.names.iter().filter(|name| {
            asked.after.as_ref().is_none_or(|after| *name > after)
                && last.is_none_or(|last| name.as_str() <= last)
        });
        record.ops = covered
            .map(|name| match page.items.iter().find(|item| item.name() == name) {
                Some(item) => Part { result: Some(item.answer(asked.keys_only)), ..item.part() },
                None => {
                    let absent =
                        Answer { value: Some(None), version: Some(0), ..Answer::default() };
                    Part { result: Some(absent), ..T::absent(name) }
                }
            })
            .collect();
    }
}
