//! Recipes against published files: exact sizes of the three models Google released.

use lapidary::convert::{Recipe, Totals};
use lapidary::model::{tensors, Architecture, Config};
use lapidary_formats::quant::QuantType;

fn config(sizes: [usize; 6]) -> Config {
    let [n_embd, n_ff, n_layer, n_head, n_head_kv, head_dim] = sizes;
    Config {
        architecture: Architecture::Gemma2,
        name: "gemma-2".into(),
        n_vocab: 256_000,
        n_ctx_train: 8192,
        n_embd,
        n_ff,
        n_head,
        n_head_kv,
        head_dim,
        rms_eps: 1e-6,
        embd_scale: Config::root_of_width(n_embd),
        attn_scale: 0.0625,
        final_softcap: Some(30.0),
        layers: Architecture::Gemma2.layers(n_layer),
    }
}

/// 2B, 9B and 27B.
fn models() -> [Config; 3] {
    [
        config([2304, 9216, 26, 8, 4, 256]),
        config([3584, 14336, 42, 16, 8, 256]),
        config([4608, 36864, 46, 32, 16, 128]),
    ]
}

fn totals(config: &Config, recipe: Recipe, untied: bool) -> Totals {
    Totals::new(tensors(config, untied).iter().map(|spec| {
        let ty = recipe.type_of(spec, config, untied);
        let values: usize = spec.shape.iter().product();
        let rows = values / spec.shape[0];
        (ty, values as u64, (ty.row_bytes(spec.shape[0]).unwrap() * rows) as u64)
    }))
}

/// The type of tensor `name`.
fn type_of(config: &Config, recipe: Recipe, untied: bool, name: &str) -> QuantType {
    let tensors = tensors(config, untied);
    let spec = tensors.iter().find(|spec| spec.name == name).unwrap();
    recipe.type_of(spec, config, untied)
}

#[test]
fn q4_k_m_has_the_published_number_of_bytes() {
    let bytes = models().map(|config| totals(&config, Recipe::Q4_K_M, false).bytes());
    assert_eq!(bytes, [1_702_536_192, 5_755_000_832, 16_639_322_112]);
}

#[test]
fn every_published_size_and_bits_per_weight() {
    let table = [
        (Recipe::Q8_0, ["2.778 8.50", "9.821 8.50", "28.931 8.50"]),
        (Recipe::Q6_K, ["2.145 6.56", "7.583 6.56", "22.337 6.56"]),
        (Recipe::Q5_K_M, ["1.917 5.87", "6.641 5.75", "19.402 5.70"]),
        (Recipe::Q4_K_M, ["1.703 5.21", "5.755 4.98", "16.639 4.89"]),
        (Recipe::Q4_K_S, ["1.633 5.00", "5.473 4.74", "15.733 4.62"]),
        (Recipe::Q3_K_M, ["1.456 4.45", "4.756 4.12", "13.419 3.94"]),
        (Recipe::Q2_K, ["1.224 3.74", "3.799 3.29", "10.444 3.07"]),
    ];
    for (recipe, published) in table {
        let found = models().map(|config| {
            let totals = totals(&config, recipe, false);
            format!("{:.3} {:.2}", totals.bytes() as f64 / 1e9, totals.bits_per_weight())
        });
        assert_eq!(found, published, "{recipe}");
    }
}

/// What llama.cpp (`llama-cpp-python` 0.3.36) says in a dry run over a file of 2B: 1555.85 and 1497.42 MiB.
#[test]
fn iq4_files_have_the_size_of_llama_cpps() {
    let [config, ..] = models();
    let bytes = [Recipe::IQ4_NL, Recipe::IQ4_XS].map(|r| totals(&config, r, false).bytes());
    assert_eq!(bytes, [1_631_425_536, 1_570_157_568]);
}

#[test]
fn sizes_fall_from_recipe_to_recipe() {
    for config in models() {
        let sizes: Vec<u64> = Recipe::all().map(|r| totals(&config, r, false).bytes()).collect();
        // F16 and BF16 are equally large.
        assert!(sizes.windows(2).all(|pair| pair[0] >= pair[1]), "{sizes:?}");
    }
}

#[test]
fn q4_k_m_raises_the_first_eighth_the_last_eighth_and_every_third_between() {
    let [config, ..] = models();
    let raised = |tensor: &str| {
        let name = |i: &usize| format!("blk.{i}.{tensor}.weight");
        let is_raised =
            |i: &usize| type_of(&config, Recipe::Q4_K_M, false, &name(i)) == QuantType::Q6_K;
        (0..26).filter(is_raised).collect::<Vec<usize>>()
    };
    let expected = [0, 1, 2, 5, 8, 11, 14, 17, 20, 22, 23, 24, 25];
    assert_eq!(raised("attn_v"), expected);
    assert_eq!(raised("ffn_down"), expected);
    assert_eq!(raised("attn_output"), [0usize; 0]);
}

