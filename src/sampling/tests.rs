//! Tests of sampling: filters, penalties, distributions, seeds.

use super::*;

fn sampler(config: SamplerConfig) -> Sampler {
    Sampler::new(config).unwrap()
}

/// Samples from the whole distribution.
fn unfiltered(temperature: f32, seed: u64) -> SamplerConfig {
    let seed = Some(seed);
    SamplerConfig { temperature, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Default::default() }
}

fn greedy() -> SamplerConfig {
    SamplerConfig { temperature: 0.0, ..Default::default() }
}

#[test]
fn zero_temperature_takes_the_lowest_id_of_the_likeliest() {
    let mut sampler = sampler(greedy());
    assert_eq!(sampler.sample(&mut [1.0, 3.0, 2.0, 3.0], &[]), 1);
    assert_eq!(sampler.sample(&mut [-5.0], &[]), 0);
    assert_eq!(sampler.sample(&mut [f32::MIN, f32::MIN], &[]), 0);
}

/// Pearson's test with seven degrees of freedom. A correct sampler exceeds 24.3 with one seed in a
/// thousand, and these three seeds are fixed.
#[test]
fn draws_follow_the_softmax() {
    let logits = [2.0f32, -1.0, 0.5, 0.0, 1.5, -0.3, 1.0, -2.0];
    let draws = 100_000;
    for (seed, temperature) in [(1, 1.0f32), (2, 0.7), (3, 1.6)] {
        let mut sampler = sampler(unfiltered(temperature, seed));
        let mut counts = [0u32; 8];
        for _ in 0..draws {
            counts[sampler.sample(&mut logits.clone(), &[]) as usize] += 1;
        }
        let weights = logits.map(|l| (f64::from(l) / f64::from(temperature)).exp());
        let sum: f64 = weights.iter().sum();
        let expected = weights.map(|w| w / sum * f64::from(draws));
        let terms = counts.iter().zip(expected).map(|(n, e)| (f64::from(*n) - e).powi(2) / e);
        let chi_square: f64 = terms.sum();
        assert!(chi_square < 24.3, "{chi_square} at temperature {temperature}: {counts:?}");
    }
}

#[test]
fn filters_limit_what_is_drawn() {
    let logits = [0.25f32, 0.1, 0.5, 0.15].map(f32::ln);
    let all = unfiltered(1.0, 7);
    for (config, kept) in [
        (SamplerConfig { top_k: 2, ..all.clone() }, vec![0, 2]),
        (SamplerConfig { top_p: 0.76, ..all.clone() }, vec![0, 2, 3]),
        (SamplerConfig { min_p: 0.4, ..all.clone() }, vec![0, 2]),
        // After top-k two tokens share all the probability, and one has two thirds of it.
        (SamplerConfig { top_k: 2, top_p: 0.6, ..all.clone() }, vec![2]),
        // The filters come before the temperature.
        (SamplerConfig { top_p: 0.76, temperature: 100.0, ..all.clone() }, vec![0, 2, 3]),
        (all, vec![0, 1, 2, 3]),
    ] {
        let mut sampler = sampler(config.clone());
        let mut drawn: Vec<u32> =
            (0..1000).map(|_| sampler.sample(&mut logits.clone(), &[])).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, kept, "{config:?}");
    }
}

#[test]
fn penalty_makes_recent_tokens_less_likely() {
    let config = SamplerConfig { repeat_penalty: 2.0, repeat_last_n: 3, ..greedy() };
    let mut logits = [4.0, 3.0, -1.0, 0.0];
    // Token 1 is too long ago, token 0 counts once, and an id without a logit is ignored.
    assert_eq!(sampler(config.clone()).sample(&mut logits, &[1, 0, 2, 0]), 1);
    assert_eq!(logits, [2.0, 3.0, -2.0, 0.0]);
    let mut logits = [4.0, 3.0, -1.0, 0.0];
    assert_eq!(sampler(config.clone()).sample(&mut logits, &[9, u32::MAX]), 0);
    assert_eq!(logits, [4.0, 3.0, -1.0, 0.0]);
    let all = SamplerConfig { repeat_last_n: usize::MAX, ..config.clone() };
    assert_eq!(sampler(all).sample(&mut [4.0, 3.0], &[0]), 1);
    let none = SamplerConfig { repeat_last_n: 0, ..config };
    assert_eq!(sampler(none).sample(&mut [4.0, 3.0], &[0]), 0);
}

