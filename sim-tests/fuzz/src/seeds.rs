//! Where fuzzing begins: bytes that Tally's own encoders make, in the form that each target takes.

mod of_disk;
mod of_wire;

/// A seed: of which target, what it is, and its bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// All seeds.
pub fn all() -> Vec<Seed> {
    [of_wire::seeds(), of_disk::seeds()].concat()
}

/// Of a target that chooses by its first byte.
fn chosen(target: &'static str, what: &str, which: usize, bytes: &[u8]) -> Seed {
    let which = u8::try_from(which).expect("few kinds");
    (target, what.to_owned(), [&[which], bytes].concat())
}
