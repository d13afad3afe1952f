//! Keys: UTF-8 names for values of up to 1 MiB.

use std::future::IntoFuture as _;

use bytes::Bytes;
use tally_proto::v1::{self, key_condition, operation::Kind};

use crate::{
    answer::{Batch, Header, KeyChange, KeyValue, Page},
    apply::Operation,
    call::{Read, Write, answers},
    client::Client,
    paging::{Items, Pages},
};

/// The keys of the store.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// client.keys().put("greeting", "hello").await?;
/// println!("{:?}", client.keys().get("greeting").await?.value);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Keys {
    client: Client,
}

/// A put before it is sent.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let put: tally_client::keys::Put = client.keys().put("greeting", "hello");
/// put.if_absent().await?;
/// # Ok(()) }
/// ```
pub type Put = Write<v1::KeysPutRequest>;

/// A delete before it is sent.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let delete: tally_client::keys::Delete = client.keys().delete("greeting");
/// delete.if_revision(7).await?;
/// # Ok(()) }
/// ```
pub type Delete = Write<v1::KeysDeleteRequest>;

/// A scan before it is asked for.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let scan: tally_client::keys::Scan = client.keys().scan();
/// let page = scan.prefix("user/").keys_only().await?;
/// # Ok(()) }
/// ```
pub type Scan = Read<v1::KeysScanRequest>;

impl Client {
    /// The keys of the store.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.keys().put("greeting", "hello").await?;
    /// # Ok(()) }
    /// ```
    pub fn keys(&self) -> Keys {
        Keys { client: self.clone() }
    }
}

impl Keys {
    /// Stores a value.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let change = client.keys().put("greeting", "hello").await?;
    /// println!("{}", change.revision);
    /// # Ok(()) }
    /// ```
    pub fn put(&self, key: impl Into<String>, value: impl Into<Bytes>) -> Put {
        let (key, value) = (key.into(), value.into());
        Write::new(&self.client, v1::KeysPutRequest { key, value, ..Default::default() })
    }

    /// Reads a key. One that does not exist is an error, [`KEY_NOT_FOUND`].
    ///
    /// [`KEY_NOT_FOUND`]: crate::reason::KEY_NOT_FOUND
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// println!("{:?}", client.keys().get("greeting").await?.value);
    /// # Ok(()) }
    /// ```
    pub fn get(&self, key: impl Into<String>) -> Read<v1::KeysGetRequest> {
        Read::new(&self.client, v1::KeysGetRequest { key: key.into(), read: None })
    }

    /// Reads up to 128 keys at one point in the history.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let batch = client.keys().batch_get(["greeting", "farewell"]).await?;
    /// println!("{:?}", batch.missing);
    /// # Ok(()) }
    /// ```
    pub fn batch_get<I>(&self, keys: I) -> Read<v1::KeysBatchGetRequest>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let keys = keys.into_iter().map(Into::into).collect();
        Read::new(&self.client, v1::KeysBatchGetRequest { keys, read: None })
    }

    /// Removes a key. Of one that does not exist it succeeds, with `existed` false.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.keys().delete("greeting").await?;
    /// # Ok(()) }
    /// ```
    pub fn delete(&self, key: impl Into<String>) -> Delete {
        let key = key.into();
        Write::new(&self.client, v1::KeysDeleteRequest { key, ..Default::default() })
    }

    /// Pages through keys in ascending order.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.keys().scan().prefix("user/").await?;
    /// # Ok(()) }
    /// ```
    pub fn scan(&self) -> Scan {
        Read::new(&self.client, v1::KeysScanRequest::default())
    }
}

fn condition(expect: key_condition::Expect) -> Option<v1::KeyCondition> {
    Some(v1::KeyCondition { expect: Some(expect) })
}

impl Put {
    /// Only if the key does not exist.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.keys().put("lock", "me").if_absent().await?;
    /// # Ok(()) }
    /// ```
    pub fn if_absent(mut self) -> Self {
        self.request.condition = condition(key_condition::Expect::Absent(true));
        self
    }