#[test]
fn same_seed_same_tokens() {
    let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 4.0).collect();
    let run = |seed| {
        let mut sampler = sampler(SamplerConfig { seed, ..Default::default() });
        let ids: Vec<u32> = (0..50).map(|_| sampler.sample(&mut logits.clone(), &[])).collect();
        (ids, sampler.seed())
    };
    let (ids, seed) = run(Some(42));
    assert_eq!((ids.clone(), seed), run(Some(42)));
    assert_ne!(ids, run(Some(43)).0);
    let (random, seed) = run(None);
    assert_eq!(random, run(Some(seed)).0);
}

#[test]
fn bad_logits_are_tolerated() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let seeded = SamplerConfig { seed: Some(5), ..Default::default() };
    for config in [greedy(), unfiltered(0.8, 5), seeded] {
        let mut sampler = sampler(SamplerConfig { repeat_penalty: 3.0, ..config });
        assert_eq!(sampler.sample(&mut [nan, 1.0, nan, -inf], &[1]), 1);
        assert_eq!(sampler.sample(&mut [3.0, inf, f32::MAX, -inf], &[1, 2, 3]), 1);
        for mut logits in [[nan; 3], [-inf; 3], [inf; 3], [f32::MIN; 3]] {
            assert!(sampler.sample(&mut logits, &[0, 1, 2]) < 3);
        }
    }
}

#[test]
fn impossible_tokens_stay_impossible_at_any_temperature() {
    let mut sampler = sampler(unfiltered(f32::MAX, 1));
    let mut logits = [f32::NEG_INFINITY, 1.0, f32::NAN, -1.0, f32::NEG_INFINITY];
    for _ in 0..100 {
        assert!([1, 3].contains(&sampler.sample(&mut logits, &[])));
    }
}

#[test]
fn tiny_temperatures_are_nearly_greedy() {
    let mut sampler = sampler(unfiltered(f32::MIN_POSITIVE, 1));
    assert_eq!(sampler.sample(&mut [1.0, 1.1, 1.05], &[]), 1);
}

#[test]
fn settings_out_of_range_are_refused() {
    let default = SamplerConfig::default;
    for (config, name) in [
        (SamplerConfig { temperature: -0.1, ..default() }, "temperature"),
        (SamplerConfig { temperature: f32::INFINITY, ..default() }, "temperature"),
        (SamplerConfig { temperature: f32::NAN, ..default() }, "temperature"),
        (SamplerConfig { top_p: 0.0, ..default() }, "top_p"),
        (SamplerConfig { top_p: 1.1, ..default() }, "top_p"),
        (SamplerConfig { top_p: f32::NAN, ..default() }, "top_p"),
        (SamplerConfig { min_p: -0.1, ..default() }, "min_p"),
        (SamplerConfig { min_p: 1.1, ..default() }, "min_p"),
        (SamplerConfig { repeat_penalty: 0.0, ..default() }, "repeat_penalty"),
        (SamplerConfig { repeat_penalty: f32::INFINITY, ..default() }, "repeat_penalty"),
    ] {
        assert_eq!(Sampler::new(config).unwrap_err().name, name);
    }
    let error = Sampler::new(SamplerConfig { top_p: 0.0, ..default() }).unwrap_err();
    assert_eq!(error.to_string(), "top_p is 0, but must be above 0 and at most 1");
}

