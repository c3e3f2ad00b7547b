//! The pages of a parquet column of byte strings: where they are, and those read last.
//!
//! A page is compressed as a whole, so that one row costs as much as all of its page; rows asked for in any
//! order would have every page read again and again.

use crate::positioned::{FileCursor, PositionedFile};
use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescPtr;
use std::collections::VecDeque;
use std::io::BufReader;
use std::sync::{Arc, Mutex};

/// A file that parquet's readers may share; it remembers where they began to read headers.
pub(crate) struct SharedFile {
    file: Arc<PositionedFile>,
    headers: Mutex<Vec<u64>>,
}

impl SharedFile {
    pub(crate) fn new(file: Arc<PositionedFile>) -> Self {
        Self { file, headers: Mutex::default() }
    }

    pub(crate) fn positioned(&self) -> &Arc<PositionedFile> {
        &self.file
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<FileCursor>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        if let Ok(mut headers) = self.headers.lock() {
            headers.push(start);
        }
        Ok(BufReader::new(FileCursor::new(self.file.clone(), start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let bytes = self.file.bytes_at(start, length as u64);
        bytes.map(Bytes::from).map_err(|error| ParquetError::General(error.to_string()))
    }
}

/// A page's values, a row each; none where a row has none. They share the memory of the unpacked page.
pub(crate) type PageValues = Vec<Option<ByteArray>>;

/// Where the pages of values of one column in one row group are.
#[derive(Debug)]
pub(crate) struct PageIndex {
    /// Each page's first byte and length, with its header.
    places: Vec<(u64, u32)>,
    /// Running totals of their rows.
    ends: Vec<u64>,
}

impl PageIndex {
    /// Reads the headers of all pages. The column has no repeated values, hence a row for each.
    pub(crate) fn read(file: &Arc<PositionedFile>, column: &ColumnChunkMetaData, rows: u64) -> Result<Self> {
        let log = Arc::new(SharedFile::new(file.clone()));
        let mut reader = SerializedPageReader::new(log.clone(), column, whole(rows), None)?;
        let mut index = Self { places: Vec::new(), ends: Vec::new() };
        let mut pages = Vec::new();
        while let Some(PageMetadata { num_rows, num_levels, is_dict }) = reader.peek_next_page()? {
            // Of pages that are neither, only the headers are looked at, before that of this one.
            let header = log.headers.lock().map_or(0, |headers| headers.len().saturating_sub(1));
            reader.skip_next_page()?;
            if !is_dict {
                let rows = num_rows.or(num_levels);
                pages.push((
                    header,
                    rows.ok_or_else(|| contradiction("a page does not say how many rows it has"))?,
                ));
            }
        }
        let (start, len) = column.byte_range();
        let mut headers = log.headers.lock().map(|headers| headers.clone()).unwrap_or_default();
        headers.push(start.saturating_add(len));
        let mut total = 0u64;
        for (header, rows) in pages {
            let (first, next) = (headers[header], headers[header + 1]);
            let len = next.checked_sub(first).and_then(|len| u32::try_from(len).ok());
            index.places.push((first, len.ok_or_else(|| contradiction("a page of more than 4 GiB"))?));
            total = total.saturating_add(rows as u64);
            index.ends.push(total);
        }
        match total == rows {
            true => Ok(index),
            false => Err(contradiction("a row group's pages have another number of rows than it")),
        }
    }

    /// The page that row `row` of the group is in, and its number there.
    pub(crate) fn locate(&self, row: u64) -> (usize, u64) {
        crate::shards::locate(&self.ends, row)
    }

    /// Reads page `page`.
    pub(crate) fn values(
        &self,
        file: &Arc<SharedFile>,
        column: &ColumnChunkMetaData,
        descriptor: ColumnDescPtr,
        page: usize,
    ) -> Result<PageValues> {
        let (offset, len) = self.places[page];
        let before = if page == 0 { 0 } else { self.ends[page - 1] };
        let rows = whole(self.ends[page] - before);
        let location = PageLocation {
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            compressed_page_size: i32::try_from(len)
                .map_err(|_| contradiction("a page of more than 2 GiB"))?,
            first_row_index: 0,
        };
        let mut reader = SerializedPageReader::new(file.clone(), column, rows, Some(vec![location]))?;
        // What lies before the page would be taken for a dictionary.
        if offset != column.byte_range().0 {
            reader.skip_next_page()?;
        }
        let page = reader.get_next_page()?.ok_or_else(|| contradiction("a page is missing"))?;
        let mut pages = VecDeque::new();
        if is_of_dictionary(&page) {
            let mut all = SerializedPageReader::new(file.clone(), column, rows, None)?;
            let first = all.get_next_page()?.filter(Page::is_dictionary_page);
            pages.push_back(first.ok_or_else(|| contradiction("a dictionary is missing"))?);
        }
        pages.push_back(page);
        let has_value = descriptor.max_def_level();
        let reader = get_column_reader(descriptor, Box::new(PagesAtHand(pages)));
        let mut reader: ColumnReaderImpl<ByteArrayType> = get_typed_column_reader(reader);
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (read, _, _) = reader.read_records(rows, Some(&mut levels), None, &mut values)?;
        let mut values = values.into_iter();
        let of_rows: PageValues = match has_value {
            0 => values.map(Some).collect(),
            _ => levels.iter().map(|&level| if level < has_value { None } else { values.next() }).collect(),
        };
        match read == rows && of_rows.len() == rows {
            true => Ok(of_rows),
            false => Err(contradiction("a page has fewer rows than its header says")),
        }
    }
}

/// Pages that have been read, for a column reader.
struct PagesAtHand(VecDeque<Page>);

impl PageReader for PagesAtHand {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        Ok(self.0.pop_front())
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Ok(self.0.front().map(|page| PageMetadata {
            num_rows: None,
            num_levels: page.is_data_page().then(|| page.num_values() as usize),
            is_dict: page.is_dictionary_page(),
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.0.pop_front();
        Ok(())
    }
}

impl Iterator for PagesAtHand {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.pop_front().map(Ok)
    }
}

fn is_of_dictionary(page: &Page) -> bool {
    page.is_data_page() && matches!(page.encoding(), Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY)
}

fn contradiction(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}

/// A number of rows, which is bounded by the file's length.
fn whole(rows: u64) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX)
}

/// The pages read last, as many as go into [`CACHE_BYTES`].
#[derive(Default)]
pub(crate) struct PageCache {
    /// The one used last stands last.
    pages: VecDeque<(PageKey, Arc<PageValues>, usize)>,
    bytes: usize,
}

/// A page: its file's number, its row group's, and its own in there.
pub(crate) type PageKey = (usize, usize, usize);

/// Bytes of values that are kept.
const CACHE_BYTES: usize = 64 << 20;

impl PageCache {
    /// The page, if it is kept.
    pub(crate) fn get(&mut self, key: PageKey) -> Option<Arc<PageValues>> {
        let place = self.pages.iter().rposition(|(kept, ..)| *kept == key)?;
        let page = self.pages.remove(place)?;
        let values = page.1.clone();
        self.pages.push_back(page);
        Some(values)
    }

    /// Keeps a page, and lets go of those that have not been used for longest.
    pub(crate) fn keep(&mut self, key: PageKey, values: Arc<PageValues>) {
        let bytes = values.iter().flatten().map(ByteArray::len).sum::<usize>();
        if bytes > CACHE_BYTES || self.pages.iter().any(|(kept, ..)| *kept == key) {
            return;
        }
        self.pages.push_back((key, values, bytes));
        self.bytes += bytes;
        while self.bytes > CACHE_BYTES {
            let Some((_, _, bytes)) = self.pages.pop_front() else { break };
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_used_last_are_kept() {
        let page = || Arc::new(vec![Some(ByteArray::from(vec![0; CACHE_BYTES / 3])), None]);
        let mut cache = PageCache::default();
        for number in 0..3 {
            cache.keep((0, 0, number), page());
        }
        assert!(cache.get((0, 0, 0)).is_some());
        cache.keep((0, 1, 0), page());
        let kept = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)].map(|key| cache.get(key).is_some());
        assert_eq!(kept, [true, false, true, true]);
        assert_eq!(cache.bytes, CACHE_BYTES / 3 * 3);
        cache.keep((1, 0, 0), Arc::new(vec![Some(ByteArray::from(vec![0; CACHE_BYTES + 1]))]));
        assert!(cache.get((1, 0, 0)).is_none());
    }
}
