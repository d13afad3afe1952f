//! Counters: named signed 64-bit integers with stored bounds.
//!
//! One file though it is long: half of it is the examples of its methods, and a call and the same operation
//! as a step of an atomic one are made alike.

use std::future::IntoFuture as _;

use tally_proto::v1::{self, operation::Kind};

use crate::{
    answer::{Batch, CounterChange, CounterValue, Header, Page},
    apply::Operation,
    call::{Read, Write, answers},
    client::Client,
    paging::{Items, Pages},
};

/// One counter, by name.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let hits = client.counter("hits");
/// hits.add(1).await?;
/// println!("{}", hits.get().await?.value);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Counter {
    client: Client,
    name: String,
}

/// All counters.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let page = client.counters().list().prefix("page/").await?;
/// println!("{}", page.items.len());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Counters {
    client: Client,
}

/// An add before it is sent.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let add: tally_client::counter::Add = client.counter("hits").add(1);
/// add.await?;
/// # Ok(()) }
/// ```
pub type Add = Write<v1::CountersAddRequest>;

/// A new pair of stored bounds before it is sent.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let configure: tally_client::counter::Configure = client.counter("stock").configure();
/// configure.floor(0).ceiling(100).await?;
/// # Ok(()) }
/// ```
pub type Configure = Write<v1::CountersConfigureRequest>;

/// A list of counters before it is asked for.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let list: tally_client::counter::List = client.counters().list();
/// let page = list.prefix("page/").page_size(10).await?;
/// # Ok(()) }
/// ```
pub type List = Read<v1::CountersListRequest>;

/// What a compare-and-set expects of the counter.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// use tally_client::counter::Expect;
///
/// client.counter("turn").compare_and_set(Expect::Absent, 1).await?;
/// client.counter("turn").compare_and_set(Expect::Value(1), 2).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Its value is this.
    Value(i64),
    /// The revision that last changed it is this.
    Revision(u64),
    /// It does not exist.
    Absent,
}

impl Client {
    /// A counter, by name (1 to 512 bytes). Nothing is sent yet.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.counter("hits").add(1).await?;
    /// # Ok(()) }
    /// ```
    pub fn counter(&self, name: impl Into<String>) -> Counter {
        Counter { client: self.clone(), name: name.into() }
    }

    /// All counters.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let batch = client.counters().batch_get(["hits", "misses"]).await?;
    /// # Ok(()) }
    /// ```
    pub fn counters(&self) -> Counters {
        Counters { client: self.clone() }
    }
}

impl Counter {
    /// Moves it by a signed delta; a missing one is created at 0 first.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let change = client.counter("hits").add(1).await?;
    /// println!("{}", change.value);
    /// # Ok(()) }
    /// ```
    pub fn add(&self, delta: i64) -> Add {
        let name = self.name.clone();
        Write::new(&self.client, v1::CountersAddRequest { name, delta, ..Default::default() })
    }

    /// Reads it. One that does not exist is an error, [`COUNTER_NOT_FOUND`].
    ///
    /// [`COUNTER_NOT_FOUND`]: crate::reason::COUNTER_NOT_FOUND
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// println!("{}", client.counter("hits").get().await?.value);
    /// # Ok(()) }
    /// ```
    pub fn get(&self) -> Read<v1::CountersGetRequest> {
        Read::new(&self.client, v1::CountersGetRequest { name: self.name.clone(), read: None })
    }

    /// Replaces its value, within its stored bounds.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.counter("stock").set(100).await?;
    /// # Ok(()) }
    /// ```
    pub fn set(&self, value: i64) -> Write<v1::CountersSetRequest> {
        let name = self.name.clone();
        Write::new(&self.client, v1::CountersSetRequest { name, value, options: None })
    }

