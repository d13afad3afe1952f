//! The shell's client. One serves line after line: its connections stay open, and what it has seen it does not
//! un-see. Another takes its place where a setting, or an option of a line, asks for other nodes or another deadline.
//!
//! It opens no session. Each write has an idempotency key that the shell draws (`crate::key`): it is applied once
//! like one that a session numbers, and whoever gives up waiting has a name by which to find out what became of it,
//! in this shell or in another, which a session's number is not. Nor does a shell that is left open hold a place.

use std::time::Duration;

use tally_client::{Client, ReadLevel, SessionToken, Status, Transport};
use tally_proto::http2::LIBRARY;

use super::settings::Pinned;
use crate::{
    UNHEARD_MAX,
    output::Failure,
    tls::{Secrets, TlsOptions},
    waiting::Waiting,
};

/// What another client is needed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) endpoints: Vec<String>,
    /// Where everything goes, whatever the endpoints.
    pub(super) node: Option<Pinned>,
    pub(super) deadline: Duration,
    pub(super) tls: TlsOptions,
}

#[derive(Default)]
pub(super) struct Clients {
    current: Option<(Wanted, Client)>,
    /// The newest state that a client before it has seen.
    token: Option<SessionToken>,
    pub(super) waiting: Waiting,
}

impl Clients {
    pub(super) fn get(&mut self, wanted: &Wanted) -> Result<Client, Failure> {
        if let Some((current, client)) = &self.current
            && current == wanted
        {
            return Ok(client.clone());
        }
        let client = make(wanted, &self.waiting)?;
        self.token = self.token();
        self.current = Some((wanted.clone(), client.clone()));
        Ok(client)
    }

    /// Of the newest state that this shell has seen.
    pub(super) fn token(&self) -> Option<SessionToken> {
        let newest = self.current.as_ref().and_then(|(_, client)| client.session_token());
        newest.or_else(|| self.token.clone())
    }
}

/// A level as it was read, with what this shell has seen in place of what its newest client has.
pub(super) fn with_token(level: ReadLevel, token: Option<&SessionToken>) -> ReadLevel {
    match (level, token) {
        (ReadLevel::Session(None), Some(token)) => ReadLevel::Session(Some(token.clone())),
        (level, _) => level,
    }
}

fn make(wanted: &Wanted, waiting: &Waiting) -> Result<Client, Failure> {
    let waiting = waiting.clone();
    let node = wanted.node.as_ref().map(|node| node.address.clone());
    let endpoints = node.clone().map_or_else(|| wanted.endpoints.clone(), |node| vec![node]);
    let secrets = Secrets::read(&wanted.tls, &wanted.endpoints)?;
    let mut builder = secrets
        .builder(endpoints)
        .deadline(wanted.deadline)
        .transport(Transport::Stream)
        .give_up_unheard(UNHEARD_MAX)
        .on_trouble(move |trouble| waiting.note(trouble))
        .one_shot();
    if let Some(node) = node {
        // To whomever the library turns, it is this node that is asked: it passes writes on to the leader.
        builder = builder.connector(move |_| connect(node.clone(), secrets.clone()));
    }
    builder.build().map_err(|error| Failure::usage(error.message().to_owned()))
}

async fn connect(
    node: String,
    secrets: Secrets,
) -> Result<tonic::transport::Channel, tonic::transport::Error> {
    let endpoint = secrets.endpoint(&node)?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(LIBRARY.keepalive_interval);
    tally_client::connect(LIBRARY.apply(endpoint)).await
}

/// Of a node that somebody asked for by name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Which node somebody means by its id, or by its address.
pub(super) fn find(named: &str, status: &Status) -> Result<Pinned, String> {
    let is = |address: &str| {
        let bare = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
        bare.unwrap_or(address).to_owned()
    };
    let Ok(id) = named.parse::<u64>() else {
        return Ok(Pinned { id: None, address: is(named) });
    };
    let nodes = status.nodes.iter();
    match nodes.clone().find(|node| node.id == id) {
        Some(node) if !node.address.is_empty() => {
            Ok(Pinned { id: Some(id), address: is(&node.address) })
        }
        Some(_) => Err(format!("where node {id} listens for clients is not known")),
        None => {
            let ids: Vec<_> = nodes.map(|node| node.id.to_string()).collect();
            Err(format!("there is no node {id}: {}", ids.join(", ")))
        }
    }
}
