//! Logs through `tracing`, for people or for machines.

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Config, LogFormat};

/// Starts logging to standard error.
pub fn start(config: &Config) -> Result<(), String> {
    // openraft tells each step of its own life at info; it is of use to its developers.
    let filter = format!("{},openraft=warn,h2=warn,sled=warn", config.log_filter);
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
