//! Output for whoever reads it, for as long as they do.

use std::{
    fmt,
    io::{self, Write as _},
};

/// Prints a line. Who has closed the pipe (`| head`) has seen enough: the program ends, and is told nothing,
/// as `tally` does it.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let printed = writeln!(io::stdout(), "{text}");
    match printed {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            let _ = writeln!(io::stderr(), "tally-sim: the output can't be written: {error}");
            std::process::exit(2);
        }
    }
}

/// As `println!`, for a reader who may go away.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}
