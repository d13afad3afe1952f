//! Compiles the `.proto` files with a compiler written in Rust, so that nobody needs `protoc`.

use std::{error::Error, path::Path, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    println!("cargo:rerun-if-changed=proto");
    let public = proto_files("proto/tally/v1")?;
    let peer = proto_files("proto/tally/peer/v1")?;

    // Reflection serves the public API only.
    let public_descriptors = protox::compile(&public, ["proto"])?;
    std::fs::write(out_dir.join("tally.v1.bin"), public_descriptors.encode_to_vec())?;

    let all = protox::compile(public.iter().chain(&peer), ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(all)?;
    Ok(())
}

/// The `.proto` files of one package, sorted so that the build is reproducible.
fn proto_files(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
