//! Writes what fuzzing begins with, a file for each: `seeds DIR` makes `DIR/seeds/TARGET`, of the encoders, and
//! `DIR/kept/TARGET`, of the kept corpora. `seeds --pack DIR FILE` makes a kept corpus of the files in a directory.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

// What is built for the engine calls it.
#[cfg(feature = "engine")]
use libfuzzer_sys as _;
use tally_fuzz::{TARGETS, pack, seeds, unpack};

fn main() -> io::Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match &arguments[..] {
        [into] => write(Path::new(into)),
        [flag, from, to] if flag == "--pack" => {
            let mut paths: Vec<PathBuf> =
                fs::read_dir(from)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
            paths.sort();
            let inputs = paths.iter().map(fs::read).collect::<io::Result<Vec<_>>>()?;
            fs::write(to, pack(inputs.iter().map(Vec::as_slice)))
        }
        _ => {
            eprintln!("usage: seeds DIR | seeds --pack DIR FILE");
            std::process::exit(2);
        }
    }
}

fn write(into: &Path) -> io::Result<()> {
    for (target, what, bytes) in seeds::all() {
        let folder = into.join("seeds").join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(what), bytes)?;
    }
    for (target, _) in TARGETS {
        let folder = into.join("kept").join(target);
        fs::create_dir_all(&folder)?;
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        for (at, input) in unpack(&fs::read(kept).unwrap_or_default()).enumerate() {
            fs::write(folder.join(format!("{at:05}")), input)?;
        }
    }
    Ok(())
}
