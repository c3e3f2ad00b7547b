//! What the paper measures of a trained model.

#![forbid(unsafe_code)]
