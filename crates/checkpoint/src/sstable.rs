//! LevelDB's table files, which TensorFlow keeps the index of a checkpoint in: sorted keys and their values, in blocks.
//!
//! The last 48 bytes are the handles (offset and length) of two blocks and a magic number; the second block has the handles
//! of the blocks of entries. A block ends with its compression and its CRC-32C. Keys leave out what they share with the one
//! before.

use crate::Error;
use protobuf::{Fields, masked_crc};
use std::path::Path;

const FOOTER_BYTES: usize = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
const TRAILER_BYTES: usize = 5;
/// Largest block after unpacking, in bytes.
const MAX_BLOCK_BYTES: usize = 16 << 20;

/// Calls `visit` with every key and value of the table in `bytes`, in order. `path` is for messages.
///
/// # Errors
/// If the table is damaged, or `visit` fails.
pub(crate) fn for_each_entry(
    bytes: &[u8],
    path: &Path,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let footer = bytes.len().checked_sub(FOOTER_BYTES).map(|at| &bytes[at..]);
    let Some(footer) = footer.filter(|footer| footer[40..] == MAGIC.to_le_bytes()) else {
        let problem = "not the index of a TensorFlow checkpoint, or truncated: it does not end like a table";
        return Err(Error::damaged(path, problem));
    };
    let mut handles = Fields::new(&footer[..40]);
    // The first handle is of a block that nobody fills.
    let root = handle(&mut handles).and_then(|_| handle(&mut handles));
    let root = root.map_err(|problem| Error::damaged(path, format!("its footer is damaged: {problem}")))?;
    let root = block(bytes, root, path)?;
    let mut blocks = Vec::new();
    for_each_in_block(&root, path, |_, value| {
        let handle = handle(&mut Fields::new(value))
            .map_err(|problem| Error::damaged(path, format!("a block's place is damaged: {problem}")))?;
        blocks.push(handle);
        Ok(())
    })?;
    for handle in blocks {
        for_each_in_block(&block(bytes, handle, path)?, path, &mut visit)?;
    }
    Ok(())
}

fn handle(fields: &mut Fields<'_>) -> Result<(u64, u64), &'static str> {
    Ok((fields.varint()?, fields.varint()?))
}

/// A block's content, checked and unpacked.
fn block(bytes: &[u8], (offset, len): (u64, u64), path: &Path) -> Result<Vec<u8>, Error> {
    let damaged = |problem: &str| Error::damaged(path, format!("{problem}, at byte {offset}"));
    let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
    let stored = range.and_then(|(start, len)| {
        let end = start.checked_add(len)?;
        Some((bytes.get(start..end)?, bytes.get(end..end.checked_add(TRAILER_BYTES)?)?))
    });
    let (content, trailer) = stored.ok_or_else(|| damaged("truncated: a block reaches beyond its end"))?;
    let (kind, crc) = trailer.split_at(1);
    if crc != masked_crc(&[content, kind]).to_le_bytes() {
        return Err(damaged("corrupted: the CRC of a block does not match"));
    }
    match kind[0] {
        0 => Ok(content.to_vec()),
        1 => {
            let len = snap::raw::decompress_len(content).unwrap_or(usize::MAX);
            if len > MAX_BLOCK_BYTES {
                return Err(damaged("a block that unpacks to more than 16 MB"));
            }
            let unpacked = snap::raw::Decoder::new().decompress_vec(content);
            unpacked.map_err(|error| damaged(&format!("a block cannot be unpacked ({error})")))
        }
        _ => Err(damaged("a block is compressed in an unknown way")),
    }
}

fn for_each_in_block(
    block: &[u8],
    path: &Path,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let damaged = |problem: &str| Error::damaged(path, format!("a block of its table is damaged: {problem}"));
    // Behind the entries stand offsets to begin from when searching, and how many.
    let count = block.len().checked_sub(4).map(|at| &block[at..]);
    let count = count.map_or(u32::MAX, |bytes| bytes.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b)));
    let restarts = (count as usize).checked_mul(4).and_then(|bytes| bytes.checked_add(4));
    let end = restarts
        .and_then(|bytes| block.len().checked_sub(bytes))
        .ok_or_else(|| damaged("it is too short"))?;
    let mut entries = Fields::new(&block[..end]);
    let mut key = Vec::new();
    while !entries.is_empty() {
        let mut next = || -> Result<_, &'static str> {
            let [shared, own, value] = [entries.varint()?, entries.varint()?, entries.varint()?];
            let len = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
            Ok((len(shared), entries.take(len(own))?, entries.take(len(value))?))
        };
        let (shared, own, value) = next().map_err(damaged)?;
        if shared > key.len() {
            return Err(damaged("a key shares more than there is"));
        }
        key.truncate(shared);
        key.extend_from_slice(own);
        visit(&key, value)?;
    }
    Ok(())
}
