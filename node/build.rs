//! Commit and date, for `tallyd version`.

#[path = "build/version.rs"]
mod version;

fn main() {
    version::tell(&["build", "machine/src", "storage/src", "../proto"]);
}
