//! Parquet files of images, as data sets are downloaded from the Hugging Face hub: a column of structs with
//! the file's `bytes`, often beside a `label`.

use crate::fitted::{self, PictureSet, Place};
use crate::parquet_pages::{PageCache, PageIndex, SharedFile};
use crate::picture::{DECODING, Picture};
use crate::positioned::PositionedFile;
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec, shards};
use parquet::basic::{Compression, Type};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::Length;
use parquet::file::serialized_reader::SerializedPageReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub(crate) static KIND: SourceKind = SourceKind {
    name: "parquet",
    form: "parquet:FILE|DIR[:train|:test]",
    about: "parquet files as downloaded from the Hugging Face hub, one or a folder of them",
    takes_path: true,
    takes_split: true,
    open,
};

fn open(spec: &SourceSpec, options: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    let is_shard = |name: &str| name.ends_with(".parquet");
    let files = shards::list(spec.required_path()?, spec.split(), is_shard, "*.parquet file")?;
    fitted::open(ParquetImages::open(&files)?, options, Some(3))
}

/// Columns of images and of classes, by name; the first found counts.
const IMAGES: [&str; 9] =
    ["image.bytes", "img.bytes", "jpg.bytes", "png.bytes", "image", "img", "jpg", "png", "bytes"];
const LABELS: [&str; 5] = ["label", "labels", "class", "fine_label", "cls"];

/// One file.
struct Shard {
    file: Arc<SharedFile>,
    metadata: Arc<ParquetMetaData>,
    /// The column of images.
    column: usize,
    /// Running totals of the row groups' rows.
    ends: Vec<u64>,
    /// Of each row group, once it is asked for, where its images' pages are.
    indices: Vec<OnceLock<PageIndex>>,
}

/// The images of all files, by row.
struct ParquetImages {
    shards: Vec<Shard>,
    ends: Vec<u64>,
    labels: Option<Vec<Option<u32>>>,
    /// Pages of all files.
    cache: Mutex<PageCache>,
}

impl ParquetImages {
    fn open(files: &[PathBuf]) -> Result<Self, DataError> {
        let mut set =
            Self { shards: Vec::new(), ends: Vec::new(), labels: Some(Vec::new()), cache: Mutex::default() };
        for path in files {
            let shard = Shard::open(path)?;
            let labels = shard.labels()?;
            set.labels = set.labels.zip(labels).map(|(mut all, labels)| {
                all.extend(labels);
                all
            });
            let total = set.ends.last().unwrap_or(&0) + shard.ends.last().unwrap_or(&0);
            set.ends.push(total);
            set.shards.push(shard);
        }
        Ok(set)
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = Arc::new(SharedFile::new(Arc::new(PositionedFile::open(path)?)));
        let metadata = guarded(|| ParquetMetaDataReader::new().parse_and_finish(&*file));
        let metadata = metadata.map_err(|e| damaged(path, e))?;
        let schema = metadata.file_metadata().schema_descr_ptr();
        let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
        let usable = |column: usize| {
            let descriptor = schema.column(column);
            descriptor.physical_type() == Type::BYTE_ARRAY && descriptor.max_rep_level() == 0
        };
        let known = |name: &&str| names.iter().position(|found| found == *name).filter(|&at| usable(at));
        let any = || (0..names.len()).find(|&at| names[at].ends_with(".bytes") && usable(at));
        let Some(column) = IMAGES.iter().find_map(known).or_else(any) else {
            let what = format!("no column of images among {}", names.join(", "));
            let remedy = "it must have a column `image` with the files' bytes, as the hub's image sets have";
            return Err(DataError::malformed(path, None, what, remedy));
        };
        let mut total = 0u64;
        let mut ends = Vec::new();
        for group in metadata.row_groups() {
            let rows = u64::try_from(group.num_rows()).unwrap_or(u64::MAX);
            total = total.saturating_add(rows);
            // A row without a byte of its own would be one without an image.
            if total > file.len() || column >= group.num_columns() {
                let what = "its row groups contradict its schema or have too many rows";
                return Err(DataError::damaged(path, None, what));
            }
            ends.push(total);
            check_compression(path, group.column(column))?;
        }
        let indices = ends.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { file, metadata: Arc::new(metadata), column, ends, indices })
    }

    fn path(&self) -> &Path {
        self.file.positioned().path()
    }

    fn reader<T: DataType>(&self, group: usize, column: usize) -> Result<ColumnReaderImpl<T>, ParquetError> {
        let group = self.metadata.row_group(group);
        let rows = usize::try_from(group.num_rows()).unwrap_or(usize::MAX);
        let pages = SerializedPageReader::new(self.file.clone(), group.column(column), rows, None)?;
        let schema = self.metadata.file_metadata().schema_descr_ptr();
        let reader = parquet::column::reader::get_column_reader(schema.column(column), Box::new(pages));
        Ok(get_typed_column_reader(reader))
    }

    /// The image's file in row `row`; none where the row has none. `number` is that of this file among all in
    /// `cache`.
    fn image(
        &self,
        number: usize,
        row: u64,
        cache: &Mutex<PageCache>,
    ) -> Result<Option<ByteArray>, ParquetError> {
        let (group, row) = shards::locate(&self.ends, row);
        let index = self.index(group)?;
        let (page, row) = index.locate(row);
        let key = (number, group, page);
        let cache = || cache.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = cache().get(key);
        let values = match kept {
            Some(values) => values,
            None => {
                let column = self.metadata.row_group(group).column(self.column);
                let descriptor = self.metadata.file_metadata().schema_descr_ptr().column(self.column);
                let values = guarded(|| index.values(&self.file, column, descriptor, page)).map(Arc::new)?;
                cache().keep(key, values.clone());
                values
            }
        };
        Ok(values[row as usize].clone())
    }

    /// Where the pages of a row group are.
    fn index(&self, group: usize) -> Result<&PageIndex, ParquetError> {
        if let Some(index) = self.indices[group].get() {
            return Ok(index);
        }
        let metadata = self.metadata.row_group(group);
        let rows = u64::try_from(metadata.num_rows()).unwrap_or(u64::MAX);
        let column = metadata.column(self.column);
        let index = guarded(|| PageIndex::read(self.file.positioned(), column, rows))?;
        Ok(self.indices[group].get_or_init(|| index))
    }

    /// The classes of all rows, where the file has them.
    fn labels(&self) -> Result<Option<Vec<Option<u32>>>, DataError> {
        let schema = self.metadata.file_metadata().schema_descr_ptr();
        let is_label = |name: &&str| {
            schema.columns().iter().position(|column| {
                column.path().string() == **name
                    && column.physical_type() == Type::INT64
                    && column.max_rep_level() == 0
            })
        };
        let Some(column) = LABELS.iter().find_map(is_label) else { return Ok(None) };
        let has = schema.column(column).max_def_level();
        let mut labels = Vec::new();
        for group in 0..self.metadata.num_row_groups() {
            check_compression(self.path(), self.metadata.row_group(group).column(column))?;
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let rows = usize::try_from(self.metadata.row_group(group).num_rows()).unwrap_or(usize::MAX);
            let read = guarded(|| {
                let mut reader = self.reader::<Int64Type>(group, column)?;
                reader.read_records(rows, Some(&mut levels), None, &mut values)
            });
            read.map_err(|e| damaged(self.path(), e))?;
            let mut values = values.into_iter();
            match has {
                0 => labels.extend(values.map(|value| u32::try_from(value).ok())),
                _ => labels.extend(levels.iter().map(|&level| {
                    if level < has { None } else { values.next().and_then(|value| value.try_into().ok()) }
                })),
            }
        }
        Ok(Some(labels))
    }
}

