//! A training step.

use crate::unet::Unet;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::nn::loss::{MseLoss, Reduction};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use burn::tensor::container::TensorContainer;
use contract::{EMA_DECAY, LEARNING_RATE, MAX_GRADIENT_NORM};

/// The network, the moving average of its weights, and Adam's moments.
pub struct Training {
    unet: Unet,
    average: Unet,
    adam: ModuleOptimizer,
}

impl Training {
    /// Before the first step of a network on a device with gradients.
    pub fn new(unet: Unet) -> Self {
        let average = unet.valid();
        let adam = AdamConfig::new().with_epsilon(1e-8).init();
        Self { unet, average, adam }
    }

    /// One step later. By value, so that weights have one owner and can be updated where they are.
    pub fn step(mut self, x: Tensor<4>, t: Tensor<1>, noise: Tensor<4>) -> Self {
        let loss = MseLoss::new().forward(self.unet.forward(x, t), noise, Reduction::Mean);
        let mut gradients = GradientsParams::from_grads(loss.backward(), &self.unet);
        clip(&self.unet, &mut gradients);
        let unet = self.adam.step(LEARNING_RATE, self.unet, gradients);
        let mut weights = Weights(TensorContainer::new());
        unet.visit(&mut weights);
        let average = self.average.map(&mut Averaging(weights));
        Self { unet, average, adam: self.adam }
    }
}

/// Scales all gradients so that their global norm is at most [`MAX_GRADIENT_NORM`]; burn's own clipping looks
/// at one parameter at a time.
fn clip(unet: &Unet, gradients: &mut GradientsParams) {
    let mut squares = Squares { gradients, sums: Vec::new() };
    unet.visit(&mut squares);
    let norm = Tensor::cat(squares.sums, 0).sum().sqrt().into_scalar::<f32>();
    let factor = MAX_GRADIENT_NORM / f64::from(norm);
    if factor < 1.0 {
        unet.visit(&mut Scaling { gradients, factor });
    }
}

/// The sum of squares of each parameter's gradient.
struct Squares<'a> {
    gradients: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.sums.push(gradient.square().sum());
        }
    }
}

/// Multiplies each parameter's gradient.
struct Scaling<'a> {
    gradients: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scaling<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient * self.factor);
        }
    }
}

/// A network's weights.
struct Weights(TensorContainer<ParamId>);

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.register(param.id, param.val().inner());
    }
}

/// Moves averages towards the weights.
struct Averaging(Weights);

impl ModuleMapper for Averaging {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.0.remove::<Tensor<D>>(&param.id) {
            Some(weight) => param.map(|average| average * EMA_DECAY + weight * (1.0 - EMA_DECAY)),
            None => param,
        }
    }
}
