//! The two ways in which guests call: through the library, and by single calls at one node.

use std::time::Duration;

use rand::Rng;
use tally_client::{
    Client, Error, Header, ReadLevel,
    apply::{Compare, Condition, Operation},
    proto::{self as v1, counters_client::CountersClient, keys_client::KeysClient},
};
use tally_proto::status::Details;
use tonic::transport::{Channel, Endpoint};

use super::{Ask, Guest, PATIENCE_MS, Way};
use crate::{
    env::connect_client,
    rights::{Freshness, Told},
};

impl Guest {
    pub(super) async fn by_library(
        &mut self,
        client: &Client,
        ask: &Ask,
        idem: Option<String>,
        level: ReadLevel,
    ) -> Told {
        macro_rules! write {
            ($call:expr, $shows:expr) => {{
                let mut call = $call;
                if let Some(idem) = idem {
                    call = call.idempotency_key(idem);
                }
                match call.await {
                    Ok(answer) => Told {
                        replayed: answer.write.replayed,
                        hidden: answer.write.values_hidden,
                        shows: $shows(&answer),
                        ..answered(&answer.header, false)
                    },
                    Err(error) => refused(&error),
                }
            }};
        }
        let changed = |change: &tally_client::CounterChange| {
            change.existed || change.value != 0 || change.value_before != 0
        };
        match ask.clone() {
            Ask::Add { name, delta, floor: None } => {
                write!(client.counter(name).add(delta), changed)
            }
            Ask::Add { name, delta, floor: Some(floor) } => {
                write!(client.counter(name).add(delta).floor(floor), changed)
            }
            Ask::Set { name, value } => write!(client.counter(name).set(value), changed),
            Ask::Put { key, text } => {
                let shown = |change: &tally_client::KeyChange| {
                    change.existed || change.previous_revision != 0
                };
                write!(client.keys().put(key, text), shown)
            }
            Ask::Step { when, then, otherwise } => {
                let mut step = client.apply().then(Operation::counter_add(then.0, then.1));
                if let Some(when) = when {
                    step = step.when(Condition::counter_value(when, Compare::Less, 0));
                }
                if let Some((name, delta)) = otherwise {
                    step = step.otherwise(Operation::counter_add(name, delta));
                }
                write!(step, |_: &tally_client::Applied| false)
            }
            Ask::Get { name } => match client.counter(name).get().level(level).await {
                Ok(value) => answered(&value.header, true),
                Err(error) => refused(&error),
            },
            Ask::Read { key } => match client.keys().get(key).level(level).await {
                Ok(value) => answered(&value.header, true),
                Err(error) => refused(&error),
            },
            Ask::List { prefix } => {
                let mut list = client.counters().list().prefix(&prefix).page_size(2);
                if let Some(page) = self.page_of(true, &prefix) {
                    list = list.page_token(page);
                }
                match list.level(level).await {
                    Ok(page) => {
                        let names = page.items.iter().map(|item| item.name.as_str());
                        let foreign = foreign(&prefix, names);
                        self.goes_on(true, prefix, page.next_page_token.unwrap_or_default());
                        Told { foreign, ..answered(&page.header, true) }
                    }
                    Err(error) => refused(&error),
                }
            }
            Ask::Scan { prefix } => {
                let mut scan = client.keys().scan().prefix(&prefix).page_size(2);
                if let Some(page) = self.page_of(false, &prefix) {
                    scan = scan.page_token(page);
                }
                match scan.level(level).await {
                    Ok(page) => {
                        let names = page.items.iter().map(|item| item.key.as_str());
                        let foreign = foreign(&prefix, names);
                        self.goes_on(false, prefix, page.next_page_token.unwrap_or_default());
                        Told { foreign, ..answered(&page.header, true) }
                    }
                    Err(error) => refused(&error),
                }
            }
        }
    }

