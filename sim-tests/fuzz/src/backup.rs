//! Backup files.

use bytes::Bytes;
use tally_proto::backup::{MAGIC, Reader, Unreadable, VERSION, records};

use crate::{Pieces, allocation::bounded, choose};

/// A reader holds a block, as it is stored and as it is, and its records.
const BESIDES: usize = 8 << 20;

/// A file as it is, or its parts, put together with right checksums; or the records of a block.
pub(crate) fn file(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, 3) else { return };
    if which == 2 {
        let payload = Bytes::copy_from_slice(bytes);
        // A record of eight bytes is two slices.
        let Some(found) = bounded(bytes.len(), 32, 1024, || records(&payload)) else { return };
        let mut again = Vec::new();
        found.iter().for_each(|(key, value)| record(&mut again, key, value));
        assert!(again == bytes, "records have one encoding");
        return;
    }
    let file = if which == 0 { bytes.to_vec() } else { put_together(bytes) };
    let at_once = bounded(file.len(), 8, BESIDES, || read(&file, file.len().max(1)));
    assert!(read(&file, 7) == at_once, "it is the same in whatever pieces");
}

/// Checksums of all blocks of a backup, if all of it is right.
fn read(file: &[u8], piece: usize) -> Result<Vec<u32>, Unreadable> {
    let mut reader = Reader::new();
    let (mut blocks, mut before) = (Vec::new(), Bytes::new());
    for piece in file.chunks(piece) {
        reader.give(piece);
        while let Some(block) = reader.next_block()? {
            for (key, _) in records(&block).expect("it was read") {
                assert!(before < key, "keys ascend");
                before = Bytes::copy_from_slice(&key);
            }
            blocks.push(crc32c::crc32c(&block));
        }
    }
    let (_, footer) = reader.finish()?;
    assert_eq!(footer.blocks, blocks.len() as u64);
    Ok(blocks)
}

/// The body of the header, then blocks: how they are packed, how many records and bytes each claims, and what is stored.
fn put_together(bytes: &[u8]) -> Vec<u8> {
    let mut pieces = Pieces(bytes);
    let body = pieces.next().unwrap_or_default();
    let mut file = [&MAGIC[..], &VERSION.to_le_bytes(), &length(body.len())].concat();
    file.extend_from_slice(body);
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    for block in pieces {
        let Some((&[packing, count, long, longer], stored)) = block.split_first_chunk() else {
            continue;
        };
        let begin = file.len();
        file.extend_from_slice(&[b'B', packing]);
        file.extend_from_slice(&length(stored.len()));
        file.extend_from_slice(&length(usize::from(u16::from_le_bytes([long, longer]))));
        file.extend_from_slice(&length(usize::from(count)));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&file[begin..]), stored);
        file.extend_from_slice(&crc.to_le_bytes());
        file.extend_from_slice(stored);
    }
    file
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("an input is short").to_le_bytes()
}

/// As a block has it.
pub(crate) fn record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    to.extend_from_slice(&length(key.len()));
    to.extend_from_slice(&length(value.len()));
    to.extend_from_slice(key);
    to.extend_from_slice(value);
}
