//! One user: what it asks, one call after the other.
//!
//! Leaves out: how a write is sent (`user/send`).

mod send;

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};
use tally_client::{
    Client, ReadLevel,
    counter::Expect,
    history::{Part, Request},
};

use self::send::brief;
use super::{
    ACCOUNTS, FAR, RESENDABLE_MAX, STOCKS, Shared, Workload, account, counter, far, hot, key,
    pages::{Asked, Got, Item},
    step::{Names, Step},
    stock,
    write::{KeyExpect, Write},
};
use crate::{cluster::Cluster, env::simulated_ms, trace_event};

/// Between the numbers of a user's processes.
const BORN_AGAIN: u64 = 10_000;

/// One who makes one call after the other.
pub(super) struct User {
    pub(super) number: u64,
    /// Some share one.
    pub(super) client: Rc<Client>,
    pub(super) cluster: Cluster,
    /// It opens one, if it can.
    pub(super) has_session: bool,
    pub(super) workload: Workload,
    pub(super) rng: SmallRng,
    /// Value (of a counter) and revision, as last seen, to base conditions on.
    pub(super) known: BTreeMap<String, (i64, u64)>,
    /// The values of keys, as last seen.
    pub(super) texts: BTreeMap<String, String>,
    pub(super) writes: u64,
}

