//! Logs through `tracing`, for people or for machines.

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::{
    Layer as _, Registry,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    reload::{self, Handle},
    util::SubscriberInitExt,
};

use super::recent::RecentLines;
use crate::{
    config::{Config, LogFormat},
    env::Logs,
};

/// What the libraries may say, unless `log_filter` names them.
///
/// openraft warns of each heartbeat, vote and append that fails, a line for each try: 240 lines in four
/// elections, of which an operator needs ten, and those are told where they are known (`consensus::news`,
/// `peer`). Its errors stay. What its handle (`openraft::raft`) calls an error is an answer that found
/// nobody: of a question whose caller has gone away, or that came after a clean stop. Who is still there
/// gets it as a result too, and knows what it means: an end that nobody asked for is told by
/// `consensus::tasks::watch_raft`.
const LIBRARIES: &str =
    "openraft=error,openraft::raft=off,openraft::raft::api=error,h2=warn,sled=warn";

/// The filter of this process.
struct Filter {
    asked: Mutex<String>,
    handle: Handle<Targets, Registry>,
}

impl Logs for Filter {
    fn filter(&self) -> String {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_filter(&self, filter: &str) -> Result<(), String> {
        let targets = parse(filter)?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(targets).map_err(|error| error.to_string())?;
        filter.clone_into(&mut asked);
        Ok(())
    }
}

fn parse(filter: &str) -> Result<Targets, String> {
    // Behind ours, so that it wins where it names the same.
    format!("{LIBRARIES},{filter}").parse().map_err(|error| format!("log_filter: {error}"))
}

/// Starts logging to standard error. What is logged is also kept for a while, but for what may have customers' data.
pub fn start(config: &Config, recent: RecentLines) -> Result<Arc<dyn Logs>, String> {
    let (filter, handle) = reload::Layer::new(parse(&config.log_filter)?);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let kept = fmt::layer().with_writer(recent).with_ansi(false).with_filter(LevelFilter::INFO);
    let logs = tracing_subscriber::registry().with(filter).with(kept);
    match config.log_format {
        LogFormat::Human => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            logs.with(lines.with_ansi(is_terminal).with_target(false)).try_init()
        }
        LogFormat::Json => logs.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|error| error.to_string())?;
    Ok(Arc::new(Filter { asked: Mutex::new(config.log_filter.clone()), handle }))
}
