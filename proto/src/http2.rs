//! HTTP/2 as Tally speaks it: each protective default of tonic, hyper and h2, set on purpose, for the
//! client port, the peer port, the library and the connections between nodes.
//!
//! These libraries guard against abuse with limits of their own. One that is lower than what Tally
//! allows is not a guard but a fault: h2 lets twenty calls be given up before they are looked at, and
//! ends the connection with the next, with every other call on it; a node that stood still for a second
//! under a client with deadlines meets that. So what must agree is written beside each other here, and
//! asserted where it can be compared.
//!
//! What hyper and tonic do not let us set, and what it is then:
//! - small frames of data (below 256 bytes) that wait to be read: h2 ends a connection where they would
//!   take half its window, counted with 256 bytes each; see [`SMALL_PACKS_WAITING_MAX`];
//! - empty frames of data that do not end a message: a hundred in a connection's life. Nobody who means
//!   well sends any;
//! - resets of its own that a server remembers, so as to ignore what comes after: 50, for a second. What
//!   comes after for an older one is answered with another reset, which counts among
//!   [`Port::error_resets_max`].

use std::time::Duration;

/// Calls that one connection to the client port may have open.
pub const CALLS_PER_CONNECTION_MAX: u32 = 1024;

/// Calls that the stream of a library lets wait before it sends them, so the most packs of a single
/// call that a node which stood still can find at once.
pub const SMALL_PACKS_WAITING_MAX: usize = 8 * 1024;

/// What h2 takes a small frame of data for.
const SMALL_FRAME_BYTES: usize = 256;

/// Bytes of all details of one error, before they are coded for a header.
pub const ERROR_DETAILS_BYTES_MAX: usize = 6 * 1024;

/// A port's side of HTTP/2.
#[derive(Debug, Clone, Copy)]
pub struct Port {
    /// Calls that one connection may have open.
    pub calls_max: u32,
    /// Calls that the other side may give up before this one looked at them; more end the connection.
    /// Each time that a caller's calls run out of time together they may be as many as it has open, and
    /// while a node stands still it may try again a few times. Never more than that: who opens and
    /// resets calls without end is the attack that this is against.
    pub pending_resets_max: usize,
    /// Calls that h2 itself resets in the whole life of a connection, since the other side sent what
    /// does not belong to them: data behind a reset, most often, as it was under way already. Each call
    /// that a node gives up may be met by some, and the connections of a library live for months; but
    /// each waits as a frame for a client that may not read, so there is a bound.
    pub error_resets_max: usize,
    /// Bytes that may be under way to this side in one call …
    pub call_window_bytes: u32,
    /// … and in all calls of a connection. What is received and not read by anybody is at most this.
    pub window_bytes: u32,
    /// Longest frame that is taken.
    pub frame_bytes_max: u32,
    /// Bytes of one answer that h2 takes ahead of the network.
    pub send_buffer_bytes_max: usize,
    /// Bytes of all headers of a call.
    pub header_bytes_max: u32,
    /// Bytes of headers that are remembered to send them shorter.
    pub header_table_bytes: u32,
    /// A connection that is silent for this long is asked whether it lives …
    pub keepalive_interval: Duration,
    /// … and closed when it has not answered after this.
    pub keepalive_timeout: Duration,
    /// A connection has to begin HTTP/2 within this time.
    pub handshake_time_max: Duration,
    /// A connection without a call for this long is asked to go. `None` for never.
    pub idle_time_max: Option<Duration>,
}

/// Where clients call.
pub const CLIENT_PORT: Port = Port {
    calls_max: CALLS_PER_CONNECTION_MAX,
    pending_resets_max: 4 * CALLS_PER_CONNECTION_MAX as usize,
    error_resets_max: 16 * 1024,
    // Half a request of the largest size: two round trips for it.
    call_window_bytes: 1024 * 1024,
    // Large enough for all small packs that a library lets wait, as h2 counts them.
    window_bytes: 4 * 1024 * 1024,
    // HTTP/2's own. Larger ones let a large answer hold up small ones.
    frame_bytes_max: 16 * 1024,
    // Twice what is handed over at once (`node`, `port::answer`): the next part waits while one goes.
    send_buffer_bytes_max: 512 * 1024,
    header_bytes_max: 16 * 1024,
    header_table_bytes: 4 * 1024,
    keepalive_interval: Duration::from_secs(20),
    keepalive_timeout: Duration::from_secs(20),
    handshake_time_max: Duration::from_secs(5),
    // Longer than any pause of a client that calls now and then. It connects again when it calls.
    idle_time_max: Some(Duration::from_secs(30 * 60)),
};

