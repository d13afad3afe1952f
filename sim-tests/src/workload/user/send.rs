//! How a user sends a write through the library, and what it says of the outcome.

use std::{rc::Rc, time::Duration};

use rand::Rng;
use tally_client::apply::{Compare, Condition, Operation};

use super::User;
use crate::{
    env::simulated_ms,
    workload::write::{KeyExpect, Write},
};

/// What becomes of a call that its caller does not wait for.
const GIVEN_UP: &str = "given up";

impl User {
    pub(super) async fn send(&mut self, write: &Write, idem: Option<String>) -> bool {
        let deadline = self.deadline();
        let book = self.workload.shared.book.clone();
        let client = Rc::clone(&self.client);
        let has_session = self.has_session;
        let began = simulated_ms();
        let mut request = write.request();
        if let Some(idem) = &idem {
            request = request.idem(idem.clone());
        }
        let gives_up = self.rng.random_bool(self.workload.shared.knobs.abandoned);
        let gives_up = gives_up.then(|| Duration::from_millis(self.rng.random_range(1..60)));
        let pending = book.begin(self.number, request);
        macro_rules! outcome {
            ($call:expr, $what:expr) => {{
                let mut call = $call.deadline(deadline);
                if let Some(idem) = &idem {
                    call = call.idempotency_key(idem.clone());
                }
                let call = std::future::IntoFuture::into_future(call);
                let result = match gives_up {
                    None => Some(call.await),
                    Some(after) => tokio::time::timeout(after, call).await.ok(),
                };
                match result {
                    Some(result) => {
                        let told = brief(&result, $what);
                        if let Ok(answer) = &result
                            && has_session
                            && idem.is_none()
                            && !answer.write.kept_for.is_zero()
                        {
                            book.happened("write under a key for want of a session");
                        }
                        book.finish(pending, &result);
                        told
                    }
                    // Nobody waits for it any more; it may happen all the same.
                    None => GIVEN_UP.to_owned(),
                }
            }};
        }
        let told = match write.clone() {
            Write::Add { name, delta, floor, ceiling, saturate, must_exist } => {
                let mut add = client.counter(name).add(delta);
                if let Some(floor) = floor {
                    add = add.floor(floor);
                }
                if let Some(ceiling) = ceiling {
                    add = add.ceiling(ceiling);
                }
                if saturate {
                    add = add.saturate();
                }
                if must_exist {
                    add = add.fail_if_missing();
                }
                outcome!(add, |change| change.value)
            }
            Write::Set { name, value } => {
                outcome!(client.counter(name).set(value), |change| change.value)
            }
            Write::CasCounter { name, expect, value } => {
                let call = client.counter(name).compare_and_set(expect, value);
                outcome!(call, |change| change.value)
            }
            Write::DeleteCounter { name } => {
                outcome!(client.counter(name).delete(), |change| change.value_before)
            }
            Write::Configure { name, floor, ceiling } => {
                let call = client.counter(name).configure().floor(floor).ceiling(ceiling);
                outcome!(call, |change| change.value)
            }
            Write::Put { key, value, expect } => {
                let put = client.keys().put(key, value);
                let put = match expect {
                    KeyExpect::Nothing => put,
                    KeyExpect::Absent => put.if_absent(),
                    KeyExpect::Present => put.if_present(),
                    KeyExpect::Revision(revision) => put.if_revision(revision),
                    KeyExpect::Value(value) => put.if_value(value),
                };
                outcome!(put, |change| change.revision)
            }
            Write::Delete { key, if_revision } => {
                let mut delete = client.keys().delete(key);
                if let Some(revision) = if_revision {
                    delete = delete.if_revision(revision);
                }
                outcome!(delete, |change| change.revision)
            }
            Write::Transfer { from, to, units } => {
                let call = client
                    .apply()
                    .then(Operation::counter_add(from, -units).floor(0))
                    .then(Operation::counter_add(to, units));
                outcome!(call, |applied| applied.revision)
            }
            Write::Order { stock, order } => {
                let call = client
                    .apply()
                    .then(Operation::counter_add(stock, -1))
                    .then(Operation::key_put(order, "ordered"));
                outcome!(call, |applied| applied.revision)
            }
            Write::Step(step) => outcome!(step.call(&client), |applied| applied.revision),
            Write::Branching { name, limit } => {
                let call = client
                    .apply()
                    .when(Condition::counter_value(&name, Compare::Less, limit))
                    .then(Operation::counter_add(&name, 3))
                    .otherwise(Operation::counter_get(&name));
                outcome!(call, |applied| applied.revision)
            }
        };
        let again = if idem.is_some() { " under a key" } else { "" };
        self.tell(began, &format!("{}{again}: {told}", write.brief()));
        told == GIVEN_UP
    }
}

/// An answer or an error in a few words.
pub(super) fn brief<T, V: std::fmt::Display>(
    result: &tally_client::Result<T>,
    value: impl Fn(&T) -> V,
) -> String {
    match result {
        Ok(answer) => value(answer).to_string(),
        Err(error) => match error.outcome() {
            Some(outcome) => format!("{} ({outcome:?})", error.reason()),
            None => error.reason().to_owned(),
        },
    }
}
