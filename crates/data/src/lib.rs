//! Image sources and the batches drawn from them.
//!
//! [`SourceSpec`] names a source (`cifar10:DIR`, `lmdb:DIR`, `shapes32`, …; [`SOURCE_KINDS`] has all),
//! [`open`] gives it as an [`ImageSource`] of 8-bit pixels, and a [`Loader`] turns it into shuffled batches
//! for the network.
//!
//! ```
//! use data::{ImageOptions, Loader, LoaderOptions, SourceSpec, open};
//! let spec: SourceSpec = "shapes32".parse()?;
//! let source = open(&spec, &ImageOptions::default())?;
//! let mut loader = Loader::new(source, LoaderOptions { batch_size: 4, seed: 1, ..LoaderOptions::default() })?;
//! let batch = loader.next_batch()?;
//! assert_eq!(batch.shape(), engine::Shape::new(4, 32, 32, 3));
//! assert!(batch.images().iter().all(|value| (-1.0..=1.0).contains(value)));
//! # Ok::<(), data::DataError>(())
//! ```
//!
//! To add a kind of source: one file with a type that implements [`ImageSource`] and its [`SourceKind`],
//! and that kind's line in [`SOURCE_KINDS`].

#![forbid(unsafe_code)]

mod array_file;
mod bounded;
mod channels;
pub mod cifar10;
pub mod converted;
mod epoch_order;
pub mod error;
mod example;
mod fitted;
pub mod image_folder;
mod image_layout;
mod jpeg;
mod lmdb;
mod lmdb_tree;
pub mod loader;
pub mod memory;
pub mod mnist;
mod parquet;
mod parquet_pages;
mod picture;
mod positioned;
pub mod resize;
pub mod shapes32;
mod shards;
pub mod source;
pub mod spec;
pub mod survey;
mod tar_shards;
pub mod target;
mod tfrecord;
pub mod whole_files;
mod zip_archive;

pub use converted::convert;
pub use epoch_order::EpochOrder;
pub use error::DataError;
pub use loader::{Batch, Loader, LoaderOptions};
pub use memory::MemoryImages;
pub use resize::ResizeFilter;
pub use source::{ImageOptions, ImageSource};
pub use spec::{SOURCE_KINDS, SourceKind, SourceSpec, Split, open};
pub use survey::Survey;
pub use target::Conversion;
