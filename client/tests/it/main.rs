//! The client against nodes that lose answers, break streams, step down and forget: an in-process
//! cluster whose model executes what it is sent and checks that nothing is executed twice.

mod fake;
mod fallback;
mod model;

mod basics;
mod dropped;
mod exactly_once;
mod paging;
mod pipelining;
mod spans;
mod strangers;
#[cfg(feature = "tls")]
mod tls;
mod tokens;
#[cfg(feature = "traces")]
mod traces;
