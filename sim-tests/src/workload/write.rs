//! The writes that users make, and how each is told to the history.

use tally_client::{
    counter::Expect,
    history::{self, Kind, Part, Request},
};

use super::step::Step;

/// A write, so that it can be sent again as it was.
#[derive(Debug, Clone)]
pub(super) enum Write {
    Add {
        name: String,
        delta: i64,
        floor: Option<i64>,
        ceiling: Option<i64>,
        saturate: bool,
        must_exist: bool,
    },
    Set {
        name: String,
        value: i64,
    },
    CasCounter {
        name: String,
        expect: Expect,
        value: i64,
    },
    DeleteCounter {
        name: String,
    },
    Configure {
        name: String,
        floor: i64,
        ceiling: i64,
    },
    Put {
        key: String,
        value: String,
        expect: KeyExpect,
    },
    Delete {
        key: String,
        if_revision: Option<u64>,
    },
    Transfer {
        from: String,
        to: String,
        units: i64,
    },
    Order {
        stock: String,
        order: String,
    },
    Branching {
        name: String,
        limit: i64,
    },
    Step(Step),
}

#[derive(Debug, Clone)]
pub(super) enum KeyExpect {
    Nothing,
    Absent,
    Present,
    Revision(u64),
    Value(String),
}

impl Write {
    /// For a line of the trace: long values are cut.
    pub(super) fn brief(&self) -> String {
        let mut short = self.clone();
        if let Write::Put { value, .. } = &mut short
            && let Some(end) = value.find('.')
        {
            let bytes = value.len();
            value.truncate(end);
            *value += &format!(" ({bytes} bytes)");
        }
        if let Write::Step(step) = &short {
            let (when, then, otherwise) = (step.when.len(), step.then.len(), step.otherwise.len());
            return format!("Step of {then} (else {otherwise}) under {when} conditions");
        }
        format!("{short:?}")
    }

    /// As the history has it.
    pub(super) fn request(&self) -> Request {
        match self.clone() {
            Write::Add { name, delta, floor, ceiling, saturate, must_exist } => {
                let mut part = Part::incr(name, delta);
                part.floor = floor;
                part.ceiling = ceiling;
                part.saturate = saturate;
                part.must_exist = must_exist;
                part.into()
            }
            Write::Set { name, value } => Part::set(name, value).into(),
            Write::CasCounter { name, expect, value } => {
                Part::cas_counter(name, expect, value).into()
            }
            Write::DeleteCounter { name } => Part::delete_counter(name).into(),
            Write::Configure { name, floor, ceiling } => {
                Part::configure(name).floor(floor).ceiling(ceiling).into()
            }
            Write::Put { key, value, expect } => {
                let part = Part::put(key, value);
                match expect {
                    KeyExpect::Nothing => part,
                    KeyExpect::Absent => part.if_absent(),
                    KeyExpect::Present => part.if_present(),
                    KeyExpect::Revision(revision) => part.if_version(revision),
                    KeyExpect::Value(value) => part.if_value(value),
                }
                .into()
            }
            Write::Delete { key, if_revision } => match if_revision {
                Some(revision) => Part::delete(key).if_version(revision).into(),
                None => Part::delete(key).into(),
            },
            Write::Transfer { from, to, units } => {
                Request::apply([Part::incr(from, -units).floor(0), Part::incr(to, units)])
            }
            Write::Order { stock, order } => {
                Request::apply([Part::incr(stock, -1), Part::put(order, "ordered")])
            }
            Write::Step(step) => {
                let mut request = Request::apply(step.then);
                for when in step.when {
                    request = request.when(when);
                }
                for part in step.otherwise {
                    request = request.otherwise(part);
                }
                request
            }
            Write::Branching { name, limit } => Request::apply([Part::incr(&name, 3)])
                .when(history::Condition::value(
                    Kind::Counter,
                    &name,
                    history::Compare::Less,
                    limit,
                ))
                .otherwise(Part::get(&name)),
        }
    }
}
