//! An LMDB database as LSUN's: values are PNG files, keys the images' numbers, `00000000` and on.
//!
//! The tree is built from its leaves up, which is possible since the keys come in order; [`crate::lmdb_tree`] has the
//! format.

use super::spool::Spool;
use super::{Item, Writer, png};
use crate::lmdb_tree::{BIG, BRANCH, LEAF, MAGIC, META, NO_PAGE, NODE_HEADER, OVERFLOW, PAGE_HEADER};
use crate::{DataError, ImageSource};
use engine::ImageShape;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const PAGE: usize = 4096;
/// Longest node in a leaf: two must fit. Longer values have pages of their own.
const MAX_NODE: usize = (((PAGE - PAGE_HEADER) / 2) & !1) - 2;

struct Database {
    folder: PathBuf,
    spool: Spool,
}

pub(super) fn open(path: &Path, _: u64, _: ImageShape) -> Result<Box<dyn Writer + Send + Sync>, DataError> {
    std::fs::create_dir_all(path).map_err(|e| DataError::io(path, "made", e))?;
    Ok(Box::new(Database { folder: path.into(), spool: Spool::open(&path.join("values"))? }))
}

impl Writer for Database {
    fn written(&self) -> u64 {
        self.spool.len()
    }

    fn encode(&self, item: &Item<'_>) -> Result<Vec<u8>, DataError> {
        png(item)
    }

    fn push(&mut self, _: &Item<'_>, encoded: Vec<u8>) -> Result<(), DataError> {
        self.spool.push(&encoded)
    }

    fn flush(&mut self) -> Result<(), DataError> {
        self.spool.flush()
    }

    fn finish(self: Box<Self>, _: &dyn ImageSource) -> Result<(), DataError> {
        let path = self.folder.join("data.mdb");
        let failed = |e| DataError::io(&path, "written", e);
        let mut tree = TreeWriter::create(&path).map_err(failed)?;
        self.spool
            .for_each(|index, value| tree.push(format!("{index:08}").as_bytes(), value).map_err(failed))?;
        tree.finish().map_err(failed)?;
        Spool::remove(&self.folder.join("values"))
    }
}

/// A tree that grows at its right edge.
struct TreeWriter {
    out: BufWriter<File>,
    next_page: u64,
    leaf: PageBuilder,
    /// The finished leaves: first key and page.
    leaves: Vec<(Vec<u8>, u64)>,
    overflow_pages: u64,
    entries: u64,
}