    /// Replaces its value if it is as expected; else refused with [`CONDITION_FAILED`].
    ///
    /// [`CONDITION_FAILED`]: crate::reason::CONDITION_FAILED
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::counter::Expect;
    ///
    /// client.counter("turn").compare_and_set(Expect::Value(1), 2).await?;
    /// # Ok(()) }
    /// ```
    pub fn compare_and_set(
        &self,
        expect: Expect,
        value: i64,
    ) -> Write<v1::CountersCompareAndSetRequest> {
        Write::new(&self.client, compare_and_set(self.name.clone(), expect, value))
    }

    /// Removes it with its bounds. Of one that does not exist it succeeds, with `existed` false.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let change = client.counter("hits").delete().await?;
    /// println!("it was {}", change.value_before);
    /// # Ok(()) }
    /// ```
    pub fn delete(&self) -> Write<v1::CountersDeleteRequest> {
        let request = v1::CountersDeleteRequest { name: self.name.clone(), options: None };
        Write::new(&self.client, request)
    }

    /// Replaces both stored bounds; one that is not named is removed. A missing counter is created
    /// at 0.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.counter("stock").configure().floor(0).await?;
    /// # Ok(()) }
    /// ```
    pub fn configure(&self) -> Configure {
        Write::new(&self.client, configure(self.name.clone()))
    }
}

impl Counters {
    /// Reads up to 128 counters at one point in the history.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let batch = client.counters().batch_get(["hits", "misses"]).await?;
    /// println!("{:?}", batch.missing);
    /// # Ok(()) }
    /// ```
    pub fn batch_get<I>(&self, names: I) -> Read<v1::CountersBatchGetRequest>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let names = names.into_iter().map(Into::into).collect();
        Read::new(&self.client, v1::CountersBatchGetRequest { names, read: None })
    }

    /// Pages through the counters in ascending order of their names.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.counters().list().prefix("page/").await?;
    /// # Ok(()) }
    /// ```
    pub fn list(&self) -> List {
        Read::new(&self.client, v1::CountersListRequest::default())
    }
}

impl Add {
    /// The value must not fall below this; the tighter of this and the stored floor counts.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.counter("stock").add(-1).floor(0).await?;
    /// # Ok(()) }
    /// ```
    pub fn floor(mut self, floor: i64) -> Self {
        self.request.bounds.get_or_insert_default().floor = Some(floor);
        self
    }

    /// The value must not rise above this; the tighter of this and the stored ceiling counts.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.counter("seats").add(1).ceiling(300).await?;
    /// # Ok(()) }
    /// ```
    pub fn ceiling(mut self, ceiling: i64) -> Self {
        self.request.bounds.get_or_insert_default().ceiling = Some(ceiling);
        self
    }

    /// At a bound, move as far as it allows instead of refusing.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let change = client.counter("stock").add(-5).floor(0).saturate().await?;
    /// println!("{} of 5", -change.delta_applied);
    /// # Ok(()) }
    /// ```
    pub fn saturate(mut self) -> Self {
        self.request.on_violation = v1::OnViolation::Saturate as i32;
        self
    }

    /// Refuse to create a counter that does not exist.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.counter("stock").add(-1).fail_if_missing().await?;
    /// # Ok(()) }
    /// ```
    pub fn fail_if_missing(mut self) -> Self {
        self.request.if_missing = v1::IfMissing::Fail as i32;
        self
    }
}

impl Configure {
    /// Lowest value allowed, for every writer.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.counter("stock").configure().floor(0).await?;
    /// # Ok(()) }
    /// ```
    pub fn floor(mut self, floor: i64) -> Self {
        self.request.bounds.get_or_insert_default().floor = Some(floor);
        self
    }

    /// Highest value allowed, for every writer.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.counter("seats").configure().ceiling(300).await?;
    /// # Ok(()) }
    /// ```
    pub fn ceiling(mut self, ceiling: i64) -> Self {
        self.request.bounds.get_or_insert_default().ceiling = Some(ceiling);
        self
    }
}