impl PictureSet for ParquetImages {
    fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn picture(&self, index: u64) -> Result<Picture, DataError> {
        let (number, row) = shards::locate(&self.ends, index);
        let shard = &self.shards[number];
        let origin = shard.path().join(format!("row {row}"));
        let bytes = shard.image(number, row, &self.cache).map_err(|e| damaged(&origin, e))?;
        let bytes = bytes.ok_or_else(|| DataError::damaged(&origin, None, "the row has no image"))?;
        Picture::decode(bytes.data(), &origin, None)
    }

    fn place(&self, index: u64) -> Place<'_> {
        let (number, row) = shards::locate(&self.ends, index);
        Place { path: self.shards[number].path().join(format!("row {row}")).into(), offset: None }
    }

    fn label(&self, index: u64) -> Option<u32> {
        *self.labels.as_ref()?.get(index as usize)?
    }

    fn description(&self) -> String {
        let first = self.shards.first().map_or(Path::new(""), Shard::path);
        let more = shards::and_more(self.shards.len(), "files");
        format!("{} images from {}{more}, {DECODING}", PictureSet::len(self), first.display())
    }
}

/// Refuses a column whose pages are compressed by what could unpack to more than they say that they have.
fn check_compression(path: &Path, column: &ColumnChunkMetaData) -> Result<(), DataError> {
    use Compression::{LZ4_RAW, SNAPPY, UNCOMPRESSED, ZSTD};
    match column.compression() {
        UNCOMPRESSED | SNAPPY | ZSTD(_) | LZ4_RAW => Ok(()),
        other => {
            let name = column.column_path().string();
            let what = format!("its column `{name}` is compressed by {other:?}, which is not read here");
            let remedy = "write it again with compression = \"zstd\" or \"snappy\"";
            Err(DataError::malformed(path, None, what, remedy))
        }
    }
}

/// Calls the library, some of whose decoders panic on damaged pages instead of saying so. Nothing that it had
/// in hand is used afterwards.
fn guarded<T>(call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(ParquetError::General("its content contradicts itself, and the decoder gave up".into()))
    })
}

fn damaged(path: &Path, error: ParquetError) -> DataError {
    DataError::damaged(path, None, error.to_string())
}
