//! Logs through `tracing`, for people or for machines.

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Config, LogFormat};

/// What the libraries may say.
///
/// openraft tells each step of its own life at info; it is of use to its developers. What its handle
/// (`openraft::raft`) calls an error is an answer that found nobody: of a question whose caller has gone
/// away, or that came after a clean stop. Who is still there gets it as a result too, and knows what it
/// means: an end that nobody asked for is told by `consensus::tasks::watch_raft`.
const LIBRARIES: &str =
    "openraft=warn,openraft::raft=off,openraft::raft::api=warn,h2=warn,sled=warn";

/// Starts logging to standard error.
pub fn start(config: &Config) -> Result<(), String> {
    let filter = format!("{},{LIBRARIES}", config.log_filter);
    let filter = EnvFilter::try_new(&filter).map_err(|error| format!("log_filter: {error}"))?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Human => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(is_terminal).with_target(false).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| error.to_string())
}
