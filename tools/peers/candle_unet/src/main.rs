//! Times the paper's CIFAR-10 U-Net in candle on the CPU, as `tools/bench_peers.py` asks.

mod unet;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap, loss};
use contract::{EMA_DECAY, LEARNING_RATE, MAX_GRADIENT_NORM, Repeats, SIZE, Task, answer};
use std::collections::HashMap;
use unet::Unet;

const PACKAGE: &str = "candle-core";

fn main() -> Result<()> {
    let task = Task::from_arguments();
    // In candle's own pool of threads, so that they stay awake between operations.
    Device::Cpu.with_context(|| match task {
        Task::Forward(repeats) => forward(repeats),
        Task::Train(repeats) => train(repeats),
        Task::Check { weights, case } => {
            let weights = candle_core::safetensors::load(weights, &Device::Cpu)?;
            let parameters = weights.values().map(Tensor::elem_count).sum();
            let unet = inference(weights)?;
            let output = unet.forward(&images(case.images.clone())?, &times(case.times.clone())?, false)?;
            let error = case.error(&output.flatten_all()?.to_vec1()?).map_err(candle_core::Error::msg)?;
            answer(PACKAGE, parameters, case.batch, "error", error);
            Ok(())
        }
    })
}

fn images(values: Vec<f32>) -> Result<Tensor> {
    Tensor::from_vec(values, ((), 3, SIZE, SIZE), &Device::Cpu)
}

fn times(values: Vec<f32>) -> Result<Tensor> {
    let len = values.len();
    Tensor::from_vec(values, len, &Device::Cpu)
}

/// A network of fresh weights that gradients can be had of, and its weights.
fn training() -> Result<(Unet, VarMap)> {
    let variables = VarMap::new();
    let unet = Unet::new(VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
    Ok((unet, variables))
}

/// A network that keeps nothing for gradients.
fn inference(weights: HashMap<String, Tensor>) -> Result<Unet> {
    Unet::new(VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu))
}

fn parameters(variables: &[Var]) -> usize {
    variables.iter().map(|variable| variable.elem_count()).sum()
}

fn forward(repeats: Repeats) -> Result<()> {
    let (_, variables) = training()?;
    let parameters = parameters(&variables.all_vars());
    let named = variables.data().lock().map_err(|error| candle_core::Error::msg(error.to_string()))?;
    let unet = inference(named.iter().map(|(name, weight)| (name.clone(), weight.detach())).collect())?;
    drop(named);
    let (x, t) = (images(repeats.images())?, times(repeats.times())?);
    let milliseconds = repeats.time(|| unet.forward(&x, &t, false).map(drop))?;
    answer(PACKAGE, parameters, repeats.batch, "forward_ms_per_image", milliseconds);
    Ok(())
}

fn train(repeats: Repeats) -> Result<()> {
    let (unet, variables) = training()?;
    let variables = variables.all_vars();
    // AdamW without decay is Adam.
    let settings = ParamsAdamW { lr: LEARNING_RATE, weight_decay: 0.0, ..Default::default() };
    let mut adam = AdamW::new(variables.clone(), settings)?;
    let mut averages: Vec<Tensor> =
        variables.iter().map(|variable| variable.copy()).collect::<Result<_>>()?;
    let (x, t, noise) = (images(repeats.images())?, times(repeats.times())?, images(repeats.noise())?);
    let milliseconds = repeats.time(|| {
        let mut gradients = loss::mse(&unet.forward(&x, &t, true)?, &noise)?.backward()?;
        let mut squares = 0.0;
        for gradient in variables.iter().filter_map(|variable| gradients.get(variable)) {
            squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let scale = MAX_GRADIENT_NORM / squares.sqrt();
        if scale < 1.0 {
            for variable in &variables {
                if let Some(gradient) = gradients.remove(variable) {
                    gradients.insert(variable, (gradient * scale)?);
                }
            }
        }
        adam.step(&gradients)?;
        for (average, variable) in averages.iter_mut().zip(&variables) {
            *average = ((&*average * EMA_DECAY)? + (variable.as_tensor() * (1.0 - EMA_DECAY))?)?.detach();
        }
        Ok::<(), candle_core::Error>(())
    })?;
    answer(PACKAGE, parameters(&variables), repeats.batch, "train_ms_per_image", milliseconds);
    Ok(())
}
