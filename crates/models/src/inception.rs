//! The Inception-v3 network of 5 December 2015 that FID and Inception Score are defined by, forward only.
//!
//! Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016), as TensorFlow trained
//! it with 1008 outputs. It differs from later Inception-v3 networks: average pools do not count padding, and
//! the pool of the last block takes the maximum. Blocks and parameters are named as in pytorch-fid's port of
//! the weights.
//!
//! Batch normalisation is folded into the convolutions when weights are loaded ([`fold_batch_norm`]), so that
//! a layer here is convolution, bias, ReLU.

use engine::{
    Backend, BackendError, Conv, Graph, Init, Padding, ParamLayout, Pool, Profile, Program, Run, Session,
    Shape, Var,
};

/// Height and width of the images it takes, in pixels.
pub const IMAGE_SIZE: usize = 299;
/// Its outputs: 1000 classes, in an order of its own, and 8 that were never trained.
pub const CLASSES: usize = 1008;
/// What its batch normalisations add to the variance.
const NORM_EPSILON: f64 = 1e-3;
/// The classifier's parameters.
const CLASSIFIER: [&str; 2] = ["fc.weight", "fc.bias"];

/// Where features are taken: the feature maps at this point, averaged over their pixels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tap {
    /// After the first maximum pool: 64 dimensions.
    Pool1,
    /// After the second maximum pool: 192 dimensions.
    Pool2,
    /// After `Mixed_6e`: 768 dimensions.
    Mixed6,
    /// After `Mixed_7c`, what "FID" means without more words: 2048 dimensions.
    Pool3,
}

impl Tap {
    /// All of them, from the input on.
    pub const ALL: [Self; 4] = [Self::Pool1, Self::Pool2, Self::Mixed6, Self::Pool3];

    /// Number of features.
    pub const fn dims(self) -> usize {
        match self {
            Self::Pool1 => 64,
            Self::Pool2 => 192,
            Self::Mixed6 => 768,
            Self::Pool3 => 2048,
        }
    }

    /// The tap with `dims` features.
    pub fn with_dims(dims: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|tap| tap.dims() == dims)
    }
}

/// The network up to a tap, for one batch size.
pub struct Inception {
    /// The network.
    pub graph: Graph,
    /// Images `[n, 299, 299, 3]`, RGB in [-1, 1].
    pub images: Var,
    /// Features `[n, 1, 1, dims]`.
    pub features: Var,
}

impl Inception {
    /// The network up to `tap` for `batch` images.
    pub fn new(tap: Tap, batch: usize) -> Self {
        let mut network = Builder::default();
        let images = network.graph.input(Shape::new(batch, IMAGE_SIZE, IMAGE_SIZE, 3));
        let maps = network.trunk(images, tap);
        let features = network.graph.global_avg_pool(maps);
        Self { graph: network.graph, images, features }
    }

    /// The parameters up to `tap`: for each convolution `NAME.weight` `[kh, kw, in, out]` and `NAME.bias` `[out]`.
    pub fn layout(tap: Tap) -> ParamLayout {
        Self::new(tap, 1).graph.layout().clone()
    }
}

#[derive(Default)]
struct Builder {
    graph: Graph,
}

/// 3×3 without padding, of stride 2: how the network halves its maps.
const HALVE: Conv = Conv { kernel_h: 3, kernel_w: 3, stride: 2, padding: Padding::NONE };
const VALID_3X3: Conv = Conv { stride: 1, ..HALVE };
const SAME_5X5: Conv = same(5, 5);
const ROW_7: Conv = same(1, 7);
const COLUMN_7: Conv = same(7, 1);
const ROW_3: Conv = same(1, 3);
const COLUMN_3: Conv = same(3, 1);
const HALVING_POOL: Pool = Pool { kernel_h: 3, kernel_w: 3, stride: 2, padding: Padding::NONE };
const SAME_POOL: Pool = Pool { kernel_h: 3, kernel_w: 3, stride: 1, padding: Padding::symmetric(1, 1) };

