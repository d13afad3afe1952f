//! What the fake cluster does to counters and keys beyond adding: reads, pages, deletes, and atomic steps of
//! them. Conditions and bounds are left to real nodes.

use std::collections::BTreeMap;

use tally_client::proto as v1;
use tally_proto::{
    reason,
    status::StatusBuilder,
    v1::{answer::Response, call::Request, operation::Kind, operation_result::Kind as Done},
};
use tonic::Code;

use super::Model;

/// Names of a map that begin so and come after a token, and the token of the next page.
fn page<T>(
    map: &BTreeMap<String, T>,
    prefix: &str,
    size: i32,
    token: &str,
) -> (Vec<String>, String) {
    let size = if size == 0 { 100 } else { size as usize };
    let mut names = map.keys().filter(|name| name.starts_with(prefix) && name.as_str() > token);
    let page: Vec<String> = names.by_ref().take(size).cloned().collect();
    let next = names.next().and_then(|_| page.last().cloned()).unwrap_or_default();
    (page, next)
}

impl Model {
    pub(super) fn store(&mut self, request: Request) -> Response {
        match request {
            Request::CountersList(list) => {
                self.somebody_writes(&list.page_token);
                let (names, next_page_token) =
                    page(&self.counters, &list.prefix, list.page_size, &list.page_token);
                Response::CountersList(v1::CountersListResponse {
                    header: Some(self.header()),
                    counters: names.iter().filter_map(|name| self.counter(name)).collect(),
                    next_page_token,
                })
            }
            Request::CountersDelete(delete) => {
                Response::CountersDelete(v1::CountersWriteResponse {
                    change: Some(self.delete_counter(&delete.name)),
                    header: Some(self.header()),
                    write: None,
                })
            }
            Request::KeysGet(get) => match self.item(&get.key) {
                Some(item) => Response::KeysGet(v1::KeysGetResponse {
                    header: Some(self.header()),
                    item: Some(item),
                }),
                None => Response::Error(
                    StatusBuilder::new(Code::NotFound, reason::KEY_NOT_FOUND, "no").build(),
                ),
            },
            Request::KeysBatchGet(batch) => {
                let (found, missing): (Vec<_>, Vec<_>) =
                    batch.keys.into_iter().partition(|key| self.keys.contains_key(key));
                let items = found.iter().filter_map(|key| self.item(key)).collect();
                let header = Some(self.header());
                Response::KeysBatchGet(v1::KeysBatchGetResponse { header, items, missing })
            }
            Request::KeysScan(scan) => {
                self.somebody_writes(&scan.page_token);
                let (keys, next_page_token) =
                    page(&self.keys, &scan.prefix, scan.page_size, &scan.page_token);
                Response::KeysScan(v1::KeysScanResponse {
                    header: Some(self.header()),
                    items: keys.iter().filter_map(|key| self.item(key)).collect(),
                    next_page_token,
                })
            }
            Request::KeysDelete(delete) => Response::KeysDelete(v1::KeysWriteResponse {
                change: Some(self.delete_key(&delete.key)),
                header: Some(self.header()),
                write: None,
            }),
            Request::TransactionsApply(step) => {
                assert!(step.conditions.is_empty(), "the model does not know conditions");
                let done = step.operations.into_iter().map(|it| self.operate(it)).collect();
                Response::TransactionsApply(v1::TransactionsApplyResponse {
                    change: Some(v1::StepChange {
                        branch: v1::Branch::Then as i32,
                        results: done,
                        revision: self.revision,
                    }),
                    header: Some(self.header()),
                    write: None,
                })
            }
            other => panic!("the model does not know {other:?}"),
        }
    }

    /// Others write between two pages, as often as the test says.
    fn somebody_writes(&mut self, page_token: &str) {
        if !page_token.is_empty() && self.writes_between_pages > 0 {
            self.writes_between_pages -= 1;
            self.revision += 1;
        }
    }

    fn counter(&self, name: &str) -> Option<v1::Counter> {
        let value = *self.counters.get(name)?;
        Some(v1::Counter { name: name.to_owned(), value, ..Default::default() })
    }

    fn item(&self, key: &str) -> Option<v1::KeyValue> {
        let value = self.keys.get(key)?.clone();
        Some(v1::KeyValue { key: key.to_owned(), value, ..Default::default() })
    }

    fn delete_counter(&mut self, name: &str) -> v1::CounterChange {
        let before = self.counters.remove(name);
        self.revision += u64::from(before.is_some());
        v1::CounterChange {
            value_before: before.unwrap_or_default(),
            existed: before.is_some(),
            revision: self.revision,
            ..Default::default()
        }
    }

    fn delete_key(&mut self, key: &str) -> v1::KeyChange {
        let existed = self.keys.remove(key).is_some();
        self.revision += u64::from(existed);
        v1::KeyChange { existed, revision: self.revision, ..Default::default() }
    }

    fn set_counter(&mut self, name: String, value: i64) -> v1::CounterChange {
        self.revision += 1;
        let before = self.counters.insert(name, value);
        v1::CounterChange {
            value_before: before.unwrap_or_default(),
            value,
            existed: before.is_some(),
            revision: self.revision,
            ..Default::default()
        }
    }

    fn operate(&mut self, operation: v1::Operation) -> v1::OperationResult {
        let missing = Done::Missing(v1::Missing {});
        let kind = match operation.kind.expect("an operation") {
            Kind::CounterAdd(add) => {
                let value = self.counters.get(&add.name).copied().unwrap_or_default() + add.delta;
                Done::CounterChange(self.set_counter(add.name, value))
            }
            Kind::CounterSet(set) => Done::CounterChange(self.set_counter(set.name, set.value)),
            Kind::CounterDelete(delete) => Done::CounterChange(self.delete_counter(&delete.name)),
            Kind::CounterGet(get) => self.counter(&get.name).map_or(missing, Done::Counter),
            Kind::KeyPut(put) => {
                self.revision += 1;
                let existed = self.keys.insert(put.key, put.value).is_some();
                let revision = self.revision;
                Done::KeyChange(v1::KeyChange { revision, existed, ..Default::default() })
            }
            Kind::KeyGet(get) => self.item(&get.key).map_or(missing, Done::Item),
            Kind::KeyDelete(delete) => Done::KeyChange(self.delete_key(&delete.key)),
            other => panic!("the model does not know {other:?}"),
        };
        v1::OperationResult { kind: Some(kind) }
    }
}
