//! An autoregressive model as a diffusion model (§4.3 of the paper): T is the number of dimensions, and step
//! t of the forward process masks dimension t. Trained with the engine on the 30 pictures of bars and stripes
//! on 4×4 pixels, uniformly distributed, whose entropy is log₂ 30 = 4.907 bits.
//!
//! `cargo run --release -p ddpm-models --example masking_autoregressive -- [updates]` trains it (3000
//! updates, seconds) and shows that its bound is the likelihood of an autoregressive model, exactly; it ends
//! with an error if it is not.

use engine::random::{Purpose, Stream};
use engine::{AdamStep, Backend, Cpu, Graph, Init, Program, Run, Session, Shape, Var};
use std::collections::BTreeMap;
use std::error::Error;

/// Pixels of a side.
const SIDE: usize = 4;
/// Dimensions, and steps of the process.
const T: usize = SIDE * SIDE;
/// States that go through the network at once.
const BATCH: usize = 256;
const WIDTH: usize = 128;

/// A binary picture; bit d is dimension d, which step t = d + 1 masks.
type Picture = u16;

/// x_t: the picture with dimensions 0 to t - 1 masked. Bits of masked dimensions are 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct State {
    t: usize,
    seen: Picture,
}

impl State {
    /// q(x_t | x_0), which is certain.
    fn of(picture: Picture, t: usize) -> Self {
        Self { t, seen: if t == T { 0 } else { picture >> t << t } }
    }

    /// x_{t-1} with `bit` in the dimension that x_t masked last.
    fn restored(self, bit: bool) -> Self {
        Self { t: self.t - 1, seen: self.seen | Picture::from(bit) << (self.t - 1) }
    }

    /// As the network sees it: ±1, or 0 where masked; then which dimension comes next.
    fn encode(self, input: &mut [f32]) {
        let (values, next) = input.split_at_mut(T);
        for (d, value) in values.iter_mut().enumerate() {
            *value = if d < self.t { 0.0 } else { f32::from(self.seen >> d & 1) * 2.0 - 1.0 };
        }
        next.fill(0.0);
        next[self.t - 1] = 1.0;
    }
}

/// All rows alike, or all columns.
fn bars_and_stripes() -> Vec<Picture> {
    let mut pictures = Vec::new();
    for pattern in 0..1 << SIDE {
        let lit = |line: usize| pattern >> line & 1;
        let picture = |line_of: fn(usize) -> usize| -> Picture {
            (0..T).map(|d| (lit(line_of(d)) as Picture) << d).sum()
        };
        pictures.extend([picture(|d| d / SIDE), picture(|d| d % SIDE)]);
    }
    pictures.sort_unstable();
    pictures.dedup();
    pictures
}

/// p(x_{t-1} | x_t): the probability that the dimension masked last is lit, given the dimensions after it.
struct Network {
    session: Session,
    input: Var,
    output: Var,
    inputs: Vec<f32>,
    outputs: Vec<f32>,
    updates: u64,
}

impl Network {
    fn new(seed: u64) -> Result<Self, Box<dyn Error>> {
        let mut graph = Graph::new();
        let input = graph.input(Shape::vectors(BATCH, 2 * T));
        let mut h = input;
        for (name, width) in [("first", WIDTH), ("second", WIDTH), ("logits", T)] {
            let shape = vec![graph.shape(h).c, width];
            let weight =
                graph.parameter(format!("{name}.weight"), shape, Init::VarianceScaling { scale: 1.0 });
            let bias = graph.parameter(format!("{name}.bias"), vec![width], Init::Zeros);
            h = graph.linear(h, weight, bias);
            if name != "logits" {
                h = graph.silu(h);
            }
        }
        let backend: Box<dyn Backend> = Box::new(Cpu::new(2)?);
        let program = Program::training(&graph, &[h], backend.as_ref());
        let weights = program.layout().initialise(seed);
        let mut session = Session::new(program, backend)?;
        session.set_parameters(&weights);
        let (inputs, outputs) = (vec![0.0; BATCH * 2 * T], vec![0.0; BATCH * T]);
        Ok(Self { session, input, output: h, inputs, outputs, updates: 0 })
    }

    fn forward(&mut self, states: &[State]) {
        for (state, input) in states.iter().zip(self.inputs.chunks_exact_mut(2 * T)) {
            state.encode(input);
        }
        self.session.set(self.input, &self.inputs);
        self.session.forward(&Run::default());
        self.session.read(self.output, &mut self.outputs).unwrap();
    }

    /// The logit of the next dimension's being lit, for each state.
    fn logits(&mut self, states: &[State]) -> Vec<f64> {
        let mut logits = Vec::with_capacity(states.len());
        for states in states.chunks(BATCH) {
            self.forward(states);
            let outputs = self.outputs.chunks_exact(T);
            logits.extend(states.iter().zip(outputs).map(|(state, output)| f64::from(output[state.t - 1])));
        }
        logits
    }