/// A filter of stride 1 that keeps the size.
const fn same(kernel_h: usize, kernel_w: usize) -> Conv {
    Conv { kernel_h, kernel_w, stride: 1, padding: Padding::symmetric(kernel_h / 2, kernel_w / 2) }
}

impl Builder {
    /// Feature maps at `tap`.
    fn trunk(&mut self, images: Var, tap: Tap) -> Var {
        let x = self.conv(images, "Conv2d_1a_3x3", 32, HALVE);
        let x = self.conv(x, "Conv2d_2a_3x3", 32, VALID_3X3);
        let x = self.conv(x, "Conv2d_2b_3x3", 64, Conv::SAME_3X3);
        let x = self.graph.max_pool(x, HALVING_POOL);
        if tap == Tap::Pool1 {
            return x;
        }
        let x = self.conv(x, "Conv2d_3b_1x1", 80, Conv::POINTWISE);
        let x = self.conv(x, "Conv2d_4a_3x3", 192, VALID_3X3);
        let x = self.graph.max_pool(x, HALVING_POOL);
        if tap == Tap::Pool2 {
            return x;
        }
        let x = self.block_a(x, "Mixed_5b", 32);
        let x = self.block_a(x, "Mixed_5c", 64);
        let x = self.block_a(x, "Mixed_5d", 64);
        let x = self.block_b(x, "Mixed_6a");
        let x = self.block_c(x, "Mixed_6b", 128);
        let x = self.block_c(x, "Mixed_6c", 160);
        let x = self.block_c(x, "Mixed_6d", 160);
        let x = self.block_c(x, "Mixed_6e", 192);
        if tap == Tap::Mixed6 {
            return x;
        }
        let x = self.block_d(x, "Mixed_7a");
        let x = self.block_e(x, "Mixed_7b", Graph::avg_pool);
        // The maximum is what the network was trained with, in this block alone.
        self.block_e(x, "Mixed_7c", Graph::max_pool)
    }

    /// 35×35: 1×1, 5×5 and two 3×3 in a row side by side.
    fn block_a(&mut self, x: Var, name: &str, pool_features: usize) -> Var {
        let one = self.conv(x, &format!("{name}.branch1x1"), 64, Conv::POINTWISE);
        let five = self.chain(x, &format!("{name}.branch5x5_"), &[(48, Conv::POINTWISE), (64, SAME_5X5)]);
        let double = self.chain(
            x,
            &format!("{name}.branch3x3dbl_"),
            &[(64, Conv::POINTWISE), (96, Conv::SAME_3X3), (96, Conv::SAME_3X3)],
        );
        let pooled = self.pooled(x, name, pool_features, Graph::avg_pool);
        self.graph.concat(&[one, five, double, pooled])
    }

    /// 35×35 to 17×17.
    fn block_b(&mut self, x: Var, name: &str) -> Var {
        let three = self.conv(x, &format!("{name}.branch3x3"), 384, HALVE);
        let double = self.chain(
            x,
            &format!("{name}.branch3x3dbl_"),
            &[(64, Conv::POINTWISE), (96, Conv::SAME_3X3), (96, HALVE)],
        );
        let pooled = self.graph.max_pool(x, HALVING_POOL);
        self.graph.concat(&[three, double, pooled])
    }

    /// 17×17: 7×7 filters factored into rows and columns.
    fn block_c(&mut self, x: Var, name: &str, inner: usize) -> Var {
        let one = self.conv(x, &format!("{name}.branch1x1"), 192, Conv::POINTWISE);
        let seven = self.chain(
            x,
            &format!("{name}.branch7x7_"),
            &[(inner, Conv::POINTWISE), (inner, ROW_7), (192, COLUMN_7)],
        );
        let double = self.chain(
            x,
            &format!("{name}.branch7x7dbl_"),
            &[(inner, Conv::POINTWISE), (inner, COLUMN_7), (inner, ROW_7), (inner, COLUMN_7), (192, ROW_7)],
        );
        let pooled = self.pooled(x, name, 192, Graph::avg_pool);
        self.graph.concat(&[one, seven, double, pooled])
    }

