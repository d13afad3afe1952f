//! One call to one node: sent once, over the link between clients and that node, and told as it came.
//!
//! The client library would find the leader, try again and hide what the lab is there to show; these are the same
//! requests without it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Mutex, time::Duration};

use tally_proto::{
    status::Details,
    v1::{self, counters_client::CountersClient},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    links::lock,
    record::{Came, Header},
};

/// A node is given so much longer than the deadline that it was told, so that its own word comes first.
const BEHIND_DEADLINE: Duration = Duration::from_millis(150);

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Add { delta: i64, key: Option<String> },
    Get { level: Level },
}

/// The level to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Level {
    Linearizable,
    Bounded(u64),
    Session(Vec<u8>),
    Local,
}

impl Level {
    /// Reads `linearizable`, `bounded:MS`, `session` or `local`.
    pub(crate) fn parse(text: &str, token: Vec<u8>) -> Result<Level, String> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("linearizable" | "", "") => Ok(Level::Linearizable),
            ("session", "") => Ok(Level::Session(token)),
            ("local", "") => Ok(Level::Local),
            ("bounded", ms) => {
                let ms = ms.parse().ok().filter(|ms| *ms > 0);
                ms.map(Level::Bounded).ok_or(format!("{text:?}: bounded:MS, with 1 ms or more"))
            }
            _ => Err(format!("{text:?} is none of linearizable, bounded:MS, session, local")),
        }
    }

    pub(crate) fn shown(&self) -> String {
        match self {
            Level::Linearizable => "linearizable".to_owned(),
            Level::Bounded(ms) => format!("bounded:{ms}"),
            Level::Session(_) => "session".to_owned(),
            Level::Local => "local".to_owned(),
        }
    }

    fn options(&self) -> v1::ReadOptions {
        let level =
            |level: v1::ReadLevel| v1::ReadOptions { level: level as i32, ..Default::default() };
        match self {
            Level::Linearizable => level(v1::ReadLevel::Linearizable),
            Level::Bounded(ms) => {
                v1::ReadOptions { max_staleness_ms: *ms, ..level(v1::ReadLevel::Bounded) }
            }
            // Nothing was seen yet, so any state will do; but not a weaker level than asked for.
            Level::Session(token) if token.is_empty() => level(v1::ReadLevel::Linearizable),
            Level::Session(token) => v1::ReadOptions {
                session_token: token.clone().into(),
                ..level(v1::ReadLevel::Session)
            },
            Level::Local => level(v1::ReadLevel::Local),
        }
    }
}

/// What came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) came: Came,
    pub(crate) code: Option<String>,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) value: Option<i64>,
    pub(crate) replayed: bool,
    pub(crate) header: Option<Header>,
    /// Session token, for a read that has to see this state; empty if there was none.
    pub(crate) token: Vec<u8>,
}

/// The connections to all nodes.
#[derive(Default)]
pub(crate) struct Calls {
    channels: Mutex<BTreeMap<SocketAddr, Channel>>,
}