/// While it lasts nobody asks for anything.
pub(super) async fn lull(shared: &Shared) {
    let Some((from_ms, until_ms)) = shared.knobs.lull_ms else { return };
    while !shared.stop.get() && (from_ms..until_ms).contains(&simulated_ms().unwrap_or(0)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl User {
    pub(super) async fn live(mut self) {
        let shared = Rc::clone(&self.workload.shared);
        while !shared.ready.get() && !shared.stop.get() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while !shared.stop.get() {
            let think = self.rng.random_range(0..=shared.knobs.think_ms_max);
            tokio::time::sleep(Duration::from_millis(think)).await;
            lull(&shared).await;
            if self.rng.random_bool(shared.knobs.reads) {
                self.read().await;
            } else {
                let was_given_up = self.write().await;
                if was_given_up && self.rng.random_bool(0.3) {
                    self.die();
                }
            }
        }
        shared.running.set(shared.running.get() - 1);
    }

    /// Its process ends with a call under way, without a word to anybody, and is started again: it has
    /// another client, and remembers nothing. What happens to be cut off then is not even told that its
    /// connections are gone.
    fn die(&mut self) {
        if Rc::strong_count(&self.client) > 1 {
            return;
        }
        self.number += BORN_AGAIN;
        let client = self.workload.client(&self.cluster, self.number, &mut self.rng);
        (self.client, self.has_session) = (Rc::new(client.0), client.1);
        self.known.clear();
        self.texts.clear();
        self.workload.shared.book.happened("a client that died with calls under way");
        trace_event!(&format!("user-{}", self.number), "has another process");
    }

    fn deadline(&mut self) -> Duration {
        let knobs = &self.workload.shared.knobs;
        let ms = if self.rng.random_bool(knobs.short_deadlines) {
            self.rng.random_range(3..60)
        } else {
            knobs.deadline_ms
        };
        Duration::from_millis(ms)
    }

    fn level(&mut self) -> ReadLevel {
        match self.rng.random_range(0..10) {
            0..5 => ReadLevel::Linearizable,
            5 | 6 => ReadLevel::Bounded {
                max_staleness: Duration::from_millis(self.rng.random_range(1..2_000)),
                allow_fallback: self.rng.random_bool(0.2),
            },
            7 | 8 => ReadLevel::Session(None),
            _ => ReadLevel::Local,
        }
    }

    fn counter_name(&mut self) -> String {
        let knobs = &self.workload.shared.knobs;
        if self.rng.random_bool(knobs.hot) {
            return hot(self.rng.random_range(0..knobs.hot_counters));
        }
        match self.rng.random_range(0..4) {
            0 => stock(self.rng.random_range(0..STOCKS)),
            1 => account(self.rng.random_range(0..ACCOUNTS)),
            _ => counter(self.rng.random_range(0..knobs.spread)),
        }
    }

    fn key_name(&mut self) -> String {
        key(self.rng.random_range(0..self.workload.shared.knobs.spread))
    }

    async fn read(&mut self) {
        if self.rng.random_bool(0.08) {
            return self.read_pages().await;
        }
        let (level, deadline) = (self.level(), self.deadline());
        let book = self.workload.shared.book.clone();
        let began = simulated_ms();
        let what;
        match self.rng.random_range(0..10) {
            0..5 => {
                let name = self.counter_name();
                let pending =
                    book.begin(self.number, Request::from(Part::get(&name)).level(&level));
                let call = self.client.counter(&name).get().level(level).deadline(deadline);
                let result = call.await;
                if let Ok(counter) = &result {
                    self.known.insert(name.clone(), (counter.value, counter.modified_revision));
                }
                what = format!("get {name}: {}", brief(&result, |counter| counter.value));
                book.finish(pending, &result);
            }
            5..8 => {
                let name = self.key_name();
                let pending =
                    book.begin(self.number, Request::from(Part::read(&name)).level(&level));
                let call = self.client.keys().get(&name).level(level).deadline(deadline);
                let result = call.await;
                if let Ok(item) = &result {
                    self.known.insert(name.clone(), (0, item.modified_revision));
                    let text = String::from_utf8_lossy(&item.value).into_owned();
                    self.texts.insert(name.clone(), text);
                }
                what = format!("read {name}: {}", brief(&result, |item| item.modified_revision));
                book.finish(pending, &result);
            }
            _ => {
                let names: Vec<String> = (0..ACCOUNTS).map(account).collect();
                let pending =
                    book.begin(self.number, Request::batch_get(names.clone()).level(&level));
                let call = self.client.counters().batch_get(names).level(level).deadline(deadline);
                let result = call.await;
                what = format!("batch get: {}", brief(&result, |batch| batch.items.len() as i64));
                book.finish(pending, &result);
            }
        }
        self.tell(began, &what);
    }

    /// A list or scan to its end, while others write.
    async fn read_pages(&mut self) {
        let book = self.workload.shared.book.clone();
        let (level, deadline) = (self.level(), self.deadline());
        let is_list = self.rng.random_bool(0.5);
        let prefixes: &[&str] = if is_list {
            &["counter-", "counter-0", "hot-", "account-", "far-"]
        } else {
            &["key-", "key-0"]
        };
        let prefix = *prefixes.choose(&mut self.rng).expect("not empty");
        let all = if is_list { self.workload.counters() } else { self.workload.keys() };
        let mut names: Vec<String> =
            all.into_iter().filter(|name| name.starts_with(prefix)).collect();
        names.sort_unstable();
        let size = self.rng.random_range(1..=7);
        let keys_only = !is_list && self.rng.random_bool(0.3);
        let mut asked = Asked { names, after: None, size, keys_only };
        let mut token = None;
        let mut pages = 0;
        loop {
            let began = simulated_ms();
            let request = Request::batch_get(Vec::<String>::new()).level(&level);
            let pending = book.begin(self.number, request);
            let next = if is_list {
                let mut list = self.client.counters().list().prefix(prefix).page_size(size);
                if let Some(token) = token {
                    list = list.page_token(token);
                }
                let result = list.level(level.clone()).deadline(deadline).await;
                page_told(&book, pending, &asked, result)
            } else {
                let mut scan = self.client.keys().scan().prefix(prefix).page_size(size);
                if keys_only {
                    scan = scan.keys_only();
                }
                if let Some(token) = token {
                    scan = scan.page_token(token);
                }
                let result = scan.level(level.clone()).deadline(deadline).await;
                page_told(&book, pending, &asked, result)
            };
            pages += 1;
            self.tell(began, &format!("page {pages} of {prefix} after {:?}", asked.after));
            let Some((last, next)) = next else { return };
            (asked.after, token) = (Some(last), Some(next));
            let think = self.rng.random_range(0..40);
            tokio::time::sleep(Duration::from_millis(think)).await;
        }
    }

    fn tell(&self, began: Option<u64>, what: &str) {
        let took = simulated_ms().unwrap_or(0) - began.unwrap_or(0);
        trace_event!(&format!("user-{}", self.number), "{what} ({took} ms)");
    }

    /// Says whether it was given up before it had an answer.
    async fn write(&mut self) -> bool {
        let shared = Rc::clone(&self.workload.shared);
        if self.rng.random_bool(shared.knobs.resends) {
            let again = shared.resendable.borrow().choose(&mut self.rng).cloned();
            if let Some((idem, write)) = again {
                return self.send(&write, Some(idem)).await;
            }
        }
        let write = self.draw_write();
        self.writes += 1;
        let may_have_key = shared.knobs.keys_outlive_calls();
        let idem = (self.rng.random_bool(0.15) && may_have_key)
            .then(|| format!("key-{}-{}", self.number, self.writes));
        if let Some(idem) = &idem {
            let mut resendable = shared.resendable.borrow_mut();
            if resendable.len() == RESENDABLE_MAX {
                let at = self.rng.random_range(0..RESENDABLE_MAX);
                resendable.swap_remove(at);
            }
            resendable.push((idem.clone(), write.clone()));
        }
        self.send(&write, idem).await
    }

    fn draw_write(&mut self) -> Write {
        match self.rng.random_range(0..26) {
            20..24 => Write::Step(Step::draw(self)),
            24 => Write::Set { name: self.far_counter(), value: self.near_the_end() },
            25 => Write::Add {
                name: self.far_counter(),
                delta: self.near_the_end(),
                floor: None,
                ceiling: None,
                saturate: self.rng.random_bool(0.3),
                must_exist: false,
            },
            0..8 => {
                let name = self.counter_name();
                let is_account = name.starts_with("account");
                let is_stock = name.starts_with("stock");
                let delta = match (is_account, is_stock) {
                    // Accounts keep their sum; only transfers move them.
                    (true, _) => 0,
                    (_, true) => self.rng.random_range(-9..=9),
                    _ => *[1, 1, 1, 1, -1, 5].choose(&mut self.rng).expect("not empty"),
                };
                let own_bounds = !is_account && self.rng.random_bool(0.15);
                Write::Add {
                    name,
                    delta,
                    floor: own_bounds.then(|| self.rng.random_range(-5..5)),
                    ceiling: own_bounds.then(|| self.rng.random_range(5..60)),
                    saturate: self.rng.random_bool(0.2),
                    must_exist: self.rng.random_bool(0.1),
                }
            }
            8 => Write::Set { name: self.spread_counter(), value: self.rng.random_range(-20..20) },
            9 => {
                let name = self.spread_counter();
                let expect = match (self.known.get(&name), self.rng.random_range(0..3)) {
                    (Some((value, _)), 0) => Expect::Value(*value),
                    (Some((_, revision)), 1) => Expect::Revision(*revision),
                    _ => Expect::Absent,
                };
                Write::CasCounter { name, expect, value: self.rng.random_range(-20..20) }
            }
            10 => Write::DeleteCounter { name: self.spread_counter() },
            11 => {
                let floor = self.rng.random_range(-60..0);
                Write::Configure {
                    name: self.spread_counter(),
                    floor,
                    ceiling: self.rng.random_range(floor..80),
                }
            }
            12..15 => {
                let key = self.key_name();
                let text = self.texts.get(&key).cloned();
                let expect = match (self.known.get(&key), text, self.rng.random_range(0..7)) {
                    (Some((_, revision)), _, 0 | 1) => KeyExpect::Revision(*revision),
                    (_, Some(text), 4) => KeyExpect::Value(text),
                    (_, _, 2) => KeyExpect::Absent,
                    (_, _, 3) => KeyExpect::Present,
                    _ => KeyExpect::Nothing,
                };
                // Unique, so that a read tells which write it saw. As long as it happens to be, so that
                // a write of the log covers one sector of the disk or several.
                let mut value = format!("{}/{}", self.number, self.writes);
                let bytes_max = self.workload.shared.knobs.value_bytes_max;
                let bytes = self.rng.random_range(0..=bytes_max);
                value.extend(std::iter::repeat_n('.', bytes));
                Write::Put { key, value, expect }
            }
            15 => {
                let key = self.key_name();
                let known = self.known.get(&key).map(|known| known.1);
                Write::Delete { key, if_revision: known.filter(|_| self.rng.random()) }
            }
            16 | 17 => {
                let from = self.rng.random_range(0..ACCOUNTS);
                let to = (from + self.rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
                let units = self.rng.random_range(1..30);
                Write::Transfer { from: account(from), to: account(to), units }
            }
            18 => Write::Order {
                stock: stock(self.rng.random_range(0..STOCKS)),
                order: self.key_name(),
            },
            _ => Write::Branching {
                name: self.spread_counter(),
                limit: self.rng.random_range(-5..15),
            },
        }
    }

    fn far_counter(&mut self) -> String {
        far(self.rng.random_range(0..FAR))
    }

    /// A number within reach of one end of what fits in 64 bits, or a small one.
    fn near_the_end(&mut self) -> i64 {
        let little = self.rng.random_range(0..5);
        match self.rng.random_range(0..5) {
            0 | 1 => i64::MAX - little,
            2 | 3 => i64::MIN + little,
            _ => little - 2,
        }
    }

    fn spread_counter(&mut self) -> String {
        counter(self.rng.random_range(0..self.workload.shared.knobs.spread))
    }
}

impl Names for User {
    fn counter(&mut self) -> String {
        match self.rng.random_range(0..4) {
            0 => stock(self.rng.random_range(0..STOCKS)),
            1 => self.far_counter(),
            _ => self.spread_counter(),
        }
    }

    fn key(&mut self) -> String {
        self.key_name()
    }

    fn rng(&mut self) -> &mut SmallRng {
        &mut self.rng
    }

    fn known(&self, name: &str) -> Option<(i64, u64)> {
        self.known.get(name).copied()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.texts.get(key).cloned()
    }

    fn value(&mut self) -> String {
        self.writes += 1;
        let bytes_max = self.workload.shared.knobs.value_bytes_max;
        let bytes = self.rng.random_range(0..=bytes_max);
        let mut value = format!("{}/{}", self.number, self.writes);
        value.extend(std::iter::repeat_n('.', bytes));
        value
    }
}

/// Records a page. Its last name and the token of the next one, if there is one.
fn page_told<T: Item>(
    book: &super::Book,
    pending: tally_client::history::Pending,
    asked: &Asked,
    result: tally_client::Result<tally_client::Page<T>>,
) -> Option<(String, String)> {
    let page = match &result {
        Ok(page) => page,
        Err(_) => {
            book.finish(pending, &result.map(|_| tally_client::CounterValue::default()));
            return None;
        }
    };
    let got = Got { asked, page };
    if let Some(wrong) = got.wrong() {
        book.wrong(wrong);
    }
    book.happened(if asked.after.is_some() { "later pages" } else { "first pages" });
    book.finish_told(pending, got);
    Some((page.items.last()?.name().to_owned(), page.next_page_token.clone()?))
}
