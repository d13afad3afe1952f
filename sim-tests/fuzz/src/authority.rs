//! What a client sends before HTTP/2 is read.

use tally_node::port_fuzzing::pass;

/// The lengths of pieces, then what comes in them.
pub(crate) fn connection(bytes: &[u8]) {
    let Some((&count, bytes)) = bytes.split_first() else { return };
    let (pieces, came) = bytes.split_at(usize::from(count % 16).min(bytes.len()));
    let pieces: Vec<usize> = pieces.iter().map(|length| usize::from(*length)).collect();
    let mut whole = came.to_vec();
    pass(&mut whole, &[]);
    let mut cut = came.to_vec();
    pass(&mut cut, &pieces);
    assert_eq!(cut, whole, "how bytes are cut changes what becomes of them");
    for (passed, came) in whole.iter().zip(came) {
        assert!(passed == came || *passed == b'-', "a byte became another one than `-`");
    }
    let mut again = whole.clone();
    pass(&mut again, &[]);
    assert_eq!(again, whole, "what is harmless is changed");
}
