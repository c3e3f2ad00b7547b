//! The readers against files by other writers, wrong files, and mutated files.

mod cifar10;
mod files;
mod hostile;
mod hostile_sources;
mod image_folder;
mod mnist;
mod real_data;
mod sources;
