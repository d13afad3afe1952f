//! Writes the seeds below a directory, a file for each: `seeds DIR`.

// What is built for the engine calls it.
#[cfg(feature = "engine")]
use libfuzzer_sys as _;

fn main() -> std::io::Result<()> {
    let Some(into) = std::env::args_os().nth(1) else {
        eprintln!("usage: seeds DIR");
        std::process::exit(2);
    };
    let into = std::path::PathBuf::from(into);
    for (target, what, bytes) in tally_fuzz::seeds::all() {
        let folder = into.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(what), bytes)?;
    }
    Ok(())
}
