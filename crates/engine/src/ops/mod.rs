//! The operations, one file each: what it computes, the method that records it, and how its gradient is derived.

pub mod activation;
pub mod add;
pub mod attention;
pub mod concat;
pub mod conv;
pub mod dropout;
pub mod group_norm;
pub mod heads;
pub mod normals;
pub mod pool;
pub mod scale_shift;
pub mod sinusoid;
pub mod softmax;
pub mod space_to_depth;
pub mod squared_error;
pub mod upsample;
pub mod weighted_sum;

pub use attention::Attention;
pub use conv::{Conv, Padding};
pub use dropout::Dropout;
pub use group_norm::GroupNorm;
pub use pool::Pool;
pub use sinusoid::Sinusoid;
