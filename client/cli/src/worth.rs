//! What the answer of a read is worth: said beside it to who looks at a terminal, or asks for it. A program
//! that reads the output gets the answer alone, or all of it as JSON.

use std::io::{self, IsTerminal as _};

use tally_client::{Consistency, Header};

use crate::output::{Output, note};

/// Says it on standard error, if somebody wants to know. That a linearizable read is the newest needs no
/// word.
pub(crate) fn tell(header: &Header, output: Output) {
    let is_news = header.consistency != Consistency::Linearizable && io::stdout().is_terminal();
    if !output.json && (output.verbose || is_news) {
        note(&text(header));
    }
}

fn text(header: &Header) -> String {
    let level = header.consistency.to_string().to_lowercase();
    let age = match header.staleness_max.map(|age| age.as_millis()) {
        Some(ms @ 0..1000) => format!("at most {ms} ms old"),
        Some(ms) => format!("at most {:.1} s old", ms as f64 / 1000.0),
        None if header.consistency == Consistency::Linearizable => {
            "the newest when it was asked".to_owned()
        }
        None => "how old is not known".to_owned(),
    };
    format!("-- {level} read by node {} ({}): {age}", header.node_id, header.role)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tally_client::Role;

    use super::*;

    #[test]
    fn an_age_is_said_where_one_is_proven() {
        let mut header = Header {
            consistency: Consistency::Bounded,
            node_id: 3,
            role: Role::Follower,
            staleness_max: Some(Duration::from_millis(9640)),
            ..Header::default()
        };
        assert_eq!(text(&header), "-- bounded read by node 3 (follower): at most 9.6 s old");
        header.consistency = Consistency::Local;
        header.staleness_max = Some(Duration::from_millis(12));
        assert_eq!(text(&header), "-- local read by node 3 (follower): at most 12 ms old");
        header.staleness_max = None;
        assert_eq!(text(&header), "-- local read by node 3 (follower): how old is not known");
    }
}
