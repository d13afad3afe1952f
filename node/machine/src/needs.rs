//! What an operation needs: which permissions, and on what.

use super::{
    auth::{Permissions, Scope},
    item::{Bounds, Target},
    operation::{CounterAdd, KeyExpectation, Operation},
    rights::Need,
};

impl<'a> Need<'a> {
    /// To read an item.
    pub fn read(target: &'a Target) -> Need<'a> {
        let (scope, name) = match target {
            Target::Counter(name) => (Scope::Counters, name),
            Target::Key(name) => (Scope::Keys, name),
        };
        Need { scope, name, permissions: Permissions::READ }
    }

    /// What an operation needs. One whose outcome depends on what is stored beyond its own bounds, so that a
    /// failure would tell of it, needs to read it, too.
    pub fn of(operation: &'a Operation) -> Need<'a> {
        use Scope::{Counters, Keys};

        let expects = |expect: &KeyExpectation| match expect {
            KeyExpectation::Any => Permissions::NONE,
            _ => Permissions::READ,
        };
        let need = |scope, name, permissions| Need { scope, name, permissions };
        match operation {
            Operation::CounterAdd(add) => need(Counters, &add.name, of_add(add)),
            Operation::CounterGet(get) => need(Counters, &get.name, Permissions::READ),
            Operation::CounterSet(set) => need(Counters, &set.name, Permissions::WRITE),
            Operation::CounterCompareAndSet(cas) => {
                need(Counters, &cas.name, Permissions::WRITE.and(Permissions::READ))
            }
            Operation::CounterDelete(delete) => need(Counters, &delete.name, Permissions::WRITE),
            Operation::CounterConfigure(it) => need(Counters, &it.name, Permissions::CONFIGURE),
            Operation::KeyPut(put) => {
                need(Keys, &put.key, Permissions::WRITE.and(expects(&put.expect)))
            }
            Operation::KeyGet(get) => need(Keys, &get.key, Permissions::READ),
            Operation::KeyDelete(delete) => {
                need(Keys, &delete.key, Permissions::WRITE.and(expects(&delete.expect)))
            }
        }
    }
}

/// An add of nothing is one that increases. Bounds of the request's own are a comparison with the value
/// (a refusal by them would tell it, asked often enough), so they need to read it.
fn of_add(add: &CounterAdd) -> Permissions {
    let direction = match add.delta {
        ..0 => Permissions::DECREASE,
        0.. => Permissions::INCREASE,
    };
    match add.bounds == Bounds::default() {
        true => direction,
        false => direction.and(Permissions::READ),
    }
}
