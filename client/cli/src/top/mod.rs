//! `tally top`: the nodes of a cluster as they work: a live view on a terminal, lines into a pipe.
//!
//! Status and metrics of all nodes come from one node, which asks the others (`Cluster.Metrics`): whoever can reach
//! one node sees all of them. What a node does not tell, because it is too old or the caller may not ask, is left
//! out, with the reason.

mod columns;
mod figures;
mod lines;
mod scrape;
mod screen;
mod view;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use clap::Args;
use futures_util::future::join_all;
use tally_client::{Client, Code};
use tokio::time::Instant;

use self::{
    columns::Column,
    figures::{Figures, Look},
    scrape::Scrape,
};
use crate::{
    args::Time,
    interrupts::Interrupts,
    output::{Exit, Failure, Output, line},
};

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// How often the nodes are asked, and what rates are of: a number with ms, s, m or h, at least 100ms.
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = interval)]
    interval: Time,
    /// Look for one interval, print that, and end.
    #[arg(long)]
    once: bool,
    /// The column that nodes are sorted by: the largest first, but for node.
    #[arg(long, value_enum, default_value = "node", value_name = "COLUMN")]
    sort: Column,
    /// Sort the other way round.
    #[arg(long)]
    reverse: bool,
}

fn interval(text: &str) -> Result<Time, String> {
    let time: Time = text.parse()?;
    if time.0 < Duration::from_millis(100) {
        return Err("it is below 100ms".to_owned());
    }
    Ok(time)
}

pub(crate) async fn run(client: &Client, top: &Top, output: Output) -> Result<Exit, Failure> {
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    match is_terminal && !top.once && !output.json {
        true => screen::run(client, top, view::draw).await,
        false => print(client, top, output).await,
    }
}

/// Prints a look after each interval.
async fn print(client: &Client, top: &Top, output: Output) -> Result<Exit, Failure> {
    let interrupts = Interrupts::listen();
    // Rates need two; where the first fails, so may all.
    let Some(first) = interrupts.work(look(client)).await else { return Ok(Exit::CutShort) };
    let mut before = Some(first?);
    let mut has_head = output.json;
    loop {
        let Some(()) = interrupts.work(tokio::time::sleep(top.interval.0)).await else {
            return Ok(Exit::CutShort);
        };
        let Some(looked) = interrupts.work(look(client)).await else { return Ok(Exit::CutShort) };
        match looked {
            Ok(now) => {
                let mut figures = Figures::of(&now, before.as_ref());
                columns::sort(&mut figures.nodes, top.sort, top.reverse);
                if !has_head {
                    line(&lines::head())?;
                    has_head = true;
                }
                output.result(&figures, lines::look)?;
                before = Some(now);
            }
            Err(error) if top.once => return Err(error.into()),
            // As `status --watch`, it goes on through an outage.
            Err(error) => {
                output.failure(&error.into());
                before = None;
            }
        }
        if top.once {
            return Ok(Exit::Done);
        }
    }
}

/// Asks for the status, and each node that answers for its metrics.
async fn look(client: &Client) -> tally_client::Result<Look> {
    let status = client.status().await?;
    let nodes = status.nodes.iter().filter(|node| node.reachable);
    let metrics = join_all(nodes.map(async |node| (node.id, metrics(client, node.id).await))).await;
    Ok(Look {
        at: Instant::now(),
        wall_ms: tally_certificates::now_ms(),
        status,
        metrics: metrics.into_iter().collect(),
    })
}

async fn metrics(client: &Client, node_id: u64) -> Result<Scrape, String> {
    match client.metrics(node_id).max_attempts(1).await {
        Ok(answer) if answer.problem.is_empty() => Ok(Scrape::read(&answer.text)),
        Ok(answer) => Err(answer.problem),
        Err(error) if error.code() == Code::Unimplemented => {
            Err("the asked node is too old to tell them".to_owned())
        }
        Err(error) => Err(error.message().to_owned()),
    }
}
