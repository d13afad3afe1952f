//! Writes `proto/src/generated` anew from the `.proto` files: `cargo run -p tally-proto-generate`.
//!
//! What it writes is committed, so that who builds a node or uses the library does not compile a protobuf
//! compiler first (40 crates). The test says when it was forgotten.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message as _;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let folder = generated();
    generate(&folder)?;
    println!("written: {}", folder.display());
    Ok(())
}

fn proto() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn generated() -> PathBuf {
    proto().join("src/generated")
}

/// The `.proto` files of one package, sorted so that what is made is always the same.
fn files(package: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(proto().join("proto").join(package))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Messages and stubs of both packages, and the descriptors of the public one.
fn generate(into: &Path) -> Done {
    let includes = [proto().join("proto")];
    let mut files = files("tally/v1")?;
    // Reflection serves the public API only.
    let public = protox::compile(&files, &includes)?;
    fs::write(into.join("tally.v1.bin"), public.encode_to_vec())?;
    files.extend(self::files("tally/peer/v1")?);
    let mut config = tonic_prost_build::configure();
    // Answers of all methods are variants of one type (`Answer.response`), as large as the largest of them: what few
    // have and is large stands apart.
    for answer in ["AddLearner", "Promote", "Remove", "TransferLeader", "Drain"] {
        config = config.boxed(format!(".tally.v1.Cluster{answer}Response.plan"));
    }
    config = config.boxed(".tally.v1.ClusterFinalizeUpgradeResponse.plan");
    config
        .out_dir(into)
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .codec_path("crate::codec::Codec")
        .bytes(".")
        .compile_fds(protox::compile(&files, &includes)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, ffi::OsString};

    use super::*;

    fn contents(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
    }

    #[test]
    fn what_is_committed_is_what_the_proto_files_say() {
        let made = tempfile::tempdir().unwrap();
        generate(made.path()).unwrap();
        let (made, committed) = (contents(made.path()), contents(&generated()));
        assert!(made.keys().eq(committed.keys()), "{:?} {:?}", made.keys(), committed.keys());
        for (name, bytes) in made {
            let name = name.display();
            assert!(
                committed[&OsString::from(name.to_string())] == bytes,
                "src/generated/{name} is old: cargo run -p tally-proto-generate"
            );
        }
    }
}
