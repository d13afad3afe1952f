//! `tally session`: who holds sessions, and ending some.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tally_client::{Client, SessionInfo, SessionPage};
use tokio::task::JoinSet;

use crate::{
    args::{PAGE_SIZE_MAX, Pages, Read},
    load::grouped,
    output::{Failure, Output, note, table, word},
    pages,
    status::bytes,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// Lists open sessions, the oldest first, and who holds the most.
    List(SessionList),
    /// Ends sessions, whoever opened them. A client that lives opens another with its next write; what
    /// became of its writes that have no answer yet can then not be found out.
    Close(SessionClose),
}

#[derive(Debug, Args)]
pub(crate) struct SessionList {
    /// Only the sessions that clients at this IP address opened.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) owner: Option<String>,
    /// Show so many owners, those that hold the most, 0 to 100.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=100))]
    pub(crate) owners: u16,
    #[command(flatten)]
    pub(crate) pages: Pages,
    #[command(flatten)]
    pub(crate) read: Read,
}

#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = true)]
pub(crate) struct SessionClose {
    /// Ids, as `session list` shows them.
    #[arg(value_name = "ID", conflicts_with = "owner", group = "which")]
    pub(crate) ids: Vec<u64>,
    /// All sessions that clients at this IP address have opened so far; needs --yes.
    #[arg(long, value_name = "ADDRESS", group = "which")]
    pub(crate) owner: Option<String>,
    /// Do end all of an owner's.
    #[arg(long, conflicts_with = "ids")]
    pub(crate) yes: bool,
}

/// Closes in flight: each is a write of its own.
const CLOSES: usize = 64;

pub(crate) async fn run(client: &Client, command: &Session, output: Output) -> Result<(), Failure> {
    match command {
        Session::List(asked) => list(client, asked, output).await,
        Session::Close(asked) => close(client, asked, output).await,
    }
}

async fn list(client: &Client, asked: &SessionList, output: Output) -> Result<(), Failure> {
    let SessionList { owner, owners, pages, read } = asked;
    let fetch = async |token: Option<String>, is_first| {
        let mut list = client.list_sessions().page_size(pages.size());
        list = list.owner(owner.as_deref().unwrap_or_default());
        if is_first {
            list = list.owners(*owners);
        }
        if let Some(token) = token {
            list = list.page_token(token);
        }
        list.level(read.read.clone()).await
    };
    pages::show(pages, output, fetch, shown).await
}

fn shown(page: &SessionPage, is_first: bool) -> String {
    let mut parts = Vec::new();
    if is_first {
        parts.push(format!(
            "{} of {} sessions are open; one address may hold {} % of what the others leave",
            grouped(page.sessions_open),
            grouped(page.sessions_max),
            page.share_percent
        ));
        let owners = page.owners.iter();
        parts
            .extend(owners.map(|it| format!("{} holds {}", word(&it.owner), grouped(it.sessions))));
    }
    if !page.sessions.is_empty() {
        let head = ["id", "owner", "idle for", "ends in", "answers", "size", "unanswered from"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(page.sessions.iter().map(row));
        parts.push(table(&rows));
    }
    parts.join("\n")
}

fn row(session: &SessionInfo) -> Vec<String> {
    let owner = if session.owner.is_empty() { "-" } else { &session.owner };
    vec![
        session.session_id.to_string(),
        owner.to_owned(),
        format!("{} s", session.idle_for.as_secs()),
        format!("{} s", session.expires_in.as_secs()),
        session.answers.to_string(),
        bytes(session.answer_bytes),
        session.lowest_unanswered.to_string(),
    ]
}

/// How many were ended.
#[derive(Default)]
pub(crate) struct Closed {
    closed: u64,
    not_open: u64,
}

impl Closed {
    fn json(&self) -> Value {
        json!({ "closed": self.closed, "not_open": self.not_open })
    }

    fn text(&self) -> String {
        match self.not_open {
            0 => format!("closed {}", self.closed),
            not_open => format!("closed {}; {not_open} were not open", self.closed),
        }
    }

    /// Closes them, many at once.
    pub(crate) async fn close(&mut self, client: &Client, ids: Vec<u64>) -> Result<(), Failure> {
        let mut closing = JoinSet::new();
        let mut ids = ids.into_iter();
        loop {
            while closing.len() < CLOSES
                && let Some(id) = ids.next()
            {
                let client = client.clone();
                closing.spawn(async move { client.end_session(id).await });
            }
            match closing.join_next().await {
                None => return Ok(()),
                Some(Err(error)) => return Err(Failure::unable(error.to_string())),
                Some(Ok(was_open)) => match was_open? {
                    true => self.closed += 1,
                    false => self.not_open += 1,
                },
            }
        }
    }
}

async fn close(client: &Client, asked: &SessionClose, output: Output) -> Result<(), Failure> {
    let mut closed = Closed::default();
    let done = match &asked.owner {
        None => closed.close(client, asked.ids.clone()).await,
        Some(owner) => close_all_of(client, owner, asked.yes, &mut closed).await,
    };
    if let Err(failure) = done {
        if closed.closed > 0 {
            note(&format!(
                "{} before it failed; the same command goes on from there",
                closed.text()
            ));
        }
        return Err(failure);
    }
    output.written(&closed.json(), |_| closed.text())
}

/// Page by page, up to those that were open when it began: an owner that goes on opening does not keep
/// this command going on.
async fn close_all_of(
    client: &Client,
    owner: &str,
    is_sure: bool,
    closed: &mut Closed,
) -> Result<(), Failure> {
    let mut newest = None;
    let mut token = None;
    loop {
        let mut list = client.list_sessions().owner(owner).page_size(PAGE_SIZE_MAX);
        if let Some(token) = token {
            list = list.page_token(token);
        }
        let page = list.await?;
        if !is_sure {
            return Err(Failure::usage(format!(
                "this ends every session of {}, under the feet of clients that are alive: `tally session \
                 list --owner {}` shows them, --yes ends them",
                word(owner),
                word(owner)
            )));
        }
        // An id is the index of the entry that opened the session.
        let newest = *newest.get_or_insert(page.header.applied_index);
        let ids = page.sessions.iter().map(|session| session.session_id);
        let ids: Vec<u64> = ids.filter(|id| *id <= newest).collect();
        let is_last = ids.len() < page.sessions.len();
        closed.close(client, ids).await?;
        token = page.next_page_token;
        if token.is_none() || is_last {
            return Ok(());
        }
    }
}
