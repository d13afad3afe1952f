//! `--history FILE`: what a run asks and is told, for `tally-sim check FILE` to judge.

use std::{
    fs::File,
    future::IntoFuture,
    io::BufWriter,
    path::{Path, PathBuf},
};

use tally_client::{
    Result,
    history::{Recorder, Request, Told},
};
use tokio::time::Instant;

use crate::output::Failure;

/// Whose operations those are that no caller makes: preparing, and looking at the end.
pub(crate) const OBSERVER: u64 = 0;

/// The book that a run is written into, if somebody wants one.
pub(crate) struct Book(Option<(PathBuf, Recorder)>);

impl Book {
    /// Times are nanoseconds since now.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = File::create(path).map_err(|error| failed(path, &error))?;
        let began = Instant::now();
        let clock = move || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(Self(Some((path.to_owned(), Recorder::to_writer(clock, BufWriter::new(file))))))
    }

    /// Makes a call, and writes it down.
    pub(crate) async fn call<T: Told>(
        &self,
        client: u64,
        request: impl FnOnce() -> Request,
        call: impl IntoFuture<Output = Result<T>>,
    ) -> Result<T> {
        let Some((_, recorder)) = &self.0 else { return call.await };
        let pending = recorder.begin(client, request());
        let result = call.await;
        pending.finish(&result);
        result
    }

    /// Where it is, once all of it is there.
    pub(crate) fn close(&self) -> Result<Option<&Path>, Failure> {
        let Some((path, recorder)) = &self.0 else { return Ok(None) };
        recorder.close().map_err(|error| failed(path, &error))?;
        Ok(Some(path))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("--history {}: {error}", path.display()))
}