    /// An update by one uniformly drawn term of the bound of each of a batch's pictures (Algorithm 1).
    fn update(&mut self, pictures: &[Picture], seed: u64) {
        let mut states = Vec::with_capacity(BATCH);
        let mut lit = Vec::with_capacity(BATCH);
        for sample in 0..BATCH as u64 {
            let numbers = Stream::new(seed, Purpose::Timestep, 0, self.updates * BATCH as u64 + sample);
            let picture = pictures[numbers.below(0, pictures.len() as u64) as usize];
            let t = 1 + numbers.below(1, T as u64) as usize;
            states.push(State::of(picture, t));
            lit.push(picture >> (t - 1) & 1 == 1);
        }
        self.forward(&states);
        // ∂ -log p / ∂ logit = p(lit) - 1[lit], of the dimension in question alone.
        let mut gradient = vec![0.0; BATCH * T];
        for (k, (state, lit)) in states.iter().zip(lit).enumerate() {
            let index = k * T + state.t - 1;
            let probability = 1.0 / (1.0 + (-self.outputs[index]).exp());
            gradient[index] = (probability - if lit { 1.0 } else { 0.0 }) / BATCH as f32;
        }
        self.session.clear_gradients();
        self.session.set_gradient(self.output, &gradient);
        self.session.backward(&Run::default());
        self.updates += 1;
        self.session
            .update(&AdamStep {
                number: self.updates,
                learning_rate: 2e-3,
                max_gradient_norm: 1.0,
                ..AdamStep::default()
            })
            .unwrap();
    }
}

/// -log₂ of the probability of `bit` under a logit.
fn bits(logit: f64, bit: bool) -> f64 {
    let against = if bit { -logit } else { logit };
    // log(1 + e^x), without overflow.
    (against.max(0.0) + (-against.abs()).exp().ln_1p()) / std::f64::consts::LN_2
}

/// The bound's terms (eq. 5) of a picture, L_{t-1} for t = 1, …, T, in bits. L_T is 0: q(x_T | x_0) and
/// p(x_T) are both certain of a state in which all is masked. q(x_{t-1} | x_t, x_0) is certain too, so each
/// divergence is -log p of what it is certain of.
fn bound(network: &mut Network, picture: Picture) -> Vec<f64> {
    let states: Vec<_> = (1..=T).map(|t| State::of(picture, t)).collect();
    let logits = network.logits(&states);
    (1..=T).zip(logits).map(|(t, logit)| bits(logit, picture >> (t - 1) & 1 == 1)).collect()
}

/// The distribution of x_0 under the reverse process, of all 2^T pictures: from x_T on, each step splits
/// every state's probability between the two values of a dimension. -log₂, in bits.
fn all_pictures(network: &mut Network) -> Vec<f64> {
    let mut states = vec![(State::of(0, T), 0.0)];
    for _ in 0..T {
        let logits = network.logits(&states.iter().map(|(state, _)| *state).collect::<Vec<_>>());
        let split = states.iter().zip(logits).flat_map(|(&(state, length), logit)| {
            [false, true].map(|bit| (state.restored(bit), length + bits(logit, bit)))
        });
        states = split.collect();
    }
    let mut lengths = vec![0.0; 1 << T];
    states.into_iter().for_each(|(state, length)| lengths[usize::from(state.seen)] = length);
    lengths
}

/// The sum of eq. 16 in bits, term by term: D(q(x_{t-1} | x_t) || p(x_{t-1} | x_t)) for t = 1, …, T, and H(x_0). Here
/// q(x_{t-1} | x_t) is no mystery: it counts which of the pictures that agree with x_t have the next dimension lit.
fn rewritten(network: &mut Network, pictures: &[Picture]) -> (Vec<f64>, f64) {
    let n = pictures.len() as f64;
    let terms = (1..=T).map(|t| {
        let mut counts: BTreeMap<State, [f64; 2]> = BTreeMap::new();
        for &picture in pictures {
            counts.entry(State::of(picture, t)).or_default()[usize::from(picture >> (t - 1) & 1)] += 1.0;
        }
        let logits = network.logits(&counts.keys().copied().collect::<Vec<_>>());
        let of_state = |([dark, lit], logit): (&[f64; 2], f64)| {
            let all = dark + lit;
            let of_bit = |count: f64, bit| {
                let q = count / all;
                if count > 0.0 { q * (q.log2() + bits(logit, bit)) } else { 0.0 }
            };
            all / n * (of_bit(*dark, false) + of_bit(*lit, true))
        };
        counts.values().zip(logits).map(of_state).sum()
    });
    (terms.collect(), n.log2())
}

/// A sample of the reverse process.
fn sample(network: &mut Network, seed: u64, number: u64) -> Picture {
    let numbers = Stream::new(seed, Purpose::ReverseNoise, 0, number);
    let mut state = State::of(0, T);
    while state.t > 0 {
        let lit = 1.0 / (1.0 + (-network.logits(&[state])[0]).exp());
        state = state.restored(f64::from(numbers.uniform(state.t as u32)) < lit);
    }
    state.seen
}