#[test]
fn presence_and_frequency_count_picked_tokens() {
    // Token 0 falls to 1.5, 1, 0.5 and 0, token 1 to 0.5 and 0. Among equals the first is picked.
    let config = SamplerConfig { presence_penalty: 1.0, frequency_penalty: 0.5, ..greedy() };
    let mut both = sampler(config.clone());
    let picked: Vec<u32> = (0..6).map(|_| both.sample(&mut [3.0, 2.0, 0.1], &[])).collect();
    assert_eq!(picked, [0, 1, 0, 0, 0, 1]);
    let mut logits = [3.0, 2.0, 0.1];
    both.sample(&mut logits, &[]);
    assert_eq!(logits, [3.0 - 1.0 - 2.0, 2.0 - 1.0 - 1.0, 0.1]);
    // Tokens of the text before the answer do not count.
    assert_eq!(sampler(config).sample(&mut [3.0, 2.0], &[0, 0, 0]), 0);
}

#[test]
fn presence_counts_once_and_frequency_each_time() {
    let picks = |config: SamplerConfig| -> Vec<u32> {
        let mut sampler = sampler(config);
        (0..5).map(|_| sampler.sample(&mut [1.0, 0.0], &[])).collect()
    };
    let presence = SamplerConfig { presence_penalty: 1.5, ..greedy() };
    assert_eq!(picks(presence), [0, 1, 0, 0, 0]);
    let frequency = SamplerConfig { frequency_penalty: 0.75, ..greedy() };
    assert_eq!(picks(frequency), [0, 0, 1, 0, 1]);
    let reward = SamplerConfig { presence_penalty: -2.0, ..greedy() };
    assert_eq!(picks(reward), [0; 5]);
    assert_eq!(picks(greedy()), [0; 5]);
}

#[test]
fn bias_is_added_before_everything_else() {
    let config = SamplerConfig { logit_bias: vec![(2, 5.0), (0, -3.0), (9, 100.0)], ..greedy() };
    let mut logits = [1.0, 0.5, 0.0];
    // An id without a logit is ignored.
    assert_eq!(sampler(config.clone()).sample(&mut logits, &[]), 2);
    assert_eq!(logits, [-2.0, 0.5, 5.0]);
    let penalty = SamplerConfig { repeat_penalty: 2.0, ..config.clone() };
    let mut logits = [1.0, 0.5, 0.0];
    sampler(penalty).sample(&mut logits, &[0, 2]);
    assert_eq!(logits, [-4.0, 0.5, 2.5]);
    let top_1 = SamplerConfig { temperature: 1.0, top_k: 1, ..config };
    assert_eq!(sampler(top_1).sample(&mut [1.0, 0.5, 0.0], &[]), 2);
}

#[test]
fn infinite_biases_force_and_forbid() {
    let inf = f32::INFINITY;
    let bias = |logit_bias| SamplerConfig { logit_bias, ..unfiltered(1.0, 3) };
    let mut forbids = sampler(bias(vec![(0, -inf)]));
    assert!((0..1000).all(|_| forbids.sample(&mut [9.0, 0.0, 0.0], &[]) != 0));
    let mut forces = sampler(bias(vec![(2, inf)]));
    assert!((0..1000).all(|_| forces.sample(&mut [9.0, 0.0, 0.0], &[]) == 2));
    // A token that a constraint has ruled out stays impossible.
    let mut masked = sampler(bias(vec![(0, inf), (1, 100.0)]));
    assert!((0..1000).all(|_| masked.sample(&mut [-inf, -inf, 0.0], &[]) == 2));
}

#[test]
fn penalties_and_biases_that_are_not_numbers_are_refused() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let default = SamplerConfig::default;
    for (config, name) in [
        (SamplerConfig { presence_penalty: nan, ..default() }, "presence_penalty"),
        (SamplerConfig { presence_penalty: -inf, ..default() }, "presence_penalty"),
        (SamplerConfig { frequency_penalty: inf, ..default() }, "frequency_penalty"),
        (SamplerConfig { logit_bias: vec![(0, 1.0), (1, nan)], ..default() }, "logit_bias"),
    ] {
        assert_eq!(Sampler::new(config).unwrap_err().name, name);
    }
}
