//! Snapshot files.

use bytes::Bytes;
use tally_storage::{
    disk::{Disk, OpenMode},
    simulated_disk::SimulatedDisk,
    snapshot::{
        format::{Block, Header, MAGIC, VERSION},
        reader::SnapshotFile,
        writer::SnapshotWriter,
    },
};

use crate::{Pieces, allocation::bounded, choose, now};

/// A file as it is, or its parts, put together with right checksums.
pub(crate) fn file(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, 2) else { return };
    let file = if which == 0 { bytes.to_vec() } else { put_together(bytes) };
    let disk = SimulatedDisk::new(1);
    now(async {
        let mount = disk.mount();
        let mut made = mount.open("one.snap", OpenMode::CreateNew).await.expect("it is not there");
        made.write_at(0, &file).await.expect("there is room");
    });
    // A record of a block is eight bytes and two slices.
    let read = bounded(file.len(), 32, 64 * 1024, || now(read(&disk)));
    let Ok((header, blocks)) = read else { return };
    let mut keys = blocks.iter().flatten().map(|(key, _)| key);
    let mut before: &[u8] = &[];
    assert!(keys.all(|key| std::mem::replace(&mut before, key) < &key[..]), "keys ascend");
    if blocks.iter().any(Vec::is_empty) {
        // No writer makes an empty block; a reader may take it.
        return;
    }
    now(async {
        let mount = disk.mount();
        let again = mount.open("two.snap", OpenMode::CreateNew).await.expect("it is not there");
        let mut writer = SnapshotWriter::begin(again, &header).await.expect("there is room");
        for records in &blocks {
            let mut block = Block::default();
            records.iter().for_each(|(key, value)| block.push(key, value));
            writer.block(&block).await.expect("there is room");
        }
        writer.finish().await.expect("there is room");
    });
    let contents = disk.contents();
    assert!(contents["two.snap"] == file, "a snapshot has one encoding");
}

type Blocks = Vec<Vec<(Bytes, Bytes)>>;

async fn read(disk: &SimulatedDisk) -> Result<(Header, Blocks), String> {
    let mount = disk.mount();
    let told = |error: tally_storage::snapshot::reader::SnapshotError| error.to_string();
    let mut file = SnapshotFile::open(&mount, "one.snap").await.map_err(told)?;
    let mut blocks = Vec::new();
    while let Some(block) = file.next_block().await.map_err(told)? {
        blocks.push(block);
    }
    Ok((file.header().clone(), blocks))
}

/// The body of the header, then blocks: how many records each claims, and its payload.
pub(crate) fn put_together(bytes: &[u8]) -> Vec<u8> {
    let mut pieces = Pieces(bytes);
    let body = pieces.next().unwrap_or_default();
    let mut file = [&MAGIC[..], &VERSION.to_le_bytes(), &length(body)].concat();
    file.extend_from_slice(body);
    seal(&mut file, 0);
    let (mut blocks, mut records) = (0u64, 0u64);
    for (&claimed, payload) in pieces.filter_map(<[u8]>::split_first) {
        let begin = file.len();
        file.push(b'B');
        file.extend_from_slice(&length(payload));
        file.extend_from_slice(&u32::from(claimed).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&file[begin..]), payload);
        file.extend_from_slice(&crc.to_le_bytes());
        file.extend_from_slice(payload);
        (blocks, records) = (blocks + 1, records + u64::from(claimed));
    }
    file.push(b'E');
    file.extend_from_slice(&blocks.to_le_bytes());
    file.extend_from_slice(&records.to_le_bytes());
    seal(&mut file, 0);
    file
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("an input is short").to_le_bytes()
}

fn seal(file: &mut Vec<u8>, from: usize) {
    let crc = crc32c::crc32c(&file[from..]);
    file.extend_from_slice(&crc.to_le_bytes());
}
