//! Where the time of a program goes, by operation and shape.

use crate::kernel::{Kernel, Step, Then};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

/// Time spent per kind of step.
#[derive(Clone, Default, Debug)]
pub struct Profile {
    entries: HashMap<Key, Entry>,
}

/// What is counted together: the same kernel on the same shapes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    kernel: &'static str,
    shapes: String,
}

/// One line of a profile.
#[derive(Clone, Copy, Default, Debug)]
struct Entry {
    calls: u64,
    time: Duration,
    /// Multiply-adds of direct summation, per call.
    products: u64,
}

impl Profile {
    /// Adds one execution of `step`.
    pub(crate) fn add(&mut self, step: &Step, time: Duration) {
        let key = Key { kernel: kernel_name(&step.kernel), shapes: shapes(step) };
        let entry = self.entries.entry(key).or_default();
        entry.calls += 1;
        entry.time += time;
        entry.products = products(step);
    }

    /// Adds time that belongs to no step: `what` is its name.
    pub(crate) fn add_other(&mut self, what: &'static str, time: Duration) {
        let entry = self.entries.entry(Key { kernel: what, shapes: String::new() }).or_default();
        entry.calls += 1;
        entry.time += time;
    }

    /// Time of all entries.
    pub fn total(&self) -> Duration {
        self.entries.values().map(|entry| entry.time).sum()
    }
}

impl Profile {
    /// A table, longest time first: the kernels in sum, then each on each shape. `whole` is the time of all
    /// that was measured; what the kernels leave of it (drawing noise, losses, copies) is a line of its own.
    pub fn table(&self, whole: Duration) -> String {
        let mut table = String::from("   share        time    calls  GFLOP/s  operation\n");
        let mut line = |name: &str, shapes: &str, calls: u64, time: Duration, products: u64| {
            let seconds = time.as_secs_f64();
            let rate =
                if products > 0 { format!("{:.0}", 2e-9 * products as f64 / seconds) } else { String::new() };
            let (share, ms) = (100.0 * seconds / whole.as_secs_f64(), 1e3 * seconds);
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{share:6.1} %  {ms:7.0} ms  {calls:7}  {rate:>7}  {name:<18} {shapes}");
        };
        let mut kernels: HashMap<&str, Entry> = HashMap::new();
        for (key, entry) in &self.entries {
            let sum = kernels.entry(key.kernel).or_default();
            sum.calls += entry.calls;
            sum.time += entry.time;
            sum.products += entry.products * entry.calls;
        }
        let mut sums: Vec<_> = kernels.into_iter().collect();
        sums.sort_by_key(|(name, entry)| (Reverse(entry.time), *name));
        for (name, entry) in sums {
            line(name, "", entry.calls, entry.time, entry.products);
        }
        line("all else", "", 0, whole.saturating_sub(self.total()), 0);
        line("total", "", 0, whole, 0);
        let mut entries: Vec<_> = self.entries.iter().filter(|(key, _)| !key.shapes.is_empty()).collect();
        entries.sort_by_key(|(key, entry)| (Reverse(entry.time), &key.shapes));
        for (key, entry) in entries {
            line(key.kernel, &key.shapes, entry.calls, entry.time, entry.products * entry.calls);
        }
        table
    }
}

/// Gradients becoming 0, by a step or outside all.
pub(crate) const CLEAR: &str = "clear gradients";