/// Where nodes call each other.
pub const PEER_PORT: Port = Port {
    // Heartbeats, questions and forwarded writes; streams of entries have connections of their own.
    calls_max: 1024,
    pending_resets_max: 4 * 1024,
    error_resets_max: 16 * 1024,
    call_window_bytes: 4 * 1024 * 1024,
    window_bytes: 8 * 1024 * 1024,
    // With 16 KiB a full log entry comes in 32 of them, each with a system call on either side.
    frame_bytes_max: 512 * 1024,
    send_buffer_bytes_max: 512 * 1024,
    header_bytes_max: 16 * 1024,
    header_table_bytes: 4 * 1024,
    // A silent peer must not look like a slow one.
    keepalive_interval: Duration::from_secs(1),
    keepalive_timeout: Duration::from_secs(1),
    handshake_time_max: Duration::from_secs(5),
    // A follower that is never asked keeps its connections.
    idle_time_max: None,
};

/// The dialing side of HTTP/2.
#[derive(Debug, Clone, Copy)]
pub struct Dialer {
    /// Bytes that may be under way to this side in one call …
    pub call_window_bytes: u32,
    /// … and in all calls of a connection.
    pub window_bytes: u32,
    /// Longest frame that is taken.
    pub frame_bytes_max: u32,
    /// Bytes of all headers of an answer: the details of an error are among them.
    pub header_bytes_max: u32,
    /// Calls given up here that are remembered for `resets_remembered_for`, so that their answers are
    /// ignored when they come.
    pub resets_remembered_max: usize,
    /// See there: a round trip to a node that stands still.
    pub resets_remembered_for: Duration,
    /// As [`Port::error_resets_max`]: an answer to a call that is remembered no more counts, for as long
    /// as the connection lives. No bound: a node is trusted not to send what nobody asked for.
    pub error_resets_max: Option<usize>,
    /// A connection that is silent for this long is asked whether it lives …
    pub keepalive_interval: Duration,
    /// … and closed when it has not answered after this. Also while no call is open, so that the next
    /// one does not find out.
    pub keepalive_timeout: Duration,
}

/// The library.
pub const LIBRARY: Dialer = Dialer {
    // So large that flow control never paces a pack of answers on a local network.
    call_window_bytes: 16 * 1024 * 1024,
    window_bytes: 16 * 1024 * 1024,
    frame_bytes_max: 16 * 1024,
    header_bytes_max: 16 * 1024,
    resets_remembered_max: CALLS_PER_CONNECTION_MAX as usize,
    resets_remembered_for: Duration::from_secs(2),
    error_resets_max: None,
    // A node that does not answer within 4 s is left for another one.
    keepalive_interval: Duration::from_secs(2),
    keepalive_timeout: Duration::from_secs(2),
};

/// A node that calls another one.
pub const PEER: Dialer = Dialer {
    call_window_bytes: 4 * 1024 * 1024,
    window_bytes: 8 * 1024 * 1024,
    // Answers are small.
    frame_bytes_max: 16 * 1024,
    header_bytes_max: 16 * 1024,
    resets_remembered_max: 1024,
    resets_remembered_for: Duration::from_secs(2),
    error_resets_max: None,
    keepalive_interval: Duration::from_secs(1),
    keepalive_timeout: Duration::from_secs(1),
};

#[cfg(feature = "client")]
impl Dialer {
    /// Sets all of it, but for how often a silent connection is asked.
    pub fn apply(&self, endpoint: tonic::transport::Endpoint) -> tonic::transport::Endpoint {
        endpoint
            .initial_stream_window_size(self.call_window_bytes)
            .initial_connection_window_size(self.window_bytes)
            .http2_adaptive_window(false)
            .max_frame_size(self.frame_bytes_max)
            .http2_max_header_list_size(self.header_bytes_max)
            .http2_max_concurrent_reset_streams(self.resets_remembered_max)
            .http2_reset_stream_duration(self.resets_remembered_for)
            .http2_max_local_error_reset_streams(self.error_resets_max)
            .keep_alive_timeout(self.keepalive_timeout)
            .keep_alive_while_idle(true)
    }
}

const fn agrees(port: &Port, dialer: &Dialer) {
    assert!(
        port.pending_resets_max >= port.calls_max as usize,
        "all calls of a connection may be given up at once"
    );
    assert!(
        port.error_resets_max >= port.calls_max as usize,
        "all calls of a connection may be given up at once"
    );
    assert!(
        dialer.resets_remembered_max >= port.calls_max as usize,
        "all calls of a connection may be given up at once"
    );
    assert!(port.call_window_bytes <= port.window_bytes, "a call is part of its connection");
    assert!(dialer.call_window_bytes <= dialer.window_bytes, "a call is part of its connection");
    // In base64, and as much again for the text and the other headers.
    assert!(
        dialer.header_bytes_max as usize >= 2 * ERROR_DETAILS_BYTES_MAX * 4 / 3,
        "an error's details reach who asked"
    );
    assert!(port.frame_bytes_max <= port.call_window_bytes, "a frame fits in a call's window");
}

const _: () = {
    agrees(&CLIENT_PORT, &LIBRARY);
    agrees(&PEER_PORT, &PEER);
    assert!(
        CLIENT_PORT.window_bytes as usize / 2 >= SMALL_PACKS_WAITING_MAX * SMALL_FRAME_BYTES,
        "a node that stood still takes what its clients sent meanwhile"
    );
};