    /// A page is taken up where it ended, or another begun: with its token and another prefix, too, which
    /// must be refused.
    fn page_of(&mut self, is_list: bool, prefix: &str) -> Option<String> {
        let (of_list, of, _) = self.page.as_ref()?;
        let fits = *of_list == is_list && of == prefix;
        let wanted = if fits { self.rng.random_bool(0.8) } else { self.rng.random_bool(0.1) };
        wanted.then(|| self.page.take()).flatten().map(|(_, _, token)| token)
    }

    fn goes_on(&mut self, is_list: bool, prefix: String, token: String) {
        self.page = (!token.is_empty()).then_some((is_list, prefix, token));
    }

    pub(super) async fn by_itself(
        &mut self,
        ask: &Ask,
        idem: Option<String>,
        freshness: Freshness,
    ) -> Told {
        let Some(channel) = self.channel().await else {
            return Told { reason: "NOT_REACHED".to_owned(), ..Told::default() };
        };
        let mut read = v1::ReadOptions::default();
        match freshness {
            Freshness::Linearizable => read.set_level(v1::ReadLevel::Linearizable),
            Freshness::Any => read.set_level(v1::ReadLevel::Local),
            Freshness::Bounded(ms) => {
                read.set_level(v1::ReadLevel::Bounded);
                read.max_staleness_ms = ms;
            }
        }
        let read = Some(read);
        let options =
            idem.map(|key| v1::WriteOptions { idempotency_key: Some(key), ..Default::default() });
        let shown = self.shown.clone();
        let (counters, keys) = (CountersClient::new(channel.clone()), KeysClient::new(channel));
        match ask.clone() {
            Ask::Add { name, delta, floor } => {
                let bounds = floor.map(|floor| v1::Bounds { floor: Some(floor), ceiling: None });
                let call =
                    v1::CountersAddRequest { name, delta, bounds, options, ..Default::default() };
                let mut client = counters;
                changed(within(client.add(with(&shown, call))).await)
            }
            Ask::Set { name, value } => {
                let mut client = counters;
                let call = v1::CountersSetRequest { name, value, options };
                changed(within(client.set(with(&shown, call))).await)
            }
            Ask::Put { key, text } => {
                let mut client = keys;
                let call =
                    v1::KeysPutRequest { key, value: text.into(), options, ..Default::default() };
                match within(client.put(with(&shown, call))).await {
                    Ok(answer) => {
                        let change = answer.change.unwrap_or_default();
                        let write = answer.write.unwrap_or_default();
                        Told {
                            replayed: write.replayed,
                            hidden: write.values_hidden,
                            shows: change.existed || change.previous_revision != 0,
                            ..answered(&answer.header.unwrap_or_default().into(), false)
                        }
                    }
                    Err(status) => refused_by(&status),
                }
            }
            Ask::Step { .. } => unreachable!("a step is asked for through the library"),
            Ask::Get { name } => {
                let mut client = counters;
                let call = v1::CountersGetRequest { name, read };
                match within(client.get(with(&shown, call))).await {
                    Ok(answer) => answered(&answer.header.unwrap_or_default().into(), true),
                    Err(status) => refused_by(&status),
                }
            }
            Ask::Read { key } => {
                let mut client = keys;
                match within(client.get(with(&shown, v1::KeysGetRequest { key, read }))).await {
                    Ok(answer) => answered(&answer.header.unwrap_or_default().into(), true),
                    Err(status) => refused_by(&status),
                }
            }
            Ask::List { prefix } => {
                let mut client = counters;
                let page_token = self.page_of(true, &prefix).unwrap_or_default();
                let call = v1::CountersListRequest {
                    prefix: prefix.clone(),
                    page_size: 2,
                    page_token,
                    read,
                };
                match within(client.list(with(&shown, call))).await {
                    Ok(answer) => {
                        let names = answer.counters.iter().map(|item| item.name.as_str());
                        let foreign = foreign(&prefix, names);
                        self.goes_on(true, prefix, answer.next_page_token);
                        Told {
                            foreign,
                            ..answered(&answer.header.unwrap_or_default().into(), true)
                        }
                    }
                    Err(status) => refused_by(&status),
                }
            }
            Ask::Scan { prefix } => {
                let mut client = keys;
                let page_token = self.page_of(false, &prefix).unwrap_or_default();
                let call = v1::KeysScanRequest {
                    prefix: prefix.clone(),
                    page_size: 2,
                    page_token,
                    read,
                    ..Default::default()
                };
                match within(client.scan(with(&shown, call))).await {
                    Ok(answer) => {
                        let names = answer.items.iter().map(|item| item.key.as_str());
                        let foreign = foreign(&prefix, names);
                        self.goes_on(false, prefix, answer.next_page_token);
                        Told {
                            foreign,
                            ..answered(&answer.header.unwrap_or_default().into(), true)
                        }
                    }
                    Err(status) => refused_by(&status),
                }
            }
        }
    }

