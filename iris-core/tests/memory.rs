//! Estimates of memory beside figures that others published.

use iris_core::memory::{Attention, ByteSize, CacheType, Fit, Load, Missing, Weights, Window};
use iris_core::model::NameFacts;
use iris_core::quantization::Quantization;
use proptest::prelude::*;

/// What llama.cpp's server counts in Llama 3.1 8B (`tools/server/README.md`).
const LLAMA_8B: u64 = 8_030_261_312;

fn hundredths_of_gib(hundredths: u64) -> ByteSize {
    ByteSize::gib(1).part(hundredths, 100)
}

#[test]
fn files_of_llama_3_1_8b_are_as_large_as_llama_cpp_says() {
    // `tools/quantize/README.md` of llama.cpp: bits for each weight in ten-thousandths, GiB.
    for (name, bits, size) in [
        ("IQ1_S", 20_042, 187),
        ("IQ1_M", 21_460, 201),
        ("IQ2_XXS", 23_824, 223),
        ("IQ2_XS", 25_882, 242),
        ("IQ2_S", 27_403, 256),
        ("IQ2_M", 29_294, 274),
        ("IQ3_XXS", 32_548, 304),
        ("IQ3_XS", 34_977, 327),
        ("IQ3_S", 36_606, 342),
        ("IQ3_M", 37_628, 352),
        ("IQ4_XS", 44_597, 417),
        ("IQ4_NL", 46_818, 438),
        ("Q2_K_S", 29_697, 278),
        ("Q2_K", 31_593, 295),
        ("Q3_K_S", 36_429, 341),
        ("Q3_K_L", 42_979, 402),
        ("Q4_K_S", 46_672, 436),
        ("Q4_K_M", 48_944, 458),
        ("Q5_K_S", 55_704, 521),
        ("Q5_K_M", 57_036, 533),
        ("Q6_K", 65_633, 614),
        ("Q8_0", 85_008, 795),
        ("F16", 160_005, 1496),
    ] {
        let known = Quantization::of(name).expect("it is known");
        assert!((u64::from(known.hundredths_of_bits) * 100).abs_diff(bits) <= 50, "{name}");
        let exact = ByteSize::new(LLAMA_8B).part(known.hundredths_of_bits.into(), 800);
        let off = exact.get().abs_diff(hundredths_of_gib(size).get());
        assert!(off * 200 < exact.get(), "{name}: {exact}");
    }
    // The sizes that `llama-quantize --help` prints of Llama 3 8B.
    for (name, size) in [
        ("Q4_0", 434),
        ("Q4_1", 478),
        ("Q5_0", 521),
        ("Q5_1", 565),
        ("Q3_K_M", 374),
        ("Q4_K_S", 437),
        ("Q8_0", 796),
    ] {
        let known = Quantization::of(name).expect("it is known");
        let exact = ByteSize::new(LLAMA_8B).part(known.hundredths_of_bits.into(), 800);
        let off = exact.get().abs_diff(hundredths_of_gib(size).get());
        assert!(off * 200 < exact.get(), "{name}: {exact}");
    }
}