    /// Only if the key exists.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.keys().put("greeting", "hi").if_present().await?;
    /// # Ok(()) }
    /// ```
    pub fn if_present(mut self) -> Self {
        self.request.condition = condition(key_condition::Expect::Present(true));
        self
    }

    /// Only if this revision was the last to change the key.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let item = client.keys().get("greeting").await?;
    /// client.keys().put("greeting", "hi").if_revision(item.modified_revision).await?;
    /// # Ok(()) }
    /// ```
    pub fn if_revision(mut self, revision: u64) -> Self {
        self.request.condition = condition(key_condition::Expect::Revision(revision));
        self
    }

    /// Only if the key exists with this value, byte for byte. A value that went away and came back is
    /// the same here; a revision is not ([`Self::if_revision`]).
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.keys().put("lock", "you").if_value("me").await?;
    /// # Ok(()) }
    /// ```
    pub fn if_value(mut self, value: impl Into<Bytes>) -> Self {
        self.request.condition = condition(key_condition::Expect::Value(value.into()));
        self
    }
}

impl Delete {
    /// Only if the key exists.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.keys().delete("greeting").if_present().await?;
    /// # Ok(()) }
    /// ```
    pub fn if_present(mut self) -> Self {
        self.request.condition = condition(key_condition::Expect::Present(true));
        self
    }

    /// Only if this revision was the last to change the key.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.keys().delete("greeting").if_revision(7).await?;
    /// # Ok(()) }
    /// ```
    pub fn if_revision(mut self, revision: u64) -> Self {
        self.request.condition = condition(key_condition::Expect::Revision(revision));
        self
    }

    /// Only if the key exists with this value, byte for byte. A value that went away and came back is
    /// the same here; a revision is not ([`Self::if_revision`]).
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// client.keys().delete("lock").if_value("me").await?;
    /// # Ok(()) }
    /// ```
    pub fn if_value(mut self, value: impl Into<Bytes>) -> Self {
        self.request.condition = condition(key_condition::Expect::Value(value.into()));
        self
    }
}

impl Scan {
    /// Only keys that start with this.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.keys().scan().prefix("user/").await?;
    /// # Ok(()) }
    /// ```
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.request.prefix = prefix.into();
        self
    }

    /// Only keys from here on, this one included.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.keys().scan().start("a").end("b").await?;
    /// # Ok(()) }
    /// ```
    pub fn start(mut self, start: impl Into<String>) -> Self {
        self.request.start = start.into();
        self
    }

    /// Only keys up to here, this one excluded.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.keys().scan().start("a").end("b").await?;
    /// # Ok(()) }
    /// ```
    pub fn end(mut self, end: impl Into<String>) -> Self {
        self.request.end = end.into();
        self
    }

    /// Leaves the values out.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.keys().scan().keys_only().await?;
    /// # Ok(()) }
    /// ```
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// At most this many on a page: 100 by default, at most 1000.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let page = client.keys().scan().page_size(10).await?;
    /// # Ok(()) }
    /// ```
    pub fn page_size(mut self, size: u16) -> Self {
        self.request.page_size = i32::from(size);
        self
    }

    /// The next page of the same scan.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// let first = client.keys().scan().await?;
    /// if let Some(token) = first.next_page_token {
    ///     let second = client.keys().scan().page_token(token).await?;
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
    /// let mut pages = client.keys().scan().prefix("user/").pages();
    /// while let Some(page) = pages.next().await {
    ///     println!("{}", page?.items.len());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn pages(self) -> Pages<Page<KeyValue>> {
        let first = self.request.page_token.clone();
        let ask = move |token: &str| self.clone().page_token(token).into_future();
        Pages::new(ask, &first, |page| page.next_page_token.clone())
    }

    /// All keys of the scan, as a stream, from the first page or from the page token on: [`Items`] says what it
    /// promises. A large [`page_size`](Self::page_size) takes fewer calls.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use futures_util::TryStreamExt as _;
    ///
    /// let all: Vec<_> = client.keys().scan().page_size(1000).items().try_collect().await?;
    /// # Ok(()) }
    /// ```
    pub fn items(self) -> Items<KeyValue> {
        Items::new(self.pages())
    }
}

