//! Commit and date, for `tally version`.

#[path = "../../node/build/version.rs"]
mod version;

fn main() {
    version::tell(&["../../node/build", "../src", "../../proto"]);
}
