//! Compiles the `.proto` files with a compiler written in Rust, so that nobody needs `protoc`.

use std::{error::Error, path::Path, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    println!("cargo:rerun-if-changed=proto");
    let mut files = proto_files("proto/tally/v1")?;
    if has_feature("SERVER") {
        // Reflection serves the public API only.
        let public = protox::compile(&files, ["proto"])?;
        std::fs::write(out_dir.join("tally.v1.bin"), public.encode_to_vec())?;
    }
    if has_feature("PEER") {
        files.extend(proto_files("proto/tally/peer/v1")?);
    }
    // What is not made need not be parsed either. Cargo runs this again for each set of features.
    tonic_prost_build::configure()
        .build_client(has_feature("CLIENT"))
        .build_server(has_feature("SERVER"))
        .bytes(".")
        .compile_fds(protox::compile(&files, ["proto"])?)?;
    Ok(())
}

/// Whether this crate is built with a feature, in capitals.
fn has_feature(name: &str) -> bool {
    std::env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
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
