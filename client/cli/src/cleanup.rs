//! Removing what a measurement made, when it is over or was cut short.
//!
//! Only what it made itself: where there was something of the same names before, nobody can tell it from what
//! was added, and all of it stays. What stays for whatever reason is named, with the command that removes it.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    time::Duration,
};

use tally_client::{Client, Error};
use tokio::time::{sleep, timeout};

use crate::{
    args::{Common, default_endpoints},
    interrupts::Interrupts,
    output::note,
    prefix::{self, Kind, Removed},
    waiting::SILENT_FOR,
};

/// Who cut it short waits no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a command writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trace {
    /// Names that begin so.
    Prefix(Kind, String),
    /// One name.
    Name(Kind, String),
}

impl Trace {
    fn parts(&self) -> (Kind, &str) {
        match self {
            Self::Prefix(kind, name) | Self::Name(kind, name) => (*kind, name),
        }
    }

    async fn exists(&self, client: &Client) -> Result<bool, Error> {
        let (kind, name) = self.parts();
        let first = prefix::first(client, kind, name).await?;
        Ok(first.is_some_and(|first| matches!(self, Self::Prefix(..)) || first == name))
    }

    async fn remove(&self, client: &Client, removed: &mut Removed) -> Result<(), Error> {
        match self {
            Self::Prefix(kind, name) => prefix::remove(client, *kind, name, removed).await,
            Self::Name(kind, name) => {
                prefix::remove_these(client, *kind, vec![name.clone()], removed).await
            }
        }
    }

    /// What removes it by hand.
    fn command(&self, common: &Common) -> String {
        let (kind, name) = self.parts();
        let prefix = if matches!(self, Self::Prefix(..)) { "--prefix " } else { "" };
        let endpoints = common.endpoints.join(",");
        let at = if endpoints == default_endpoints() {
            String::new()
        } else {
            format!(" --endpoints {endpoints}")
        };
        let tls = common.tls.flags();
        format!("tally {} delete {prefix}{name}{at}{tls}", kind.command())
    }
}

/// What a run makes, and is to remove.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    own: Vec<Trace>,
    /// Of these names there was something before.
    from_before: Vec<Trace>,
}

impl Traces {
    /// Looks what is there, before anything is written.
    pub(crate) async fn look(client: &Client, traces: Vec<Trace>) -> Result<Self, Error> {
        let mut all = Self::default();
        for trace in traces {
            let exists = trace.exists(client).await?;
            if exists { &mut all.from_before } else { &mut all.own }.push(trace);
        }
        Ok(all)
    }

    /// What nobody else can have made.
    pub(crate) fn own(traces: Vec<Trace>) -> Self {
        Self { own: traces, from_before: Vec::new() }
    }

    /// Removes it, and says on standard error what was removed and what is left.
    pub(crate) async fn remove(self, common: &Common, client: &Client, interrupts: &Interrupts) {
        let patience = if interrupts.is_cut_short() { PATIENCE } else { Duration::MAX };
        let mut counts = BTreeMap::new();
        let mut done = 0;
        let removing = timeout(patience, async {
            for trace in &self.own {
                let mut removed = Removed::default();
                let result = trace.remove(client, &mut removed).await;
                *counts.entry(trace.parts().0.command()).or_insert(0) += removed.deleted;
                if let Err(error) = result {
                    return Some(error.message().to_owned());
                }
                done += 1;
            }
            None
        });
        let told = async {
            sleep(SILENT_FOR).await;
            if io::stderr().is_terminal() {
                note("-- removing what it made; Ctrl-C leaves the rest of it");
            }
            std::future::pending().await
        };
        let removing = async {
            tokio::select! {
                removed = removing => removed,
                never = told => never,
            }
        };
        let why = match interrupts.ending(removing).await {
            Some(Ok(None)) => None,
            Some(Ok(Some(why))) => Some(why),
            Some(Err(_)) => Some(format!("it took longer than {} s", patience.as_secs())),
            None => Some("cut short".to_owned()),
        };
        let kinds = [Kind::Counter, Kind::Key].map(|kind| (kind, counts.get(kind.command())));
        let counted = kinds.into_iter().filter_map(|(kind, count)| Some((kind, *count?)));
        let counted = counted.filter(|(_, count)| *count > 0);
        let counted: Vec<_> = counted.map(|(kind, count)| kind.count(count)).collect();
        if !counted.is_empty() {
            note(&format!("-- removed {} that it made; --keep leaves them", counted.join(" and ")));
        }
        if let Some(why) = why {
            tell_left(
                &format!("not all that it made was removed ({why})"),
                &self.own[done..],
                common,
            );
        }
        if !self.from_before.is_empty() {
            // Without a command: it would take with it what was there before.
            let names: Vec<_> = self.from_before.iter().map(|trace| trace.parts().1).collect();
            note(&format!(
                "-- there was something of these names before, so what was added to it stays: {}",
                names.join(", ")
            ));
        }
    }
}

/// Says what stays, and what removes it.
pub(crate) fn tell_left(why: &str, left: &[Trace], common: &Common) {
    if left.is_empty() {
        return;
    }
    let commands = left.iter().map(|trace| format!("\n   {}", trace.command(common)));
    note(&format!("-- {why}; to remove it:{}", commands.collect::<String>()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_comes_with_the_command_that_removes_it() {
        let mut common = Common {
            endpoints: vec!["a:1".to_owned(), "b:2".to_owned()],
            json: None,
            verbose: false,
            tls: crate::tls::TlsOptions::default(),
            deadline: crate::args::Time(Duration::from_secs(1)),
        };
        let counters = Trace::Prefix(Kind::Counter, "bench/c/".to_owned());
        let command = "tally counter delete --prefix bench/c/ --endpoints a:1,b:2";
        assert_eq!(counters.command(&common), command);
        common.tls.tls_ca = Some("my ca.crt".into());
        assert_eq!(counters.command(&common), format!("{command} --tls-ca 'my ca.crt'"));
        common.tls.tls_ca = None;
        common.endpoints = default_endpoints().split(',').map(str::to_owned).collect();
        let key = Trace::Name(Kind::Key, "bench/k".to_owned());
        assert_eq!(key.command(&common), "tally kv delete bench/k");
    }
}