#[test]
fn many_query_heads_per_key_raise_attn_v() {
    use QuantType::{IQ4_NL, IQ4_XS, Q3_K, Q4_K, Q5_K};
    let with_kv_heads = |n| config([2304, 9216, 26, 8, n, 256]);
    for (recipe, few, many) in
        [(Recipe::Q2_K, Q3_K, Q4_K), (Recipe::IQ4_NL, IQ4_NL, Q5_K), (Recipe::IQ4_XS, IQ4_XS, Q5_K)]
    {
        let ty = |n| type_of(&with_kv_heads(n), recipe, false, "blk.0.attn_v.weight");
        assert_eq!([ty(4), ty(2)], [few, many], "{recipe}");
    }
}

#[test]
fn a_head_of_its_own_takes_the_place_of_the_embedding() {
    let [config, ..] = models();
    let types = |recipe, untied| {
        let ty = |name| type_of(&config, recipe, untied, name);
        (ty("token_embd.weight"), untied.then(|| ty("output.weight")))
    };
    use QuantType::{IQ4_NL, IQ4_XS, Q2_K, Q4_K, Q6_K, Q8_0};
    assert_eq!(types(Recipe::Q4_K_M, false), (Q6_K, None));
    assert_eq!(types(Recipe::Q4_K_M, true), (Q4_K, Some(Q6_K)));
    assert_eq!(types(Recipe::Q2_K, true), (Q2_K, Some(Q6_K)));
    assert_eq!(types(Recipe::IQ4_NL, false), (Q6_K, None));
    assert_eq!(types(Recipe::IQ4_XS, true), (IQ4_XS, Some(Q6_K)));
    assert_eq!(types(Recipe::IQ4_NL, true), (IQ4_NL, Some(Q6_K)));
    assert_eq!(types(Recipe::Q8_0, true), (Q8_0, Some(Q8_0)));
}

#[test]
fn rows_that_are_no_multiple_of_a_block_fall_back() {
    use QuantType::{BF16, F16, F32, IQ4_NL, Q4_0, Q5_0, Q5_1, Q8_0};
    // Rows of 96 values fit blocks of 32, rows of 100 fit none.
    let (blocks, none) = (config([96, 160, 16, 4, 2, 32]), config([100, 160, 16, 4, 2, 32]));
    let table = [
        (Recipe::Q2_K, "attn_q", Q4_0),
        (Recipe::Q3_K_S, "attn_q", Q4_0),
        (Recipe::IQ4_XS, "attn_q", IQ4_NL),
        (Recipe::IQ4_NL, "attn_q", IQ4_NL),
        (Recipe::Q4_K_M, "attn_q", Q5_0),
        (Recipe::Q5_K_M, "attn_q", Q5_1),
        (Recipe::Q6_K, "attn_q", Q8_0),
        (Recipe::Q8_0, "attn_q", Q8_0),
        (Recipe::F16, "attn_q", F16),
        (Recipe::BF16, "attn_q", BF16),
        (Recipe::Q4_K_M, "attn_v", Q8_0),
        (Recipe::Q4_K_M, "attn_norm", F32),
    ];
    for (recipe, tensor, ty) in table {
        let name = format!("blk.0.{tensor}.weight");
        assert_eq!(type_of(&blocks, recipe, false, &name), ty, "{recipe} {name}");
        let ty = if ty.block_len() == 1 { ty } else { F16 };
        assert_eq!(type_of(&none, recipe, false, &name), ty, "{recipe} {name}");
    }
    assert_eq!(type_of(&blocks, Recipe::Q2_K, false, "token_embd.weight"), Q8_0);
    assert_eq!(type_of(&blocks, Recipe::IQ4_NL, false, "token_embd.weight"), Q8_0);
    assert_eq!(type_of(&blocks, Recipe::IQ4_XS, false, "blk.0.ffn_down.weight"), Q5_1);
    assert_eq!(type_of(&none, Recipe::Q2_K, false, "token_embd.weight"), F16);
}

#[test]
fn recipes_are_known_by_name_in_any_case() {
    for recipe in Recipe::all() {
        assert_eq!(recipe.name().to_lowercase().parse(), Ok(recipe));
        assert_eq!(recipe.to_string().parse(), Ok(recipe));
    }
    let error = "Q9_Z".parse::<Recipe>().unwrap_err().to_string();
    assert!(error.starts_with("unknown recipe `Q9_Z`, expected one of F32"), "{error}");
    assert!(error.contains("Q4_K_M") && !error.contains('\n'), "{error}");
}

#[test]
fn types_that_are_only_read_are_refused_by_name() {
    for ty in QuantType::all().filter(|ty| !ty.is_written()) {
        let error = ty.name().to_lowercase().parse::<Recipe>().unwrap_err().to_string();
        let expected = format!("{ty} files are read, but not written, expected one of F32");
        assert!(error.starts_with(&expected), "{error}");
    }
}