    /// 17×17 to 8×8.
    fn block_d(&mut self, x: Var, name: &str) -> Var {
        let three = self.chain(x, &format!("{name}.branch3x3_"), &[(192, Conv::POINTWISE), (320, HALVE)]);
        let seven = self.chain(
            x,
            &format!("{name}.branch7x7x3_"),
            &[(192, Conv::POINTWISE), (192, ROW_7), (192, COLUMN_7), (192, HALVE)],
        );
        let pooled = self.graph.max_pool(x, HALVING_POOL);
        self.graph.concat(&[three, seven, pooled])
    }

    /// 8×8: branches that fork into a row and a column.
    fn block_e(&mut self, x: Var, name: &str, pool: fn(&mut Graph, Var, Pool) -> Var) -> Var {
        let one = self.conv(x, &format!("{name}.branch1x1"), 320, Conv::POINTWISE);
        let three = self.chain(x, &format!("{name}.branch3x3_"), &[(384, Conv::POINTWISE)]);
        let three = self.fork(three, &format!("{name}.branch3x3_2"));
        let double =
            self.chain(x, &format!("{name}.branch3x3dbl_"), &[(448, Conv::POINTWISE), (384, Conv::SAME_3X3)]);
        let double = self.fork(double, &format!("{name}.branch3x3dbl_3"));
        let pooled = self.pooled(x, name, 192, pool);
        self.graph.concat(&[one, three[0], three[1], double[0], double[1], pooled])
    }

    /// Layers `{prefix}a`, of a row, and `{prefix}b`, of a column, on the same input.
    fn fork(&mut self, x: Var, prefix: &str) -> [Var; 2] {
        [("a", ROW_3), ("b", COLUMN_3)].map(|(end, conv)| self.conv(x, &format!("{prefix}{end}"), 384, conv))
    }

    fn pooled(&mut self, x: Var, name: &str, features: usize, pool: fn(&mut Graph, Var, Pool) -> Var) -> Var {
        let pooled = pool(&mut self.graph, x, SAME_POOL);
        self.conv(pooled, &format!("{name}.branch_pool"), features, Conv::POINTWISE)
    }

    /// Layers `{prefix}1`, `{prefix}2`, … one after the other.
    fn chain(&mut self, x: Var, prefix: &str, layers: &[(usize, Conv)]) -> Var {
        layers.iter().enumerate().fold(x, |x, (index, &(features, conv))| {
            self.conv(x, &format!("{prefix}{}", index + 1), features, conv)
        })
    }

    fn conv(&mut self, x: Var, name: &str, features: usize, conv: Conv) -> Var {
        let input = self.graph.shape(x).c;
        let shape = vec![conv.kernel_h, conv.kernel_w, input, features];
        let init = Init::VarianceScaling { scale: 1.0 };
        let weight = self.graph.parameter(format!("{name}.weight"), shape, init);
        let bias = self.graph.parameter(format!("{name}.bias"), vec![features], Init::Zeros);
        let y = self.graph.conv(x, weight, bias, conv);
        self.graph.relu(y)
    }
}

/// A layer's tensors as trained, with PyTorch's names and orders.
#[derive(Clone, PartialEq, Debug)]
pub struct NormalisedConv {
    /// `conv.weight`, `[out, in, kh, kw]`.
    pub weight: Vec<f32>,
    /// `bn.weight`, `[out]`.
    pub scale: Vec<f32>,
    /// `bn.bias`, `[out]`.
    pub shift: Vec<f32>,
    /// `bn.running_mean`, `[out]`.
    pub mean: Vec<f32>,
    /// `bn.running_var`, `[out]`.
    pub variance: Vec<f32>,
}

