//! The console: a page for browsers that shows the cluster, and what the page asks, as JSON (docs/console.md).
//!
//! # Whoever asks
//! Each question is a request of the API, given to [`super::unary::served`] with what the caller shows (its token, its
//! certificate, its address): who it is, what it may, how much it may ask for, what is counted and what is recorded is
//! decided there, as for a call of gRPC, and nothing is read here.
//!
//! # Other people's pages
//! A browser sends what any page tells it to, with the certificate of its user. So:
//! - A change is a PUT with the header [`CHANGES_HEADER`]. A page of another site can't send either before it has asked
//!   whether it may, by an OPTIONS, and that is never granted.
//! - What is answered is for the own page alone: no header lets another site read it, and where the browser says that
//!   another site asks (`Sec-Fetch-Site`), nothing is run for it.
//! - While authentication is off, whoever reaches the port is let in. A page whose host's name was made to lead to this
//!   node asks from a browser that does, and to the browser that is one site; but the request names its own host. So
//!   without authentication a node answers only who asks for it by a name that is nobody else's
//!   ([`Console::host_is_ours`]); with TLS its certificate says so. Changes are for callers on its machine alone.
//! - The page puts names and values nowhere but into text, and its policy lets it run nothing but its own scripts.

mod ask;
mod json;
mod members;
mod page;
mod query;
mod tells;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tally_proto::v1;

use self::{
    query::Query,
    tells::{answered, refused_page},
};
use super::Api;
use crate::port::{
    plain::{Asked, Page, Pages},
    room::NodeRoom,
};

/// How long a read, or the state of the nodes, may take.
const READ_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a change of the members may take. Less than the port gives a connection.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(10);

/// A request that changes something has this header.
pub(crate) const CHANGES_HEADER: &str = "x-tally-console";

/// In which a browser says whose page sends a request.
const SITE_HEADER: &str = "sec-fetch-site";

/// What the port answers with.
pub(crate) struct Console {
    pub(crate) api: Api,
    /// The node's, which all of its clients share.
    pub(crate) room: Arc<NodeRoom>,
    /// Without authentication: whether a host leads to this node and to nobody else's page.
    pub(crate) host_is_ours: HostIsOurs,
    /// The port is reached from this machine alone.
    pub(crate) on_loopback: bool,
}

/// Asked of what a request's `Host` says.
pub(crate) type HostIsOurs = Box<dyn Fn(&str) -> bool + Send + Sync>;

#[async_trait]
impl Pages for Console {
    async fn page(self: Arc<Self>, asked: Asked) -> Page {
        let is_put = asked.method == Method::PUT;
        if let Some(page) = page::of(&asked.path) {
            return if is_put { only("GET and HEAD") } else { page };
        }
        if let Err(refused) = self.let_in(&asked, is_put) {
            self.record_refused(&asked, &refused);
            return refused;
        }
        let query = match Query::parse(&asked.query) {
            Ok(query) => query,
            Err(wrong) => return refused_page(StatusCode::BAD_REQUEST, "INVALID_REQUEST", &wrong),
        };
        let told = match (asked.path.as_str(), is_put) {
            (path, true) if path.starts_with(members::PATH) => self.member(&asked, query).await,
            ("/api/status", false) => self.status(&asked, query).await,
            ("/api/metrics", false) => self.metrics(&asked, query).await,
            ("/api/counter", false) => self.counter(&asked, query).await,
            ("/api/key", false) => self.key(&asked, query).await,
            ("/api/counters", false) => self.counters(&asked, query).await,
            ("/api/keys", false) => self.keys(&asked, query).await,
            ("/api/status" | "/api/metrics" | "/api/counter" | "/api/key", true)
            | ("/api/counters" | "/api/keys", true) => return only("GET and HEAD"),
            (path, false) if path.starts_with(members::PATH) => return only("PUT"),
            _ => Err(no_such_page()),
        };
        told.unwrap_or_else(|refused| refused)
    }
}

impl Console {
    /// Whether somebody may ask here at all; what it may then is decided by who it is.
    fn let_in(&self, asked: &Asked, changes: bool) -> Result<(), Page> {
        let forbidden = |why| Err(refused_page(StatusCode::FORBIDDEN, "FORBIDDEN_HERE", why));
        if changes && asked.headers.get(CHANGES_HEADER).is_none_or(|value| value != "1") {
            return forbidden(
                "a change needs the header X-Tally-Console: 1, which no other site can send",
            );
        }
        let site = asked.headers.get(SITE_HEADER);
        if site.is_some_and(|site| site != "same-origin" && site != "none") {
            return forbidden("a page of another site has sent this");
        }
        if self.api.asks_who() {
            return Ok(());
        }
        if !asked.host().is_some_and(&self.host_is_ours) {
            return forbidden(
                "without authentication a node is asked by its own name or address only: another name could be that of \
                 somebody's page",
            );
        }
        if changes && !self.on_loopback {
            return forbidden(
                "without authentication changes are for callers on the node's machine",
            );
        }
        Ok(())
    }

