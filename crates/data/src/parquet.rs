//! Parquet files of images, as data sets are downloaded from the Hugging Face hub: a column of structs with the file's
//! `bytes`, often beside a `label`.

use crate::fitted::{self, PictureSet, Place};
use crate::picture::{DECODING, Picture};
use crate::positioned::{FileCursor, PositionedFile};
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec, shards};
use bytes::Bytes;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
/// A file that parquet's readers may share.
struct SharedFile(Arc<PositionedFile>);

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<FileCursor>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::new(FileCursor::new(self.0.clone(), start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.0.bytes_at(start, length as u64);
        bytes.map(Bytes::from).map_err(|error| ParquetError::General(error.to_string()))
    }
}

/// One file.
struct Shard {
    file: Arc<SharedFile>,
    metadata: Arc<ParquetMetaData>,
    /// The column of images.
    column: usize,
    /// Running totals of the row groups' rows.
    ends: Vec<u64>,
}

/// The images of all files, by row.
struct ParquetImages {
    shards: Vec<Shard>,
    ends: Vec<u64>,
    labels: Option<Vec<Option<u32>>>,
}

impl ParquetImages {
    fn open(files: &[PathBuf]) -> Result<Self, DataError> {
        let mut set = Self { shards: Vec::new(), ends: Vec::new(), labels: Some(Vec::new()) };
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

    fn locate(&self, index: u64) -> (&Shard, u64) {
        let (shard, row) = shards::locate(&self.ends, index);
        (&self.shards[shard], row)
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = Arc::new(SharedFile(Arc::new(PositionedFile::open(path)?)));
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
        }
        Ok(Self { file, metadata: Arc::new(metadata), column, ends })
    }

    fn path(&self) -> &Path {
        self.file.0.path()
    }

    fn reader<T: DataType>(&self, group: usize, column: usize) -> Result<ColumnReaderImpl<T>, ParquetError> {
        let group = self.metadata.row_group(group);
        let rows = usize::try_from(group.num_rows()).unwrap_or(usize::MAX);
        let pages = SerializedPageReader::new(self.file.clone(), group.column(column), rows, None)?;
        let schema = self.metadata.file_metadata().schema_descr_ptr();
        let reader = parquet::column::reader::get_column_reader(schema.column(column), Box::new(pages));
        Ok(get_typed_column_reader(reader))
    }

    /// The image's file in row `row`; none where the row has none.
    fn image(&self, row: u64) -> Result<Option<Vec<u8>>, ParquetError> {
        let (group, row) = shards::locate(&self.ends, row);
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        guarded(|| {
            let mut reader = self.reader::<ByteArrayType>(group, self.column)?;
            reader.skip_records(row as usize)?;
            reader.read_records(1, Some(&mut levels), None, &mut values)
        })?;
        Ok(values.first().map(|value| value.data().to_vec()))
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
        let (shard, row) = self.locate(index);
        let origin = shard.path().join(format!("row {row}"));
        let bytes = shard.image(row).map_err(|e| damaged(&origin, e))?;
        let bytes = bytes.ok_or_else(|| DataError::damaged(&origin, None, "the row has no image"))?;
        Picture::decode(&bytes, &origin, None)
    }

    fn place(&self, index: u64) -> Place<'_> {
        let (shard, row) = self.locate(index);
        Place { path: shard.path().join(format!("row {row}")).into(), offset: None }
    }

    fn label(&self, index: u64) -> Option<u32> {
        *self.labels.as_ref()?.get(index as usize)?
    }

    fn description(&self) -> String {
        let first = self.shards.first().map_or(Path::new(""), Shard::path);
        let more = match self.shards.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more files", count - 1),
        };
        format!("{} images from {}{more}, {DECODING}", PictureSet::len(self), first.display())
    }
}

/// Calls the library, some of whose decoders panic on damaged pages instead of saying so. Nothing that it had in hand is
/// used afterwards.
fn guarded<T>(call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(ParquetError::General("its content contradicts itself, and the decoder gave up".into()))
    })
}

fn damaged(path: &Path, error: ParquetError) -> DataError {
    DataError::damaged(path, None, error.to_string())
}