impl List {
    /// Only names that start with this.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.counters().list().prefix("page/").await?;
    /// # Ok(()) }
    /// ```
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.request.prefix = prefix.into();
        self
    }

    /// At most this many on a page: 100 by default, at most 1000.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.counters().list().page_size(10).await?;
    /// # Ok(()) }
    /// ```
    pub fn page_size(mut self, size: u16) -> Self {
        self.request.page_size = i32::from(size);
        self
    }

    /// The next page of a list with the same prefix.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let first = client.counters().list().await?;
    /// if let Some(token) = first.next_page_token {
    ///     let second = client.counters().list().page_token(token).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn page_token(mut self, token: impl Into<String>) -> Self {
        self.request.page_token = token.into();
        self
    }

    /// All pages, as a stream, from the first or from the page token on: [`Pages`] says what it promises.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let mut pages = client.counters().list().prefix("page/").pages();
    /// while let Some(page) = pages.next().await {
    ///     println!("{}", page?.items.len());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn pages(self) -> Pages<Page<CounterValue>> {
        let first = self.request.page_token.clone();
        let ask = move |token: &str| self.clone().page_token(token).into_future();
        Pages::new(ask, &first, |page| page.next_page_token.clone())
    }

    /// All counters of the list, as a stream, from the first page or from the page token on: [`Items`] says what it
    /// promises. A large [`page_size`](Self::page_size) takes fewer calls.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use futures_util::TryStreamExt as _;
    ///
    /// let all: Vec<_> = client.counters().list().page_size(1000).items().try_collect().await?;
    /// # Ok(()) }
    /// ```
    pub fn items(self) -> Items<CounterValue> {
        Items::new(self.pages())
    }
}

/// As steps of an atomic one.
impl Operation {
    /// Adds to a counter.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let take = Operation::counter_add("stock", -1);
    /// ```
    pub fn counter_add(name: impl Into<String>, delta: i64) -> Self {
        let name = name.into();
        Self::new(Kind::CounterAdd(v1::CountersAddRequest { name, delta, ..Default::default() }))
    }

    /// Reads a counter.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let read = Operation::counter_get("stock");
    /// ```
    pub fn counter_get(name: impl Into<String>) -> Self {
        let name = name.into();
        Self::new(Kind::CounterGet(v1::CountersGetRequest { name, read: None }))
    }

    /// Sets a counter.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let refill = Operation::counter_set("stock", 100);
    /// ```
    pub fn counter_set(name: impl Into<String>, value: i64) -> Self {
        let name = name.into();
        Self::new(Kind::CounterSet(v1::CountersSetRequest { name, value, options: None }))
    }

    /// Sets a counter that is as expected; else the step is refused.
    ///
    /// ```
    /// # use tally_client::{apply::Operation, counter::Expect};
    /// let next = Operation::counter_compare_and_set("turn", Expect::Value(1), 2);
    /// ```
    pub fn counter_compare_and_set(name: impl Into<String>, expect: Expect, value: i64) -> Self {
        Self::new(Kind::CounterCompareAndSet(compare_and_set(name.into(), expect, value)))
    }

    /// Deletes a counter.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let forget = Operation::counter_delete("stock");
    /// ```
    pub fn counter_delete(name: impl Into<String>) -> Self {
        let name = name.into();
        Self::new(Kind::CounterDelete(v1::CountersDeleteRequest { name, options: None }))
    }

    /// Replaces both stored bounds of a counter; set them by [`floor`](Self::floor) and
    /// [`ceiling`](Self::ceiling).
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let bounded = Operation::counter_configure("stock").floor(0);
    /// ```
    pub fn counter_configure(name: impl Into<String>) -> Self {
        Self::new(Kind::CounterConfigure(configure(name.into())))
    }