#[test]
fn published_sizes_lie_within_the_bounds() {
    let counted = |count, name| Weights::Counted(count, Quantization::of(name));
    let named = |name: &str| Weights::of_name(&NameFacts::of(name));
    for (weights, bytes, source) in [
        // `tools/quantize/README.md` of llama.cpp, "Memory/Disk Requirements".
        (named("Llama-3.1-8B-Q4_K_M"), 4_900_000_000, "llama.cpp"),
        (named("Llama-3.1-70B-Q4_K_M"), 43_100_000_000, "llama.cpp"),
        (named("Llama-3.1-405B-Q4_K_M"), 249_100_000_000, "llama.cpp"),
        // `tools/server/README.md` of llama.cpp, the answer of `/v1/models`.
        (counted(LLAMA_8B, "Q4_K_M"), 4_912_898_304, "llama.cpp"),
        (named("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"), 4_912_898_304, "llama.cpp"),
        // A log of Ollama with Llama 3.1 70B: 70.55 B, 37.22 GiB (ollama/ollama, pull 6279).
        (counted(70_550_000_000, "Q4_0"), 39_964_669_542, "Ollama"),
        // LM Studio's documentation of `/api/v1/models`.
        (named("gemma-3-270m-it-q4_0"), 241_410_208, "LM Studio"),
        // Ollama's documentation of `/api/tags`.
        (named("codellama:13b-q4_0"), 7_365_960_935, "Ollama"),
        (named("llama2:7b-q4_0"), 3_825_819_519, "Ollama"),
        // vLLM's logs: weights of Llama 3.1 70B in eight bits (pull 12569), of Llama 3.1 8B in 16.
        (named("Llama-3.1-70B-w8a8"), 67_722_900_000, "vLLM"),
        (counted(LLAMA_8B, "BF16"), 16_060_522_496, "vLLM"),
    ] {
        let span = weights.span().expect("it is known");
        assert!(span.contains(ByteSize::new(bytes)), "{source}: {bytes} not in {span:?}");
        let (least, most) = (span.least.get(), span.most.get());
        assert!(most < least * 4, "bounds that say something: {weights:?} {span:?}");
    }
}

#[test]
fn caches_are_as_large_as_published() {
    let llama_8b = Attention::new(32, 8, 128);
    let llama_70b = Attention::new(80, 8, 128);
    let f16 = CacheType::F16;
    // "Llama 3.1 - 405B, 70B & 8B with multilinguality and long context", Hugging Face's blog.
    for (attention, tokens, hundredths) in [
        (llama_8b, 16_000, 195),
        (llama_8b, 128_000, 1562),
        (llama_70b, 16_000, 488),
        (llama_70b, 128_000, 3906),
    ] {
        let size = attention.context(tokens, f16).get();
        let off = size.abs_diff(hundredths_of_gib(hundredths).get());
        assert!(off < 10_000_000, "{tokens}: {size}");
    }
    // vllm-project/vllm, issue 34076: "24.0 GiB KV cache is needed" for Qwen3-Coder-30B-A3B.
    assert_eq!(Attention::new(48, 4, 128).context(262_144, f16), ByteSize::gib(24));
    // Logs of llama.cpp: "KV self size = 112.00 MiB" with 28 layers of 512 values, and 144.00 MiB
    // with 36 of 256 (JamePeng/llama-cpp-python, pull 1; SciSharp/LLamaSharp, issue 1099).
    assert_eq!(Attention::new(28, 4, 128).context(2048, f16), ByteSize::mib(112));
    assert_eq!(Attention::new(36, 2, 128).context(4096, f16), ByteSize::mib(144));
    // ggml's blocks: eight bits and a scale take 17/32 of sixteen.
    assert_eq!(llama_8b.context(8192, CacheType::Q8_0), ByteSize::mib(544));
    assert_eq!(llama_8b.context(8192, CacheType::Q4_0), ByteSize::mib(288));
    // The paper on DeepSeek-V2 counts (512 + 64) values a layer.
    assert_eq!(Attention::latent(61, 576).token(f16).get(), 61 * 576 * 2);
}

#[test]
fn what_ollama_takes_lies_within_the_bounds() {
    // Ollama's documentation of `/api/ps`: a model of 7.2 B as it was in June 2024, with the 2048
    // tokens that were the default then, and Gemma 3 with its vision and 4096 tokens.
    let mut mistral = Load::new(Weights::Counted(7_248_023_552, Quantization::of("Q4_0")));
    mistral.attention = Some(Attention::new(32, 8, 128));
    mistral.context_tokens = 2048;
    let mut gemma = Load::new(Weights::Counted(4_299_915_632, Quantization::of("Q4_K_M")));
    let window = Some(Window { layers: 29, tokens: 1024 });
    gemma.attention = Some(Attention { window, ..Attention::new(34, 4, 256) });
    gemma.sees = true;
    for (load, bytes) in [(mistral, 5_137_025_024), (gemma, 6_591_830_464)] {
        let estimate = load.estimate();
        let most = estimate.most().expect("all is known");
        assert!((estimate.least()..=most).contains(&ByteSize::new(bytes)), "{estimate:?}");
    }
}

