use super::*;

fn header() -> Header {
    Header {
        cluster_id: 7,
        restore_epoch: 1,
        revision: 42,
        log_time_ms: 1000,
        applied_index: 50,
        applied_term: 3,
        wall_time_ms: 1_700_000_000_000,
        counters: 3,
        keys: 2,
        idempotency_keys: 1,
        users: 0,
        auth_enabled: false,
        auth_last_id: 0,
        version: "0.1.0".into(),
    }
}

/// Keys and values.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn sample() -> (Records, Vec<u8>, Footer) {
    // Some that compress well, and one that does not at all.
    let mut noise = vec![0u8; 300_000];
    let mut seed = 1u32;
    for byte in &mut noise {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (seed >> 24) as u8;
    }
    let all: Records = vec![
        (b"\x10a".to_vec(), b"one".to_vec()),
        (b"\x10b".to_vec(), vec![]),
        (b"\x10c".to_vec(), vec![b'x'; 200_000]),
        (b"\x11a".to_vec(), vec![b'y'; 200_000]),
        (b"\x11b".to_vec(), noise),
        (b"\x30k".to_vec(), b"answer".to_vec()),
    ];
    let mut writer = Writer::new(&header());
    let mut file = Vec::new();
    for (key, value) in &all {
        writer.record(key, value);
        file.extend_from_slice(&writer.take());
    }
    let footer = writer.finish();
    file.extend_from_slice(&writer.take());
    (all, file, footer)
}

fn read(pieces: &[&[u8]]) -> Result<(Vec<Bytes>, Header, Footer), Unreadable> {
    let mut reader = Reader::new();
    let mut blocks = Vec::new();
    for piece in pieces {
        reader.give(piece);
        while let Some(block) = reader.next_block()? {
            blocks.push(block);
        }
    }
    let (header, footer) = reader.finish()?;
    Ok((blocks, header, footer))
}

#[test]
fn what_is_written_is_read_in_pieces_of_any_size() {
    let (all, file, written) = sample();
    for size in [1, 1000, file.len()] {
        let pieces: Vec<&[u8]> = file.chunks(size).collect();
        let (blocks, found, footer) = read(&pieces).unwrap();
        assert_eq!((found, footer), (header(), written));
        let records: Vec<_> = blocks.iter().flat_map(|block| records(block).unwrap()).collect();
        let records: Vec<_> = records.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        assert_eq!(records, all);
        assert!(blocks.len() > 2 && blocks.len() as u64 == footer.blocks);
    }
    assert!(file.len() < 350_000, "what can be is compressed: {}", file.len());
    assert_eq!(sample().1, file, "the same records give the same bytes");
}

#[test]
fn every_changed_byte_and_every_cut_is_found() {
    let (_, file, _) = sample();
    let mut places: Vec<usize> = (0..200).chain(file.len() - 200..file.len()).collect();
    places.extend((200..file.len() - 200).step_by(9973));
    for at in places {
        let mut changed = file.clone();
        changed[at] ^= 0x10;
        assert!(read(&[&changed]).is_err(), "byte {at} was changed");
        assert!(read(&[&file[..at]]).is_err(), "cut at byte {at}");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(matches!(read(&[&longer]), Err(Unreadable::Damaged { .. })));
    assert_eq!(read(&[b"TALLYSNP and more"]).unwrap_err(), Unreadable::NoBackup);
    assert!(matches!(read(&[b""]), Err(Unreadable::CutOff { offset: 0 })));
    let mut newer = file.clone();
    newer[8] = 3;
    assert_eq!(read(&[&newer]).unwrap_err(), Unreadable::NewerFormat(3));
}

#[test]
fn an_exchanged_a_doubled_and_a_lost_block_are_found() {
    let (_, file, _) = sample();
    let head = header().encode(VERSION).len();
    let mut ends = vec![head];
    while file[ends[ends.len() - 1]] == KIND_BLOCK {
        let at = ends[ends.len() - 1];
        let stored = (&file[at + 2..]).get_u32_le() as usize;
        ends.push(at + BLOCK_PREFIX_BYTES + stored);
    }
    let block = |at: usize| &file[ends[at]..ends[at + 1]];
    let (first, foot) = (&file[..head], &file[ends[ends.len() - 1]..]);
    let rest = &file[ends[2]..ends[ends.len() - 1]];
    assert!(read(&[first, block(0), block(1), rest, foot]).is_ok());
    assert!(read(&[first, block(1), block(0), rest, foot]).is_err());
    assert!(read(&[first, block(0), block(0), block(1), rest, foot]).is_err());
    assert!(read(&[first, block(0), rest, foot]).is_err());
}

fn frozen(version: u32) -> (usize, String, Vec<u8>) {
    let header = Header { counters: 1, keys: 0, idempotency_keys: 0, ..header() };
    let mut writer = Writer::of_version(&header, version);
    writer.record(b"\x10a", b"v");
    writer.finish();
    let file = writer.take();
    let digest: [u8; 32] = Sha256::digest(&file).into();
    (file.len(), digest.iter().map(|byte| format!("{byte:02x}")).collect(), file.to_vec())
}

/// Pins the bytes of each version: a failure here means that old backups can't be read.
#[test]
fn the_format_is_frozen() {
    for (version, length, digest) in FROZEN {
        let (found_length, found, file) = frozen(version);
        assert_eq!((found_length, found.as_str()), (length, digest), "version {version}");
        let (_, _, footer) = read(&[&file]).unwrap();
        let is_sum = footer.data_hash == tally_state_hash::Sum::of(b"\x10a", b"v").to_bytes();
        assert_eq!(is_sum, version == VERSION, "a version's hashes are its own");
    }
}

const FROZEN: [(u32, usize, &str); 2] = [
    (1, 321, "5ff620c9d1d25263cfe0c156df77be49f9b459dab5b13bb05c69e90a96c843a4"),
    (2, 321, "8f3ab2d8394636e41b88a8edf64a99eadc7548b10aa6c9064099db7dabfec520"),
];