fn kernel_name(kernel: &Kernel) -> &'static str {
    match kernel {
        Kernel::Conv(_) => "conv",
        Kernel::ConvThen(_, Then::Relu) => "conv, relu",
        Kernel::ConvThen(_, Then::Add) => "conv, add",
        Kernel::ConvThen(_, Then::AddPerSample) => "conv, add per sample",
        Kernel::ConvInputGrad(_) => "conv input grad",
        Kernel::ConvWeightGrad(_) | Kernel::ConvWeightGradSet(_) => "conv weight grad",
        Kernel::BiasGrad => "bias grad",
        Kernel::GroupNorm(_) => "group norm",
        Kernel::GroupNormAgain(_) => "group norm again",
        Kernel::GroupNormGrad(_) => "group norm grad",
        Kernel::GroupNormDropoutAgain(..) => "group norm, dropout again",
        Kernel::GroupNormDropout(..) => "group norm, dropout",
        Kernel::GroupNormDropoutGrad(..) => "group norm, dropout grad",
        Kernel::Silu => "silu",
        Kernel::SiluGrad => "silu grad",
        Kernel::Relu => "relu",
        Kernel::ReluGrad => "relu grad",
        Kernel::Attention(_) => "attention",
        Kernel::AttentionGrad(_) => "attention grad",
        Kernel::Add => "add",
        Kernel::Accumulate => "accumulate",
        Kernel::AddPerSample => "add per sample",
        Kernel::SumPixels => "sum pixels",
        Kernel::ScaleShift => "scale shift",
        Kernel::ScaleShiftGrad => "scale shift grad",
        Kernel::Upsample => "upsample",
        Kernel::UpsampleGrad => "upsample grad",
        Kernel::Concat => "concat",
        Kernel::ChannelSlice { .. } => "channel slice",
        Kernel::Dropout(_) => "dropout",
        Kernel::MaxPool(_) => "max pool",
        Kernel::MaxPoolGrad(_) => "max pool grad",
        Kernel::AvgPool(_) => "average pool",
        Kernel::AvgPoolGrad(_) => "average pool grad",
        Kernel::Softmax => "softmax",
        Kernel::SoftmaxGrad => "softmax grad",
        Kernel::SpaceToDepth { .. } => "space to depth",
        Kernel::DepthToSpace { .. } => "depth to space",
        Kernel::SplitHeads { .. } => "split heads",
        Kernel::MergeHeads { .. } => "merge heads",
        Kernel::Sinusoid(_) => "sinusoid",
        Kernel::SquaredError => "squared error",
        Kernel::SquaredErrorGrad => "squared error grad",
        Kernel::Normals(_) => "normals",
        Kernel::WeightedSum => "weighted sum",
        Kernel::Clear => CLEAR,
    }
}

fn shapes(step: &Step) -> String {
    let result = step.outputs[0].shape;
    match step.kernel {
        Kernel::Conv(conv) | Kernel::ConvThen(conv, _) | Kernel::ConvInputGrad(conv) => {
            format!("{} to {result}, {}x{}", step.inputs[0].shape, conv.kernel_h, conv.kernel_w)
        }
        Kernel::ConvWeightGrad(conv) | Kernel::ConvWeightGradSet(conv) => {
            format!("{}, {}, {}x{}", step.inputs[0].shape, step.inputs[1].shape, conv.kernel_h, conv.kernel_w)
        }
        Kernel::Clear => format!("{result}"),
        _ => format!("{}", step.inputs[0].shape),
    }
}

/// Multiply-adds of direct summation, 0 where that is not what a kernel does.
fn products(step: &Step) -> u64 {
    let Some(source) = step.inputs.first().map(|view| view.shape) else { return 0 };
    let result = step.outputs[0].shape;
    let attention = (source.n * source.pixels() * source.pixels() * source.c) as u64;
    match step.kernel {
        Kernel::Conv(conv) | Kernel::ConvThen(conv, _) => (result.len() * conv.taps() * source.c) as u64,
        Kernel::ConvInputGrad(conv) => (source.len() * conv.taps() * result.c) as u64,
        Kernel::ConvWeightGrad(conv) | Kernel::ConvWeightGradSet(conv) => {
            (step.inputs[1].shape.len() * conv.taps() * source.c) as u64
        }
        Kernel::Attention(_) => 2 * attention,
        Kernel::AttentionGrad(_) => 4 * attention,
        _ => 0,
    }
}
