//! LevelDB's table files, which TensorFlow keeps the index of a checkpoint in: sorted keys and their values,
//! in blocks.
//!
//! The last 48 bytes are the handles (offset and length) of two blocks and a magic number; the second block
//! has the handles of the blocks of entries. A block ends with its compression and its CRC-32C. Keys leave
//! out what they share with the one before.

use crate::Error;
use protobuf::{Fields, masked_crc};
use std::path::Path;

const FOOTER_BYTES: usize = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
const TRAILER_BYTES: usize = 5;
/// Largest block after unpacking, in bytes.
const MAX_BLOCK_BYTES: usize = 16 << 20;
/// Most bytes of all blocks after unpacking: a table can refer to a block any number of times.
const MAX_TABLE_BYTES: usize = 64 << 20;
/// Most entries; a checkpoint has some for each tensor.
const MAX_ENTRIES: usize = 1 << 18;
/// Longest key, in bytes. An entry of few bytes can repeat a long one.
const MAX_KEY_BYTES: usize = 1 << 10;

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
    let (mut bytes_left, mut entries_left) = (MAX_TABLE_BYTES, MAX_ENTRIES);
    for handle in blocks {
        let block = block(bytes, handle, path)?;
        bytes_left = bytes_left.checked_sub(block.len()).ok_or_else(|| {
            Error::damaged(path, format!("its blocks have more than {MAX_TABLE_BYTES} bytes together"))
        })?;
        for_each_in_block(&block, path, |key, value| {
            entries_left = entries_left
                .checked_sub(1)
                .ok_or_else(|| Error::damaged(path, format!("it has more than {MAX_ENTRIES} entries")))?;
            visit(key, value)
        })?;
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
        if key.len() > MAX_KEY_BYTES {
            return Err(damaged("a key is longer than any name of a tensor"));
        }
        visit(&key, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::push_varint;

    /// A block of these entries (bytes shared with the key before, the rest of the key, value) as it is stored.
    fn block_of(entries: &[(u64, &[u8], &[u8])]) -> Vec<u8> {
        let mut block = Vec::new();
        for (shared, own, value) in entries {
            [*shared, own.len() as u64, value.len() as u64].iter().for_each(|&n| push_varint(&mut block, n));
            block.extend(*own);
            block.extend(*value);
        }
        block.extend([0, 0, 0, 0, 1, 0, 0, 0]);
        block
    }

    /// A table whose root refers to one block `times` over.
    fn table(block: &[u8], times: usize) -> Vec<u8> {
        let (mut bytes, mut place) = (Vec::new(), Vec::new());
        let mut append = |content: &[u8]| {
            place.clear();
            push_varint(&mut place, bytes.len() as u64);
            push_varint(&mut place, content.len() as u64);
            bytes.extend(content);
            bytes.push(0);
            bytes.extend(masked_crc(&[content, &[0]]).to_le_bytes());
            place.clone()
        };
        let handle = append(block);
        let root = append(&block_of(&vec![(0, &b""[..], &handle[..]); times]));
        let mut footer = [vec![0, 0], root].concat();
        footer.resize(FOOTER_BYTES - 8, 0);
        bytes.extend(footer);
        bytes.extend(MAGIC.to_le_bytes());
        bytes
    }

    type Entry = (Vec<u8>, Vec<u8>);

    fn entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
        let mut found = Vec::new();
        let result = for_each_entry(bytes, Path::new("x.index"), |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            Ok(())
        });
        result.map(|()| found).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_leave_out_what_they_share() {
        let found = entries(&table(&block_of(&[(0, b"conv/b", b"1"), (5, b"w", b"2")]), 1)).unwrap();
        assert_eq!(found, [(b"conv/b".to_vec(), b"1".to_vec()), (b"conv/w".to_vec(), b"2".to_vec())]);
        assert!(entries(&table(&block_of(&[(1, b"", b"")]), 1)).unwrap_err().contains("shares more"));
    }

    #[test]
    fn few_bytes_cannot_ask_for_much_memory() {
        // A key that is long once and repeated for three bytes each time.
        let long = vec![b'k'; 2000];
        let error = entries(&table(&block_of(&[(0, &long, b""), (2000, b"", b"")]), 1)).unwrap_err();
        assert!(error.contains("longer than any name"), "{error}");
        // A block that is referred to again and again.
        let error = entries(&table(&block_of(&vec![(0, &b""[..], &b""[..]); 100]), 3000)).unwrap_err();
        assert!(error.contains("more than 262144 entries"), "{error}");
        let large = vec![7; 1 << 20];
        let error = entries(&table(&block_of(&[(0, b"a", &large)]), 70)).unwrap_err();
        assert!(error.contains("67108864 bytes together"), "{error}");
    }
}
