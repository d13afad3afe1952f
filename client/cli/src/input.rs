//! Standard input, or what stands for it in a line of the shell.

use std::{
    io::{self, Read as _},
    sync::{Mutex, PoisonError},
};

/// Where a command that reads standard input has it from.
#[derive(Debug, Default)]
pub(crate) enum Input {
    #[default]
    OfTheProcess,
    /// The lines behind `<<END`.
    Given(String),
    /// Commands come from there, so that no command may read it.
    Commands,
}

static INPUT: Mutex<Input> = Mutex::new(Input::OfTheProcess);

/// What the next command reads.
pub(crate) fn set(input: Input) {
    *INPUT.lock().unwrap_or_else(PoisonError::into_inner) = input;
}

/// All of it.
pub(crate) fn read() -> io::Result<Vec<u8>> {
    match &*INPUT.lock().unwrap_or_else(PoisonError::into_inner) {
        Input::OfTheProcess => {
            let mut all = Vec::new();
            io::stdin().read_to_end(&mut all).map(|_| all)
        }
        Input::Given(text) => Ok(text.clone().into_bytes()),
        Input::Commands => Err(io::Error::other(
            "the shell itself reads standard input: end the line with <<END, and the text that follows with a \
             line END; or name a file",
        )),
    }
}