/// As steps of an atomic one.
impl Operation {
    /// Stores a key.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let order = Operation::key_put("order/4711", "1 unit");
    /// ```
    pub fn key_put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let (key, value) = (key.into(), value.into());
        Self::new(Kind::KeyPut(v1::KeysPutRequest { key, value, ..Default::default() }))
    }

    /// Reads a key.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let read = Operation::key_get("order/4711");
    /// ```
    pub fn key_get(key: impl Into<String>) -> Self {
        let key = key.into();
        Self::new(Kind::KeyGet(v1::KeysGetRequest { key, read: None }))
    }

    /// Deletes a key.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let cancel = Operation::key_delete("order/4711");
    /// ```
    pub fn key_delete(key: impl Into<String>) -> Self {
        let key = key.into();
        Self::new(Kind::KeyDelete(v1::KeysDeleteRequest { key, ..Default::default() }))
    }

    fn with_condition(mut self, expect: key_condition::Expect) -> Self {
        match &mut self.0.kind {
            Some(Kind::KeyPut(put)) => put.condition = condition(expect),
            Some(Kind::KeyDelete(delete)) => delete.condition = condition(expect),
            _ => {}
        }
        self
    }

    /// For a put: refuse the step unless the key does not exist.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let order = Operation::key_put("order/4711", "1 unit").if_absent();
    /// ```
    #[must_use]
    pub fn if_absent(self) -> Self {
        self.with_condition(key_condition::Expect::Absent(true))
    }

    /// For a put or delete of a key: refuse the step unless the key exists.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let cancel = Operation::key_delete("order/4711").if_present();
    /// ```
    #[must_use]
    pub fn if_present(self) -> Self {
        self.with_condition(key_condition::Expect::Present(true))
    }

    /// For a put or delete of a key: refuse the step unless this revision last changed the key.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let cancel = Operation::key_delete("order/4711").if_revision(17);
    /// ```
    #[must_use]
    pub fn if_revision(self, revision: u64) -> Self {
        self.with_condition(key_condition::Expect::Revision(revision))
    }

    /// For a put or delete of a key: refuse the step unless the key exists with this value.
    ///
    /// ```
    /// # use tally_client::apply::Operation;
    /// let release = Operation::key_delete("lock").if_value("me");
    /// ```
    #[must_use]
    pub fn if_value(self, value: impl Into<Bytes>) -> Self {
        self.with_condition(key_condition::Expect::Value(value.into()))
    }
}

fn items(items: Vec<v1::KeyValue>) -> Vec<KeyValue> {
    items.into_iter().map(|item| KeyValue::new(item, Header::default())).collect()
}

fn change(answer: v1::KeysWriteResponse) -> KeyChange {
    let change = answer.change.unwrap_or_default();
    KeyChange {
        revision: change.revision,
        existed: change.existed,
        previous_revision: change.previous_revision,
        write: answer.write.map(Into::into).unwrap_or_default(),
        header: Header::of(answer.header),
    }
}

answers! {
    Write<v1::KeysPutRequest> -> KeyChange: change;
    Write<v1::KeysDeleteRequest> -> KeyChange: change;
    Read<v1::KeysGetRequest> -> KeyValue:
        |answer: v1::KeysGetResponse| {
            KeyValue::new(answer.item.unwrap_or_default(), Header::of(answer.header))
        };
    Read<v1::KeysBatchGetRequest> -> Batch<KeyValue>:
        |answer: v1::KeysBatchGetResponse| Batch {
            items: items(answer.items),
            missing: answer.missing,
            header: Header::of(answer.header),
        };
    Read<v1::KeysScanRequest> -> Page<KeyValue>:
        |answer: v1::KeysScanResponse| Page {
            items: items(answer.items),
            next_page_token: Some(answer.next_page_token).filter(|token| !token.is_empty()),
            header: Header::of(answer.header),
        };
}
