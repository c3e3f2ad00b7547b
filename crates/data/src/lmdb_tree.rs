//! The file of an LMDB database, read page by page.
//!
//! Written here instead of bound to liblmdb: that library trusts the file it maps (a damaged one crashes the
//! process, which no test of hostile files would survive, and its bindings are `unsafe` for that reason),
//! wants a lock file, and reading needs little: the format has been the same since 2012. Pages of a power of
//! two bytes; pages 0 and 1 hold the two newest roots ("meta"), of which the later transaction counts; the
//! others form a B+ tree.
//!
//! ```text
//! page    number u64 · pad u16 · flags u16 · lower u16 · upper u16 (overflow: pages u32) · positions of nodes u16 …
//! node    lo u16 · hi u16 · flags u16 · key length u16 · key · value
//!         branch: the child's number is lo | hi << 16 | flags << 32
//!         leaf: the value's length is lo | hi << 16; with the flag `big`, the value is the number of its first overflow page
//! meta    magic u32 · version u32 · address u64 · map size u64 · two databases of 48 bytes · last page u64 · transaction u64
//! database    page size or pad u32 · flags u16 · depth u16 · branch, leaf, overflow pages u64 each · entries u64 · root u64
//! ```

use crate::DataError;
use crate::positioned::PositionedFile;

pub(crate) const MAGIC: u32 = 0xbeef_c0de;
pub(crate) const PAGE_HEADER: usize = 16;
pub(crate) const NODE_HEADER: usize = 8;
pub(crate) const BRANCH: u16 = 0x01;
pub(crate) const LEAF: u16 = 0x02;
pub(crate) const OVERFLOW: u16 = 0x04;
pub(crate) const META: u16 = 0x08;
/// A leaf of values without nodes, of databases with several values a key.
const LEAF2: u16 = 0x20;
pub(crate) const BIG: u16 = 0x01;
/// A value that is itself a database, or several values of one key.
const NESTED: u16 = 0x02 | 0x04;
pub(crate) const NO_PAGE: u64 = u64::MAX;
/// A tree of pages with at least two keys has no more levels for any number of pages.
const MAX_DEPTH: u16 = 32;
const MAX_VALUE_BYTES: u64 = 256 << 20;
const REMEDY: &str = "the file is damaged or not an LMDB database of a 64-bit system: get it again";

/// A read-only database: the main one of an LMDB file.
#[derive(Debug)]
pub(crate) struct Tree {
    file: PositionedFile,
    page_size: usize,
    /// Leaves in the order of their keys, and the running totals of their entries.
    leaves: Vec<u64>,
    ends: Vec<u64>,
}

/// What a leaf says about an entry.
#[derive(Debug)]
pub(crate) struct Entry {
    pub key: Vec<u8>,
    /// Where the value begins in the file.
    pub offset: u64,
    pub len: u64,
}

struct Page {
    number: u64,
    bytes: Vec<u8>,
}

impl Tree {
    /// Walks the tree's branches; of leaves only the number of entries is looked at (12 bytes of memory a leaf).
    pub(crate) fn open(file: PositionedFile) -> Result<Self, DataError> {
        let (page_size, root) = newest_root(&file)?;
        let mut tree = Self { file, page_size, leaves: Vec::new(), ends: Vec::new() };
        if root != NO_PAGE {
            tree.walk(root)?;
        }
        Ok(tree)
    }

    pub(crate) fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    pub(crate) fn file(&self) -> &PositionedFile {
        &self.file
    }

    fn walk(&mut self, root: u64) -> Result<(), DataError> {
        // No tree has more pages than the file: one that refers to a page twice is found by that.
        let mut pages_left = self.file.len() / self.page_size as u64;
        let mut pending = vec![(root, 0)];
        while let Some((number, depth)) = pending.pop() {
            pages_left = pages_left
                .checked_sub(1)
                .ok_or_else(|| self.damaged(number, "its pages refer to each other in a circle"))?;
            let head: [u8; PAGE_HEADER] = self.file.array_at(self.page_offset(number)?)?;
            let flags = u16_at(&head, 10);
            if flags & LEAF2 != 0 {
                return Err(
                    self.damaged(number, "it holds several values a key, which no set of images does")
                );
            }
            if flags & LEAF != 0 {
                let count = self.count_nodes(number, &head)? as u64;
                let end = self.len().saturating_add(count);
                if count > 0 {
                    self.leaves.push(number);
                    self.ends.push(end);
                }
                continue;
            }
            if flags & BRANCH == 0 || depth >= MAX_DEPTH {
                return Err(self.damaged(number, "a page of the tree is neither branch nor leaf"));
            }
            let page = self.page(number)?;
            let count = self.count_nodes(number, &page.bytes)?;
            // The first child is visited first.
            for node in (0..count).rev() {
                let (at, _) = self.node(&page, node)?;
                let parts =
                    [u16_at(&page.bytes, at), u16_at(&page.bytes, at + 2), u16_at(&page.bytes, at + 4)];
                let child = parts.iter().rev().fold(0, |child, &part| child << 16 | u64::from(part));
                pending.push((child, depth + 1));
            }
        }
        Ok(())
    }