    fn bounds(&mut self) -> Option<&mut v1::Bounds> {
        match self.0.kind.as_mut()? {
            Kind::CounterAdd(add) => Some(add.bounds.get_or_insert_default()),
            Kind::CounterConfigure(configure) => Some(configure.bounds.get_or_insert_default()),
            _ => None,
        }
    }

    /// Lowest value allowed: for this step, or stored by a configure. Other operations have none.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let take = Operation::counter_add("stock", -1).floor(0);
    /// ```
    #[must_use]
    pub fn floor(mut self, floor: i64) -> Self {
        if let Some(bounds) = self.bounds() {
            bounds.floor = Some(floor);
        }
        self
    }

    /// Highest value allowed: for this step, or stored by a configure. Other operations have none.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let enter = Operation::counter_add("seats", 1).ceiling(300);
    /// ```
    #[must_use]
    pub fn ceiling(mut self, ceiling: i64) -> Self {
        if let Some(bounds) = self.bounds() {
            bounds.ceiling = Some(ceiling);
        }
        self
    }

    /// For an add: move as far as the bounds allow instead of refusing the step.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let take = Operation::counter_add("stock", -5).floor(0).saturate();
    /// ```
    #[must_use]
    pub fn saturate(mut self) -> Self {
        if let Some(Kind::CounterAdd(add)) = &mut self.0.kind {
            add.on_violation = v1::OnViolation::Saturate as i32;
        }
        self
    }

    /// For an add: refuse the step if the counter does not exist.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let take = Operation::counter_add("stock", -1).fail_if_missing();
    /// ```
    #[must_use]
    pub fn fail_if_missing(mut self) -> Self {
        if let Some(Kind::CounterAdd(add)) = &mut self.0.kind {
            add.if_missing = v1::IfMissing::Fail as i32;
        }
        self
    }
}

fn compare_and_set(name: String, expect: Expect, value: i64) -> v1::CountersCompareAndSetRequest {
    use v1::counters_compare_and_set_request::Expect as Wire;

    let expect = Some(match expect {
        Expect::Value(value) => Wire::ExpectValue(value),
        Expect::Revision(revision) => Wire::ExpectRevision(revision),
        Expect::Absent => Wire::ExpectAbsent(true),
    });
    v1::CountersCompareAndSetRequest { name, expect, value, options: None }
}

fn configure(name: String) -> v1::CountersConfigureRequest {
    v1::CountersConfigureRequest { name, bounds: Some(v1::Bounds::default()), options: None }
}

fn items(counters: Vec<v1::Counter>) -> Vec<CounterValue> {
    counters.into_iter().map(|counter| CounterValue::new(counter, Header::default())).collect()
}

fn change(answer: v1::CountersWriteResponse) -> CounterChange {
    let write = answer.write.map(Into::into).unwrap_or_default();
    CounterChange::new(answer.change.unwrap_or_default(), write, Header::of(answer.header))
}

answers! {
    Write<v1::CountersAddRequest> -> CounterChange: change;
    Write<v1::CountersSetRequest> -> CounterChange: change;
    Write<v1::CountersCompareAndSetRequest> -> CounterChange: change;
    Write<v1::CountersDeleteRequest> -> CounterChange: change;
    Write<v1::CountersConfigureRequest> -> CounterChange: change;
    Read<v1::CountersGetRequest> -> CounterValue:
        |answer: v1::CountersGetResponse| {
            CounterValue::new(answer.counter.unwrap_or_default(), Header::of(answer.header))
        };
    Read<v1::CountersBatchGetRequest> -> Batch<CounterValue>:
        |answer: v1::CountersBatchGetResponse| Batch {
            items: items(answer.counters),
            missing: answer.missing,
            header: Header::of(answer.header),
        };
    Read<v1::CountersListRequest> -> Page<CounterValue>:
        |answer: v1::CountersListResponse| Page {
            items: items(answer.counters),
            next_page_token: Some(answer.next_page_token).filter(|token| !token.is_empty()),
            header: Header::of(answer.header),
        };
}
