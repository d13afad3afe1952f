//! What `tally version` and `tallyd version` say of themselves: the commit and the moment of the build. Both build
//! scripts call `tell`, and the tests of the command line look at the rest.
//!
//! In the profiles of everyday work (`dev`, `sim`) it says that it does not know: a commit would compile `tally-node`
//! again, and the simulator with it, for the sake of a line that nobody reads there. In the others the commit is
//! looked up again when it, or a source, has changed, and at no other time. Without git it is unknown, unless whoever
//! builds names it in `TALLY_COMMIT`. `SOURCE_DATE_EPOCH` replaces the time, so that two builds of one source are
//! equal.

use std::{
    env,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

/// The profiles in which one compiles all day.
const EVERYDAY: [&str; 2] = ["debug", "sim"];

/// Prints what cargo hands on to the compiler. `sources` are what the program is made of, besides its own `src`.
pub(crate) fn tell(sources: &[&str]) {
    println!("cargo::rerun-if-changed=build.rs");
    for variable in ["TALLY_COMMIT", "SOURCE_DATE_EPOCH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let profile = profile();
    // Not under TALLY_: cargo puts them into the environment of what it runs, where a node would refuse them.
    println!("cargo::rustc-env=BUILD_PROFILE={profile}");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let named = env::var("TALLY_COMMIT").ok().filter(|name| !name.is_empty());
    if named.is_none() && EVERYDAY.contains(&&*profile) {
        let unknown = "unknown (a development build)";
        return put(&format!("{version} (development build)"), unknown, unknown);
    }
    let here = Path::new(".");
    let commit = named.or_else(|| {
        for changed in
            git_files(here).iter().map(String::as_str).chain(["src"]).chain(sources.iter().copied())
        {
            println!("cargo::rerun-if-changed={changed}");
        }
        commit(here)
    });
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    let short = match commit.split_once(' ') {
        _ if commit == "unknown" => "commit unknown".to_owned(),
        Some((id, rest)) => format!("{} {rest}", abbreviated(id)),
        None => abbreviated(&commit).to_owned(),
    };
    let built = date(build_time(env::var("SOURCE_DATE_EPOCH").ok().as_deref()));
    put(&format!("{version} ({short}, {})", &built[..10]), &commit, &built);
}

fn put(version: &str, commit: &str, built: &str) {
    println!("cargo::rustc-env=BUILD_VERSION={version}");
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=BUILD_BUILT={built}");
}

/// The profile. Its folder is the only trace of its name.
fn profile() -> String {
    let out = env::var_os("OUT_DIR").unwrap_or_default();
    let folder = Path::new(&out).ancestors().nth(3).and_then(Path::file_name);
    folder.map(|folder| folder.to_string_lossy().into_owned()).unwrap_or_default()
}

fn abbreviated(id: &str) -> &str {
    id.get(..9).unwrap_or(id)
}

/// What git says, if there is git, and it knows this folder.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    // Looking must not write, to the index for one.
    let mut command = Command::new("git");
    command.arg("--no-optional-locks").args(arguments).current_dir(folder);
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The commit that a folder's files are of, followed by " modified" if they are not quite. Nothing if they are not
/// under version control, even where a folder above them is.
pub(crate) fn commit(folder: &Path) -> Option<String> {
    git(folder, &["ls-files", "--error-unmatch", "build.rs"])?;
    let id = git(folder, &["rev-parse", "HEAD"])?;
    let is_modified = !git(folder, &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if is_modified { format!("{id} modified") } else { id })
}

/// The files that change when another commit is checked out, or made. Only those that are there: cargo would build
/// again and again for the sake of one that is not.
pub(crate) fn git_files(folder: &Path) -> Vec<String> {
    let paths = git(folder, &["rev-parse", "--git-path", "HEAD", "--git-path", "logs/HEAD"]);
    let paths = paths.unwrap_or_default();
    let there = paths.lines().filter(|path| folder.join(path).exists());
    there.map(str::to_owned).collect()
}

/// Seconds since 1970.
// A build script runs in no simulation.
#[allow(clippy::disallowed_methods)]
pub(crate) fn build_time(source_date_epoch: Option<&str>) -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    source_date_epoch.and_then(|given| given.trim().parse().ok()).unwrap_or_else(now)
}

/// That moment as `2026-11-28T18:49:45Z`.
pub(crate) fn date(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have the leap day at their end; 400 of them are always as long.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