    /// Entry `index` in the order of keys.
    pub(crate) fn entry(&self, index: u64) -> Result<Entry, DataError> {
        let (leaf, node) = crate::shards::locate(&self.ends, index);
        let page = self.page(self.leaves[leaf])?;
        let (at, key_len) = self.node(&page, node as usize)?;
        let bytes = &page.bytes;
        let len = u64::from(u16_at(bytes, at)) | u64::from(u16_at(bytes, at + 2)) << 16;
        let flags = u16_at(bytes, at + 4);
        let key_start = at + NODE_HEADER;
        let value_start = key_start + key_len;
        let key = bytes[key_start..value_start].to_vec();
        if flags & NESTED != 0 {
            return Err(
                self.damaged(page.number, "an entry is a database of its own; only flat ones are read")
            );
        }
        if flags & BIG == 0 {
            if value_start as u64 + len > self.page_size as u64 {
                return Err(self.damaged(page.number, "a value reaches beyond its page"));
            }
            let offset = self.page_offset(page.number)? + value_start as u64;
            return Ok(Entry { key, offset, len });
        }
        let Some(first) = bytes.get(value_start..value_start + 8) else {
            return Err(self.damaged(page.number, "a value reaches beyond its page"));
        };
        let first = u64_at(first, 0);
        let start = self.page_offset(first)?;
        let head: [u8; PAGE_HEADER] = self.file.array_at(start)?;
        let room = u64::from(u32_at(&head, 12)) * self.page_size as u64;
        if u16_at(&head, 10) & OVERFLOW == 0 || len + PAGE_HEADER as u64 > room || len > MAX_VALUE_BYTES {
            return Err(
                self.damaged(first, &format!("a value of {len} bytes is not in the pages it should be in"))
            );
        }
        Ok(Entry { key, offset: start + PAGE_HEADER as u64, len })
    }

    /// Reads a page, whose own number and place must agree.
    fn page(&self, number: u64) -> Result<Page, DataError> {
        let mut bytes = vec![0; self.page_size];
        self.file.read_exact_at(self.page_offset(number)?, &mut bytes)?;
        if u64_at(&bytes, 0) != number {
            return Err(self.damaged(number, "a page has another page's number"));
        }
        Ok(Page { number, bytes })
    }

    fn page_offset(&self, number: u64) -> Result<u64, DataError> {
        let offset = number.checked_mul(self.page_size as u64);
        offset.filter(|offset| *offset < self.file.len()).ok_or_else(|| {
            let what = format!("it refers to page {number}, which it does not have; it may be cut short");
            DataError::malformed(self.file.path(), self.file.len(), what, REMEDY)
        })
    }

    /// Nodes of a page, by its header.
    fn count_nodes(&self, number: u64, page: &[u8]) -> Result<usize, DataError> {
        let lower = usize::from(u16_at(page, 12));
        if lower < PAGE_HEADER || lower > self.page_size || lower % 2 != 0 {
            return Err(self.damaged(number, "a page's header contradicts itself"));
        }
        Ok((lower - PAGE_HEADER) / 2)
    }

    /// Where node `node` begins in its page, and the length of its key, which lies within the page.
    fn node(&self, page: &Page, node: usize) -> Result<(usize, usize), DataError> {
        let at = page.bytes.get(PAGE_HEADER + 2 * node..).filter(|rest| rest.len() >= 2);
        let at = at.map(|position| usize::from(u16_at(position, 0)));
        let fits = |at: usize| {
            let head = page.bytes.get(at..at + NODE_HEADER)?;
            let key_len = usize::from(u16_at(head, 6));
            (at + NODE_HEADER + key_len <= page.bytes.len()).then_some((at, key_len))
        };
        at.and_then(fits).ok_or_else(|| self.damaged(page.number, "an entry reaches beyond its page"))
    }

    fn damaged(&self, page: u64, what: &str) -> DataError {
        DataError::malformed(self.file.path(), page.saturating_mul(self.page_size as u64), what, REMEDY)
    }
}

/// The page size and the root of the later of the two newest transactions.
fn newest_root(file: &PositionedFile) -> Result<(usize, u64), DataError> {
    const META_BYTES: usize = PAGE_HEADER + 136;
    let malformed = |offset: u64, what: &str| DataError::malformed(file.path(), offset, what, REMEDY);
    if file.len() < META_BYTES as u64 {
        return Err(malformed(0, "too short for an LMDB database"));
    }
    let first: [u8; META_BYTES] = file.array_at(0)?;
    if u32_at(&first, PAGE_HEADER) != MAGIC {
        return Err(malformed(0, "not an LMDB database"));
    }
    let version = u32_at(&first, PAGE_HEADER + 4);
    if version != 1 {
        return Err(malformed(0, &format!("version {version} of LMDB's format is not known; 1 is")));
    }
    let page_size = u32_at(&first, PAGE_HEADER + 24);
    if !page_size.is_power_of_two() || !(512..=1 << 16).contains(&page_size) {
        return Err(malformed(0, &format!("pages of {page_size} bytes cannot be")));
    }
    let mut newest = (u64_at(&first, PAGE_HEADER + 128), u64_at(&first, PAGE_HEADER + 112));
    let second: [u8; META_BYTES] = file.array_at(page_size.into())?;
    if u32_at(&second, PAGE_HEADER) == MAGIC {
        newest = newest.max((u64_at(&second, PAGE_HEADER + 128), u64_at(&second, PAGE_HEADER + 112)));
    }
    Ok((page_size as usize, newest.1))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
