//! Image sources and the batches drawn from them.
//!
//! [`SourceSpec`] names a source (`cifar10:DIR`, `mnist:DIR`, `images:DIR`, `shapes32`), [`open`] gives it as an
//! [`ImageSource`] of 8-bit pixels, and a [`Loader`] turns it into shuffled batches for the network.
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

mod bounded;
mod channels;
pub mod cifar10;
mod converted;
mod epoch_order;
pub mod error;
pub mod image_folder;
pub mod loader;
pub mod mnist;
mod pickle;
pub mod resize;
pub mod shapes32;
pub mod source;
pub mod spec;

pub use epoch_order::EpochOrder;
pub use error::DataError;
pub use loader::{Batch, Loader, LoaderOptions};
pub use resize::ResizeFilter;
pub use source::{ImageOptions, ImageSource};
pub use spec::{SOURCE_KINDS, SourceKind, SourceSpec, Split, open};