impl TreeWriter {
    fn create(path: &Path) -> std::io::Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        // The two meta pages are written last.
        out.write_all(&[0; 2 * PAGE])?;
        let leaf = PageBuilder::new(LEAF);
        Ok(Self { out, next_page: 2, leaf, leaves: Vec::new(), overflow_pages: 0, entries: 0 })
    }

    fn push(&mut self, key: &[u8], value: &[u8]) -> std::io::Result<()> {
        let is_big = NODE_HEADER + key.len() + value.len() > MAX_NODE;
        let big;
        let stored = if is_big {
            big = self.write_overflow(value)?.to_le_bytes();
            &big
        } else {
            value
        };
        let length = value.len() as u32;
        let node = node([length as u16, (length >> 16) as u16, if is_big { BIG } else { 0 }], key, stored);
        if !self.leaf.fits(&node) {
            self.close_leaf()?;
        }
        if self.leaf.is_empty() {
            self.leaves.push((key.to_vec(), 0));
        }
        self.leaf.push(&node);
        self.entries += 1;
        Ok(())
    }

    fn write_overflow(&mut self, value: &[u8]) -> std::io::Result<u64> {
        let number = self.next_page;
        let pages = (PAGE_HEADER + value.len()).div_ceil(PAGE);
        let mut header = page_header(number, OVERFLOW);
        header[12..16].copy_from_slice(&(pages as u32).to_le_bytes());
        self.out.write_all(&header)?;
        self.out.write_all(value)?;
        self.out.write_all(&vec![0; pages * PAGE - PAGE_HEADER - value.len()])?;
        self.next_page += pages as u64;
        self.overflow_pages += pages as u64;
        Ok(number)
    }

    fn write_page(&mut self, page: PageBuilder) -> std::io::Result<u64> {
        let number = self.next_page;
        self.out.write_all(&page.finish(number))?;
        self.next_page += 1;
        Ok(number)
    }

    fn close_leaf(&mut self) -> std::io::Result<()> {
        let leaf = std::mem::replace(&mut self.leaf, PageBuilder::new(LEAF));
        if !leaf.is_empty() {
            let number = self.write_page(leaf)?;
            if let Some(last) = self.leaves.last_mut() {
                last.1 = number;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<()> {
        self.close_leaf()?;
        let mut level = std::mem::take(&mut self.leaves);
        let (leaf_pages, mut branch_pages) = (level.len() as u64, 0);
        let mut depth = u16::from(!level.is_empty());
        while level.len() > 1 {
            let mut above = Vec::new();
            let mut page = PageBuilder::new(BRANCH);
            let mut first = Vec::new();
            for (key, child) in level {
                let parts = [child as u16, (child >> 16) as u16, (child >> 32) as u16];
                if !page.fits(&node(parts, &key, &[])) {
                    let full = std::mem::replace(&mut page, PageBuilder::new(BRANCH));
                    above.push((std::mem::take(&mut first), self.write_page(full)?));
                }
                // The first child of a branch needs no key.
                match page.is_empty() {
                    true => {
                        page.push(&node(parts, &[], &[]));
                        first = key;
                    }
                    false => page.push(&node(parts, &key, &[])),
                }
            }
            above.push((first, self.write_page(page)?));
            branch_pages += above.len() as u64;
            level = above;
            depth += 1;
        }
        let root = level.first().map_or(NO_PAGE, |(_, page)| *page);
        let database = Main { depth, branch_pages, leaf_pages, root };
        let empty = Main { depth: 0, branch_pages: 0, leaf_pages: 0, root: NO_PAGE };
        let metas = [self.meta(0, &empty), self.meta(1, &database)].concat();
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&metas)?;
        self.out.into_inner()?.sync_all()
    }

    /// Meta page `transaction`, as transaction 0 (nothing yet) and transaction 1 (all) left them.
    fn meta(&self, transaction: u64, main: &Main) -> Vec<u8> {
        let mut page = page_header(transaction, META).to_vec();
        let is_empty = main.root == NO_PAGE;
        let last_page = if is_empty { 1 } else { self.next_page - 1 };
        page.extend(MAGIC.to_le_bytes());
        page.extend(1u32.to_le_bytes());
        page.extend(0u64.to_le_bytes());
        page.extend((self.next_page * PAGE as u64).to_le_bytes());
        // The database of free pages, whose keys are numbers: empty. Its pad holds the page size.
        page.extend((PAGE as u32).to_le_bytes());
        page.extend(8u16.to_le_bytes());
        page.extend([0; 2 + 4 * 8]);
        page.extend(NO_PAGE.to_le_bytes());
        page.extend([0; 6]);
        page.extend(main.depth.to_le_bytes());
        let (overflow, entries) = if is_empty { (0, 0) } else { (self.overflow_pages, self.entries) };
        for count in
            [main.branch_pages, main.leaf_pages, overflow, entries, main.root, last_page, transaction]
        {
            page.extend(count.to_le_bytes());
        }
        page.resize(PAGE, 0);
        page
    }
}

/// What a meta page says of the main database.
struct Main {
    depth: u16,
    branch_pages: u64,
    leaf_pages: u64,
    root: u64,
}

fn page_header(number: u64, flags: u16) -> [u8; PAGE_HEADER] {
    let mut header = [0; PAGE_HEADER];
    header[..8].copy_from_slice(&number.to_le_bytes());
    header[10..12].copy_from_slice(&flags.to_le_bytes());
    header
}

/// A node, of even length.
fn node(parts: [u16; 3], key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut node = Vec::with_capacity(NODE_HEADER + key.len() + value.len() + 1);
    for part in parts.into_iter().chain([key.len() as u16]) {
        node.extend(part.to_le_bytes());
    }
    node.extend_from_slice(key);
    node.extend_from_slice(value);
    node.resize(node.len().next_multiple_of(2), 0);
    node
}

/// A branch or leaf being filled: positions from the front, nodes from the back.
struct PageBuilder {
    flags: u16,
    positions: Vec<u16>,
    /// The last node first.
    upper: usize,
    bytes: Vec<u8>,
}

impl PageBuilder {
    fn new(flags: u16) -> Self {
        Self { flags, positions: Vec::new(), upper: PAGE, bytes: vec![0; PAGE] }
    }

    fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    fn lower(&self) -> usize {
        PAGE_HEADER + 2 * self.positions.len()
    }

    fn fits(&self, node: &[u8]) -> bool {
        self.lower() + 2 + node.len() <= self.upper
    }

    fn push(&mut self, node: &[u8]) {
        let end = self.upper;
        self.upper -= node.len();
        self.bytes[self.upper..end].copy_from_slice(node);
        self.positions.push(self.upper as u16);
    }

    fn finish(mut self, number: u64) -> Vec<u8> {
        let mut header = page_header(number, self.flags);
        header[12..14].copy_from_slice(&(self.lower() as u16).to_le_bytes());
        header[14..16].copy_from_slice(&(self.upper as u16).to_le_bytes());
        self.bytes[..PAGE_HEADER].copy_from_slice(&header);
        for (number, position) in self.positions.iter().enumerate() {
            self.bytes[PAGE_HEADER + 2 * number..][..2].copy_from_slice(&position.to_le_bytes());
        }
        self.bytes
    }
}
