//! How tokens are picked.

use clap::Args as ClapArgs;
use lapidary::sampling::SamplerConfig;

/// How tokens are picked, but for the seed.
#[derive(ClapArgs, Debug)]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temp: f32,
    /// Sample only from the K likeliest tokens; 0 for all tokens
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: usize,
    /// Sample only from the likeliest tokens whose probabilities add up to P; 1 for all tokens
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// Leave out tokens whose probability is below P times that of the likeliest token; 0 for none
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    min_p: f32,
    /// Penalty for tokens that occur among the last 64: positive logits are divided by R, negative
    /// ones multiplied by R; 1 for no penalty
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repeat_penalty: f32,
}

impl SamplingArgs {
    /// The same for a sampler.
    pub fn config(&self, seed: Option<u64>) -> SamplerConfig {
        SamplerConfig {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed,
            ..SamplerConfig::default()
        }
    }
}
