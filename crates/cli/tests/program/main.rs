//! The program from outside: what it writes, says and exits with.

mod ablating;
mod calls;
mod compressing;
mod data;
mod ddpm;
mod denoising;
mod devices;
mod evaluating;
mod exporting;
mod importing;
mod inception;
mod interpolating;
mod inverting;
mod likelihood;
mod measuring;
mod progressing;
mod reporting;
mod sampling;
mod stopping;
mod training;