/// The weight `[kh, kw, in, out]` and bias `[out]` of one convolution that does what a convolution and its
/// normalisation do: `scale · (w * x - mean) / √(variance + 0.001) + shift`. `taps` is kh · kw. Computed in
/// double precision.
///
/// # Panics
/// If the lengths do not belong to one layer.
pub fn fold_batch_norm(layer: &NormalisedConv, taps: usize) -> (Vec<f32>, Vec<f32>) {
    let output = layer.scale.len();
    let input = layer.weight.len() / (output * taps);
    assert_eq!(layer.weight.len(), output * input * taps);
    assert!([&layer.shift, &layer.mean, &layer.variance].iter().all(|values| values.len() == output));
    let mut weight = vec![0.0; layer.weight.len()];
    let mut bias = vec![0.0; output];
    for (o, filters) in layer.weight.chunks_exact(input * taps).enumerate() {
        let factor = f64::from(layer.scale[o]) / (f64::from(layer.variance[o]) + NORM_EPSILON).sqrt();
        bias[o] = (f64::from(layer.shift[o]) - f64::from(layer.mean[o]) * factor) as f32;
        for (i, filter) in filters.chunks_exact(taps).enumerate() {
            for (tap, &value) in filter.iter().enumerate() {
                weight[(tap * input + i) * output + o] = (f64::from(value) * factor) as f32;
            }
        }
    }
    (weight, bias)
}

/// The network up to a tap with its weights in memory.
pub struct FeatureNetwork {
    session: Session,
    tap: Tap,
    batch: usize,
    images: Var,
    features: Var,
    /// A whole batch, for calls that do not fill one.
    staging: (Vec<f32>, Vec<f32>),
}

impl FeatureNetwork {
    /// The network up to `tap` with `weights` in the order of [`Inception::layout`], computing `batch` images
    /// at a time. An image's features do not depend on `batch`.
    ///
    /// # Errors
    /// [`BackendError`] when memory is short.
    pub fn new(
        tap: Tap,
        weights: &[f32],
        batch: usize,
        backend: Box<dyn Backend>,
    ) -> Result<Self, BackendError> {
        let Inception { graph, images, features } = Inception::new(tap, batch);
        let program = Program::inference(&graph, &[features], backend.as_ref());
        let mut session = Session::new(program, backend)?;
        session.set_parameters(weights);
        let staging = (vec![0.0; graph.shape(images).len()], vec![0.0; batch * tap.dims()]);
        Ok(Self { session, tap, batch, images, features, staging })
    }

    /// Where features are taken.
    pub fn tap(&self) -> Tap {
        self.tap
    }

    /// Images computed at a time.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The features `[n, dims]` of `images` `[n, 299, 299, 3]` in [-1, 1].
    ///
    /// # Errors
    /// The device's first failure, if there was one.
    ///
    /// # Panics
    /// If `images` is not a whole number of images.
    pub fn features(&mut self, images: &[f32]) -> Result<Vec<f32>, BackendError> {
        const IMAGE: usize = IMAGE_SIZE * IMAGE_SIZE * 3;
        assert!(images.len().is_multiple_of(IMAGE));
        let dims = self.tap.dims();
        let mut rows = Vec::with_capacity(images.len() / IMAGE * dims);
        let (all_images, all_rows) = &mut self.staging;
        for images in images.chunks(self.batch * IMAGE) {
            all_images[..images.len()].copy_from_slice(images);
            self.session.set(self.images, all_images);
            self.session.forward(&Run::default());
            self.session.read(self.features, all_rows)?;
            rows.extend_from_slice(&all_rows[..images.len() / IMAGE * dims]);
        }
        Ok(rows)
    }

    /// Begins to measure where time goes.
    pub fn start_profile(&mut self) {
        self.session.start_profile();
    }

    /// Where time went, if it is measured.
    pub fn profile(&self) -> Option<&Profile> {
        self.session.profile()
    }
}

/// The network's last layer: logits of [`Tap::Pool3`] features.
pub struct Classifier {
    session: Session,
    batch: usize,
    features: Var,
    logits: Var,
}

impl Classifier {
    /// `fc.weight` `[2048, 1008]`, `fc.bias` `[1008]`.
    pub fn layout() -> ParamLayout {
        Self::graph(1).0.layout().clone()
    }