    async fn channel(&mut self) -> Option<Channel> {
        let addresses = self.cluster.addresses();
        let Way::Single(node, channel) = &mut self.way else { return None };
        if channel.is_none() {
            let endpoint = Endpoint::from_shared(format!("http://{}", addresses[*node]));
            let connecting = connect_client(endpoint.expect("a host and a port make an address"));
            let connected =
                tokio::time::timeout(Duration::from_millis(PATIENCE_MS / 3), connecting);
            *channel = connected.await.ok().and_then(Result::ok);
        }
        channel.clone()
    }
}

fn with<T>(shown: &Option<String>, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_millis(PATIENCE_MS));
    if let Some(shown) = shown {
        let shown = format!("Bearer {shown}").parse().expect("a token is a word");
        request.metadata_mut().insert("authorization", shown);
    }
    request
}

async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, tonic::Status> {
    let patience = Duration::from_millis(PATIENCE_MS + PATIENCE_MS / 4);
    let answer = tokio::time::timeout(patience, call).await;
    let answer = answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer came")));
    answer.map(tonic::Response::into_inner)
}

fn answered(header: &Header, is_read: bool) -> Told {
    Told {
        applied: Some(header.applied_index),
        staleness_ms: header.staleness_max.filter(|_| is_read).map(|age| age.as_millis() as u64),
        shows: is_read,
        ..Told::default()
    }
}

fn refused(error: &Error) -> Told {
    let header = error.header();
    Told {
        reason: error.reason().to_owned(),
        applied: header.as_ref().map(|header| header.applied_index),
        staleness_ms: header
            .as_ref()
            .and_then(|it| it.staleness_max)
            .map(|age| age.as_millis() as u64),
        ..Told::default()
    }
}

fn refused_by(status: &tonic::Status) -> Told {
    let details = Details::parse(status);
    let reason = match details.reason.as_str() {
        "" => "NO_ANSWER",
        reason => reason,
    };
    let header = details.header.clone().unwrap_or_default();
    Told {
        reason: reason.to_owned(),
        applied: details.header.as_ref().map(|header| header.applied_index),
        staleness_ms: header.staleness_ms_max,
        ..Told::default()
    }
}

fn changed(answer: Result<v1::CountersWriteResponse, tonic::Status>) -> Told {
    match answer {
        Ok(answer) => {
            let change = answer.change.unwrap_or_default();
            let write = answer.write.unwrap_or_default();
            Told {
                replayed: write.replayed,
                hidden: write.values_hidden,
                shows: change.existed || change.value != 0 || change.value_before != 0,
                ..answered(&answer.header.unwrap_or_default().into(), false)
            }
        }
        Err(status) => refused_by(&status),
    }
}

/// A name that is not under the prefix.
fn foreign<'a>(prefix: &str, mut names: impl Iterator<Item = &'a str>) -> Option<String> {
    names.find(|name| !name.starts_with(prefix)).map(str::to_owned)
}