/// What is known of a model, in bits per picture.
struct Findings {
    /// Mean of Σ L_{t-1} over the data (eq. 5).
    bound: f64,
    /// Σ E D(q(x_{t-1} | x_t) || p(x_{t-1} | x_t)) + H(x_0) (eq. 16).
    rewritten: f64,
    /// H(x_0).
    entropy: f64,
    /// The greatest difference between a picture's bound and its -log₂ p(x_0).
    gap: f64,
    /// Σ p over all 2^T pictures.
    total: f64,
    /// Σ p over the pictures of the data.
    on_data: f64,
    /// Mean L_{t-1}, and what eq. 16 has in its place, for t = 1, …, T.
    terms: Vec<(f64, f64)>,
}

fn findings(network: &mut Network, pictures: &[Picture]) -> Findings {
    let lengths = all_pictures(network);
    let n = pictures.len() as f64;
    let mut means = vec![0.0; T];
    let mut gap: f64 = 0.0;
    for &picture in pictures {
        let terms = bound(network, picture);
        gap = gap.max((terms.iter().sum::<f64>() - lengths[usize::from(picture)]).abs());
        means.iter_mut().zip(terms).for_each(|(mean, term)| *mean += term / n);
    }
    let (divergences, entropy) = rewritten(network, pictures);
    Findings {
        bound: means.iter().sum(),
        rewritten: divergences.iter().sum::<f64>() + entropy,
        entropy,
        gap,
        total: lengths.iter().map(|bits| (-bits).exp2()).sum(),
        on_data: pictures.iter().map(|&picture| (-lengths[usize::from(picture)]).exp2()).sum(),
        terms: means.into_iter().zip(divergences).collect(),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let updates: u64 = std::env::args().nth(1).map_or(Ok(3000), |text| text.parse())?;
    let pictures = bars_and_stripes();
    let mut network = Network::new(0)?;
    for number in 1..=updates {
        network.update(&pictures, 0);
        if number.is_power_of_two() || number == updates {
            let mean: f64 =
                pictures.iter().map(|&picture| bound(&mut network, picture).iter().sum::<f64>()).sum();
            println!("after {number:5} updates: {:.4} bits a picture", mean / pictures.len() as f64);
        }
    }
    let found = findings(&mut network, &pictures);
    println!("\nstep t masks dimension t; in bits, means over the {} pictures:", pictures.len());
    println!("   t   L_t-1 (eq. 5)   D(q(x_t-1|x_t) || p) (eq. 16)   I(x_0; x_t-1 | x_t)");
    for (t, (term, divergence)) in found.terms.iter().enumerate().rev() {
        println!("{:4} {term:15.4} {divergence:31.4} {:21.4}", t + 1, (term - divergence).max(0.0));
    }
    println!("\nthe bound, eq. 5                    {:.6}", found.bound);
    println!("eq. 16, with H(x_0) = {:.6}      {:.6}", found.entropy, found.rewritten);
    println!("bound less -log2 p(x_0), at most    {:.1e}", found.gap);
    println!("sum of p over all {} pictures     {:.9}", 1 << T, found.total);
    println!("sum of p over the data's {}         {:.6}\n", pictures.len(), found.on_data);

    let drawn: Vec<_> = (0..8).map(|number| sample(&mut network, 1, number)).collect();
    for row in 0..SIDE {
        let line = |picture: &Picture| -> String {
            (0..SIDE)
                .map(|column| if picture >> (row * SIDE + column) & 1 == 1 { '#' } else { '.' })
                .collect()
        };
        println!("{}", drawn.iter().map(line).collect::<Vec<_>>().join("  "));
    }
    // Logits are the same bits in any batch; sums in f64 differ by their order.
    if found.gap > 1e-6 || (found.bound - found.rewritten).abs() > 1e-6 || (found.total - 1.0).abs() > 1e-6 {
        return Err("the model is no autoregressive one".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_thirty_pictures() {
        let pictures = bars_and_stripes();
        assert_eq!(pictures.len(), 30);
        for picture in [0x0000, 0xFFFF, 0x000F, 0xF0F0, 0x1111, 0xAAAA] {
            assert!(pictures.contains(&picture), "{picture:04x}");
        }
    }

    #[test]
    fn the_bound_is_the_likelihood_of_an_autoregressive_model_and_training_brings_it_to_the_entropy() {
        let pictures = bars_and_stripes();
        let mut network = Network::new(0).unwrap();
        let mut before = f64::INFINITY;
        for updates in [0, 400] {
            (0..updates).for_each(|_| network.update(&pictures, 0));
            let found = findings(&mut network, &pictures);
            assert!((found.total - 1.0).abs() < 1e-6, "{}", found.total);
            assert!(found.gap < 1e-6, "{}", found.gap);
            assert!((found.bound - found.rewritten).abs() < 1e-6, "{} {}", found.bound, found.rewritten);
            assert!(found.entropy < found.bound && found.bound < before, "{}", found.bound);
            assert!(found.terms.iter().all(|(_, divergence)| *divergence > -1e-9));
            before = found.bound;
        }
        assert!(before < 5.3, "{before} bits");
        let valid = (0..50).filter(|&number| pictures.contains(&sample(&mut network, 1, number))).count();
        assert!(valid > 35, "{valid} of 50 samples are bars or stripes");
    }
}