    /// The classifier with `weights` in the order of [`Self::layout`]. The Inception Score leaves the bias
    /// out: give zeros.
    ///
    /// # Errors
    /// [`BackendError`] when memory is short.
    pub fn new(weights: &[f32], backend: Box<dyn Backend>) -> Result<Self, BackendError> {
        const BATCH: usize = 64;
        let (graph, features, logits) = Self::graph(BATCH);
        let program = Program::inference(&graph, &[logits], backend.as_ref());
        let mut session = Session::new(program, backend)?;
        session.set_parameters(weights);
        Ok(Self { session, batch: BATCH, features, logits })
    }

    fn graph(batch: usize) -> (Graph, Var, Var) {
        let dims = Tap::Pool3.dims();
        let mut graph = Graph::new();
        let features = graph.input(Shape::vectors(batch, dims));
        let [weight, bias] = CLASSIFIER;
        let weight = graph.parameter(weight, vec![dims, CLASSES], Init::VarianceScaling { scale: 1.0 });
        let bias = graph.parameter(bias, vec![CLASSES], Init::Zeros);
        let logits = graph.linear(features, weight, bias);
        (graph, features, logits)
    }

    /// The logits `[n, 1008]` of `features` `[n, 2048]`.
    ///
    /// # Errors
    /// The device's first failure, if there was one.
    ///
    /// # Panics
    /// If `features` is not a whole number of rows.
    pub fn logits(&mut self, features: &[f32]) -> Result<Vec<f32>, BackendError> {
        let dims = Tap::Pool3.dims();
        assert!(features.len().is_multiple_of(dims));
        let mut logits = Vec::with_capacity(features.len() / dims * CLASSES);
        let (mut all_features, mut all_logits) =
            (vec![0.0; self.batch * dims], vec![0.0; self.batch * CLASSES]);
        for features in features.chunks(self.batch * dims) {
            all_features[..features.len()].copy_from_slice(features);
            self.session.set(self.features, &all_features);
            self.session.forward(&Run::default());
            self.session.read(self.logits, &mut all_logits)?;
            logits.extend_from_slice(&all_logits[..features.len() / dims * CLASSES]);
        }
        Ok(logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_the_published_sizes() {
        for (tap, size) in [(Tap::Pool1, 73), (Tap::Pool2, 35), (Tap::Mixed6, 17), (Tap::Pool3, 8)] {
            let mut network = Builder::default();
            let images = network.graph.input(Shape::new(2, IMAGE_SIZE, IMAGE_SIZE, 3));
            let maps = network.trunk(images, tap);
            assert_eq!(network.graph.shape(maps), Shape::new(2, size, size, tap.dims()));
        }
    }

    #[test]
    fn the_whole_network_has_the_published_number_of_parameters() {
        // torchvision's Inception-v3 has 21,785,568 before the classifiers: convolutions without bias, and
        // scale and shift of 17,216 normalised channels. Folded, these two become one bias.
        let layout = Inception::layout(Tap::Pool3);
        let weights: usize =
            layout.specs().iter().filter(|spec| spec.shape.len() == 4).map(engine::ParamSpec::len).sum();
        assert_eq!(layout.specs().len(), 2 * 94);
        assert_eq!((weights + 2 * 17_216, layout.len() - weights), (21_785_568, 17_216));
    }

    #[test]
    fn a_folded_layer_does_what_the_two_did() {
        let layer = NormalisedConv {
            weight: vec![1.0, 2.0, 3.0, 4.0],
            scale: vec![2.0, 0.5],
            shift: vec![0.25, -1.0],
            mean: vec![1.0, -2.0],
            variance: vec![0.249, 3.999],
        };
        // One tap, two inputs, two outputs; the deviations are 0.5 and 2.
        let (weight, bias) = fold_batch_norm(&layer, 1);
        let expected = [4.0, 0.75, 8.0, 1.0];
        assert!(weight.iter().zip(expected).all(|(w, e)| (w - e).abs() < 1e-5), "{weight:?}");
        assert!((bias[0] + 3.75).abs() < 1e-5 && (bias[1] + 0.5).abs() < 1e-5, "{bias:?}");
    }
}