#[test]
fn windows_are_kept_for_the_layers_that_have_them() {
    let narrow =
        Attention { window: Some(Window { layers: 5, tokens: 1024 }), ..Attention::new(6, 1, 64) };
    let kept = |tokens| narrow.context(tokens, CacheType::F16).get() / 256;
    assert_eq!((kept(512), kept(1024), kept(4096)), (6 * 512, 6 * 1024, 4096 + 5 * 1024));
}

#[test]
fn what_is_not_known_is_said() {
    let nothing = Load::new(Weights::Unknown).estimate();
    assert_eq!(nothing.missing().collect::<Vec<_>>(), [Missing::Weights, Missing::Attention]);
    assert_eq!((nothing.most(), nothing.fits(ByteSize::gib(1000))), (None, Fit::Perhaps));

    let named = Load::new(Weights::of_name(&NameFacts::of("llama3:70b"))).estimate();
    let weights = named.weights.expect("between bounds");
    assert!(!weights.is_exact(), "how they are stored is not told");
    assert_eq!(named.fits(ByteSize::gib(8)), Fit::No, "not even in two bits");
    assert_eq!(named.fits(ByteSize::gib(1000)), Fit::Perhaps);
    let effective = Weights::of_name(&NameFacts::of("google/gemma-3n-E4B-it"));
    assert_eq!(effective, Weights::Unknown, "the others are kept elsewhere, and take room");
}

#[test]
fn slots_multiply_the_context() {
    let mut load = Load::new(Weights::Files(ByteSize::gib(4)));
    load.attention = Some(Attention::new(32, 8, 128));
    let cache = |slots| Load { slots, ..load }.estimate().cache.expect("it is known").most;
    assert_eq!(
        (cache(0), cache(1), cache(4)),
        (ByteSize::ZERO, ByteSize::mib(512), ByteSize::gib(2))
    );
}

#[test]
fn sizes_are_written_for_people() {
    for (size, text) in [
        (ByteSize::new(4_912_898_304), "4.57 GiB"),
        (ByteSize::mib(64), "64.00 MiB"),
        (ByteSize::ZERO, "0.00 MiB"),
    ] {
        assert_eq!(size.to_string(), text);
    }
}

proptest! {
    #[test]
    fn estimates_of_anything_have_bounds_in_order(
        count in any::<u64>(),
        stored in 0..Quantization::KNOWN.len() + 1,
        numbers in any::<[u32; 7]>(),
        kind in 0..4,
        sees in any::<bool>(),
    ) {
        let quantization = Quantization::KNOWN.get(stored).copied();
        let weights = match kind {
            0 => Weights::Unknown,
            1 => Weights::Files(ByteSize::new(count)),
            2 => Weights::Counted(count, quantization),
            _ => Weights::Named(count, quantization),
        };
        let [layers, kv_heads, head, context_tokens, slots, narrow, tokens] = numbers;
        let window = Some(Window { layers: narrow, tokens });
        let attention = Some(Attention { window, ..Attention::new(layers, kv_heads, head) });
        let load = Load { weights, attention, cache: CacheType::F32, context_tokens, slots, sees };
        let estimate = load.estimate();
        prop_assert!(estimate.most().is_none_or(|most| most >= estimate.least()));
        prop_assert_eq!(estimate.most().is_none(), kind == 0);
        for span in [estimate.weights, estimate.cache].into_iter().flatten() {
            prop_assert!(span.least <= span.most);
        }
    }
}
