//! Commit and date, for `tally version`.

#[path = "../../build/version.rs"]
mod version;

fn main() {
    version::tell(&["../../build", "../src", "../../proto"]);
}