    /// Somebody was not let in.
    fn record_refused(&self, asked: &Asked, refused: &Page) {
        let Some(log) = &self.api.node.audit else { return };
        let mut line = log.line("page");
        line.word("method", asked.method.as_str());
        line.word("path", &asked.path);
        if let Some(from) = asked.from {
            line.word("from", &from.to_canonical().to_string());
        }
        line.word("decision", "PERMISSION_DENIED");
        let body: Value = serde_json::from_str(&refused.body).unwrap_or_default();
        line.word("why", body["refused"]["message"].as_str().unwrap_or_default());
        line.write();
    }

    async fn status(&self, asked: &Asked, query: Query) -> Result<Page, Page> {
        query.end()?;
        let request = v1::ClusterStatusRequest { local_only: false };
        let (told, took) = self.ask(asked, request, READ_TIME_MAX).await?;
        let told = told.get_ref();
        let mut body = json::status(told);
        body["authentication"] = json!(self.api.asks_who());
        body["changes"] = json!(self.api.asks_who() || self.on_loopback);
        Ok(answered(body, told.header.as_ref(), took))
    }

    async fn metrics(&self, asked: &Asked, mut query: Query) -> Result<Page, Page> {
        let node_id = query.number("node")?.unwrap_or(0);
        query.end()?;
        let request = v1::ClusterMetricsRequest { node_id };
        let (told, _) = self.ask(asked, request, READ_TIME_MAX).await?;
        let told = told.into_inner();
        if !told.problem.is_empty() {
            return Err(refused_page(StatusCode::SERVICE_UNAVAILABLE, "NO_ANSWER", &told.problem));
        }
        Ok(tells::text(told.text))
    }

    async fn counter(&self, asked: &Asked, mut query: Query) -> Result<Page, Page> {
        let (name, read) = (query.required("name")?, query.read()?);
        query.end()?;
        let request = v1::CountersGetRequest { name, read: Some(read) };
        let (told, took) = self.ask_item(asked, request).await?;
        Ok(match told {
            Ok(told) => {
                let told = told.get_ref();
                let item = told.counter.as_ref().map(json::counter);
                tells::item(item, told.header.as_ref(), took)
            }
            Err(header) => tells::item(None, Some(&header), took),
        })
    }

    async fn key(&self, asked: &Asked, mut query: Query) -> Result<Page, Page> {
        let (key, read) = (query.required("name")?, query.read()?);
        query.end()?;
        let request = v1::KeysGetRequest { key, read: Some(read) };
        let (told, took) = self.ask_item(asked, request).await?;
        Ok(match told {
            Ok(told) => {
                let told = told.get_ref();
                let item = told.item.as_ref().map(|item| json::key(item, usize::MAX));
                tells::item(item, told.header.as_ref(), took)
            }
            Err(header) => tells::item(None, Some(&header), took),
        })
    }

    async fn counters(&self, asked: &Asked, mut query: Query) -> Result<Page, Page> {
        let (prefix, page_token) = (query.text("prefix"), query.text("after"));
        let (page_size, read) = (query.limit()?, Some(query.read()?));
        query.end()?;
        let request = v1::CountersListRequest { prefix, page_size, page_token, read };
        let (told, took) = self.ask(asked, request, READ_TIME_MAX).await?;
        let told = told.get_ref();
        let items = told.counters.iter().map(json::counter).collect();
        Ok(tells::list(items, &told.next_page_token, told.header.as_ref(), took))
    }

    async fn keys(&self, asked: &Asked, mut query: Query) -> Result<Page, Page> {
        let (prefix, page_token) = (query.text("prefix"), query.text("after"));
        let (page_size, read) = (query.limit()?, Some(query.read()?));
        query.end()?;
        let request =
            v1::KeysScanRequest { prefix, page_size, page_token, read, ..Default::default() };
        let (told, took) = self.ask(asked, request, READ_TIME_MAX).await?;
        let told = told.get_ref();
        let items = told.items.iter().map(|item| json::key(item, json::LISTED_BYTES_MAX)).collect();
        Ok(tells::list(items, &told.next_page_token, told.header.as_ref(), took))
    }
}

fn only(methods: &str) -> Page {
    let why = format!("{methods} only");
    refused_page(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", &why)
}

fn no_such_page() -> Page {
    refused_page(StatusCode::NOT_FOUND, "NO_SUCH_PAGE", "there is no such page: docs/console.md")
}