impl Calls {
    /// A channel that connects when it is used, and again after it broke.
    pub(crate) fn channel(&self, address: SocketAddr) -> Channel {
        let mut channels = lock(&self.channels);
        let made = channels.entry(address).or_insert_with(|| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            // No keep-alive that would notice a cut: a call is as patient as its caller.
            endpoint.expect("an address makes a URI").tcp_nodelay(true).connect_lazy()
        });
        made.clone()
    }

    /// Asks once, and waits so long.
    pub(crate) async fn ask(
        &self,
        address: SocketAddr,
        counter: &str,
        ask: &Ask,
        patience: Duration,
    ) -> Answer {
        let mut client = CountersClient::new(self.channel(address));
        let is_write = matches!(ask, Ask::Add { .. });
        let name = counter.to_owned();
        let asking = async {
            match ask {
                Ask::Add { delta, key } => {
                    let options =
                        v1::WriteOptions { idempotency_key: key.clone(), ..Default::default() };
                    let request = v1::CountersAddRequest {
                        name,
                        delta: *delta,
                        options: Some(options),
                        ..Default::default()
                    };
                    let answer = client.add(within(request, patience)).await?.into_inner();
                    let value = answer.change.map(|change| change.value);
                    let replayed = answer.write.is_some_and(|write| write.replayed);
                    Ok((value, replayed, answer.header))
                }
                Ask::Get { level } => {
                    let read = Some(level.options());
                    let request = v1::CountersGetRequest { name, read };
                    let answer = client.get(within(request, patience)).await?.into_inner();
                    Ok((answer.counter.map(|counter| counter.value), false, answer.header))
                }
            }
        };
        match tokio::time::timeout(patience + BEHIND_DEADLINE, asking).await {
            Ok(Ok((value, replayed, header))) => Answer {
                came: Came::Ok,
                code: None,
                reason: String::new(),
                message: String::new(),
                value,
                replayed,
                token: token_of(header.as_ref()),
                header: header.map(|header| shown(&header)),
            },
            Ok(Err(status)) => failed(&status, is_write),
            Err(_) => {
                failed(&Status::new(Code::DeadlineExceeded, "no answer came in time"), is_write)
            }
        }
    }
}

fn within<R>(request: R, patience: Duration) -> tonic::Request<R> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(patience);
    request
}

fn failed(status: &Status, is_write: bool) -> Answer {
    let details = Details::parse(status);
    let not_applied = v1::Outcome::NotApplied as i32;
    let is_not_applied = details.outcome.as_ref().is_some_and(|told| told.outcome == not_applied);
    // Without a reason it is not a node's word, but that no word came.
    let came = match (is_write, details.reason.is_empty()) {
        (true, _) if is_not_applied => Came::Refused,
        (true, _) => Came::Unknown,
        (false, false) => Came::Refused,
        (false, true) => Came::Silence,
    };
    Answer {
        came,
        code: Some(format!("{:?}", status.code())),
        reason: details.reason,
        message: status.message().to_owned(),
        value: None,
        replayed: false,
        token: token_of(details.header.as_ref()),
        header: details.header.as_ref().map(shown),
    }
}

fn token_of(header: Option<&v1::ResponseHeader>) -> Vec<u8> {
    header.map_or_else(Vec::new, |header| header.session_token.to_vec())
}

pub(crate) fn role(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Unspecified => "unknown",
        v1::Role::Leader => "leader",
        v1::Role::Follower => "follower",
        v1::Role::Learner => "learner",
    }
}

fn shown(header: &v1::ResponseHeader) -> Header {
    let provided = match header.consistency() {
        v1::ReadLevel::Unspecified => "",
        v1::ReadLevel::Linearizable => "linearizable",
        v1::ReadLevel::Bounded => "bounded",
        v1::ReadLevel::Session => "session",
        v1::ReadLevel::Local => "local",
    };
    Header {
        provided,
        by: header.node_id,
        role: role(header.role()),
        term: header.term,
        applied: header.applied_index,
        revision: header.revision,
        proven_ms: header.staleness_ms_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        let parse = |text| Level::parse(text, vec![1]);
        assert_eq!(parse("bounded:200"), Ok(Level::Bounded(200)));
        assert_eq!(parse("session"), Ok(Level::Session(vec![1])));
        for wrong in ["bounded", "bounded:0", "bounded:x", "local:1", "eventual"] {
            parse(wrong).unwrap_err();
        }
        for text in ["linearizable", "bounded:5", "session", "local"] {
            assert_eq!(parse(text).unwrap().shown(), text);
        }
    }

    /// What no node has said is unknown for a write, and nothing for a read.
    #[test]
    fn silence_is_not_a_refusal() {
        let silence = Status::new(Code::Unavailable, "connection reset");
        assert_eq!(failed(&silence, true).came, Came::Unknown);
        assert_eq!(failed(&silence, false).came, Came::Silence);
    }
}
