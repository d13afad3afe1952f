//! What the answer of a read is worth: said beside it to who looks at a terminal, or asks for it. A program
//! that reads the output gets the answer alone, or all of it as JSON.

use std::io::{self, IsTerminal as _};

use tally_client::Header;

use crate::output::{Output, note};

/// Says it on standard error, if somebody wants to know. That a linearizable read is the newest needs no
/// word.
pub(crate) fn tell(header: &Header, output: Output) {
    let is_news = header.consistency != "LINEARIZABLE" && io::stdout().is_terminal();
    if !output.json && (output.verbose || is_news) {
        note(&text(header));
    }
}

fn text(header: &Header) -> String {
    let level = header.consistency.to_lowercase();
    let age = match header.staleness_ms_max {
        Some(ms @ 0..1000) => format!("at most {ms} ms old"),
        Some(ms) => format!("at most {:.1} s old", ms as f64 / 1000.0),
        None if header.consistency == "LINEARIZABLE" => "the newest when it was asked".to_owned(),
        None => "how old is not known".to_owned(),
    };
    format!("-- {level} read by node {} ({}): {age}", header.node_id, header.role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_said_where_one_is_proven() {
        let mut header = Header {
            consistency: "BOUNDED",
            node_id: 3,
            role: "follower",
            staleness_ms_max: Some(9640),
            ..Header::default()
        };
        assert_eq!(text(&header), "-- bounded read by node 3 (follower): at most 9.6 s old");
        (header.consistency, header.staleness_ms_max) = ("LOCAL", Some(12));
        assert_eq!(text(&header), "-- local read by node 3 (follower): at most 12 ms old");
        header.staleness_ms_max = None;
        assert_eq!(text(&header), "-- local read by node 3 (follower): how old is not known");
    }
}
