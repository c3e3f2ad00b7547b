//! Times the paper's CIFAR-10 U-Net in burn on the CPU, as `tools/bench_peers.py` asks.

mod training;
mod unet;

use burn::module::Module;
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::{Device, Tensor, TensorData};
use contract::{IMAGE_LEN, Repeats, SIZE, Task, answer};
use std::convert::Infallible;
use std::error::Error;
use training::Training;
use unet::Unet;

const PACKAGE: &str = "burn";

fn main() -> Result<(), Box<dyn Error>> {
    let task = Task::from_arguments();
    let device = Device::flex();
    match task {
        Task::Forward(repeats) => {
            let unet = Unet::new(&device);
            let (x, t) = inputs(repeats, &device);
            let milliseconds =
                repeats.time(|| unet.forward(x.clone(), t.clone()).try_into_data().map(drop))?;
            answer(PACKAGE, unet.num_params(), repeats.batch, "forward_ms_per_image", milliseconds);
        }
        Task::Train(repeats) => {
            let device = device.autodiff();
            let unet = Unet::new(&device);
            let parameters = unet.num_params();
            let (x, t) = inputs(repeats, &device);
            let noise = images(repeats.noise(), &device);
            let mut training = Some(Training::new(unet));
            let milliseconds = repeats.time(|| {
                training = training.take().map(|before| before.step(x.clone(), t.clone(), noise.clone()));
                Ok::<(), Infallible>(())
            })?;
            answer(PACKAGE, parameters, repeats.batch, "train_ms_per_image", milliseconds);
        }
        Task::Check { weights, case } => {
            let mut unet = Unet::new(&device);
            let mut store = SafetensorsStore::from_file(weights).with_from_adapter(PyTorchToBurnAdapter);
            unet.load_from(&mut store)?;
            let (x, t) = (images(case.images.clone(), &device), times(case.times.clone(), &device));
            let error = case.error(&unet.forward(x, t).into_data().try_to_vec::<f32>()?)?;
            answer(PACKAGE, unet.num_params(), case.batch, "error", error);
        }
    }
    Ok(())
}

fn inputs(repeats: Repeats, device: &Device) -> (Tensor<4>, Tensor<1>) {
    (images(repeats.images(), device), times(repeats.times(), device))
}

fn images(values: Vec<f32>, device: &Device) -> Tensor<4> {
    let batch = values.len() / IMAGE_LEN;
    Tensor::from_data(TensorData::new(values, [batch, 3, SIZE, SIZE]), device)
}

fn times(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}
