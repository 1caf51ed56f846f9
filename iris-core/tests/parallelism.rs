//! Where models run, beside what vLLM's makers and users published.

use std::collections::BTreeSet;

use iris_core::memory::{Attention, ByteSize, CacheType};
use iris_core::parallelism::{
    Gpu, Machine, Model, Need, Plan, Reason, Scale, Shape, Usage, concurrency, plan,
};
use proptest::prelude::*;

/// Memory as `nvidia-smi` and `rocm-smi` tell it, in MiB.
const T4: (&str, u64) = ("T4", 15_360);
const RTX_3090: (&str, u64) = ("RTX 3090", 24_576);
const RTX_4090: (&str, u64) = ("RTX 4090", 24_564);
const L40S: (&str, u64) = ("L40S", 46_068);
const A100: (&str, u64) = ("A100 80GB", 81_920);
const H100: (&str, u64) = ("H100 80GB", 81_559);
const H200: (&str, u64) = ("H200", 143_771);
const MI300X: (&str, u64) = ("MI300X", 196_592);

fn gpu((name, mib): (&str, u64)) -> Gpu {
    Gpu { name: name.to_owned(), memory: ByteSize::mib(mib) }
}

fn machine(kind: (&str, u64), count: usize) -> Machine {
    Machine { gpus: vec![gpu(kind); count], has_fast_links: true }
}

/// Makes a model of so many bytes with heads of 128 values.
fn model(weights: u64, layers: u32, heads: u32, kv_heads: u32) -> Model {
    let attention = Attention::new(layers, kv_heads, 128);
    let weights = ByteSize::new(weights);
    Model { weights, layers, heads, attention, cache: CacheType::F16 }
}

fn llama_8b() -> Model {
    model(16_060_522_624, 32, 32, 8)
}

fn llama_13b() -> Model {
    model(26_031_728_640, 40, 40, 40)
}

fn llama_70b() -> Model {
    model(141_107_412_992, 80, 64, 8)
}

fn llama_405b(bytes_each: u64) -> Model {
    model(405_853_388_800 * bytes_each, 126, 128, 8)
}

/// Its files are 689 GB, eight bits for most of 671 billion.
fn deepseek_r1() -> Model {
    let attention = Attention::latent(61, 576);
    Model { attention, ..model(689_000_000_000, 61, 128, 1) }
}

fn decide(model: &Model, context_tokens: u32, requests: u32, machines: &[Machine]) -> Plan {
    plan(model, Need { context_tokens, requests }, machines, &Usage::default())
}

fn shape(tensor: u32, pipeline: u32, machines: u32) -> Shape {
    Shape { tensor, pipeline, machines }
}

#[test]
fn models_run_where_published_setups_run_them() {
    let slow = Machine { has_fast_links: false, ..machine(L40S, 4) };
    let full = 131_072;
    for (source, model, context, machines, expected, reason) in [
        // Guide on GPUs for Red Hat OpenShift AI: 1B to 8B in 16 bits on one GPU with 24 GB.
        ("Red Hat", llama_8b(), 8192, vec![machine(RTX_4090, 1)], shape(1, 1, 1), Reason::OneGpu),
        // vLLM's documentation of tensor parallelism: Llama 3.1 70B on 4 GPUs.
        ("vLLM", llama_70b(), full, vec![machine(A100, 4)], shape(4, 1, 1), Reason::LayersDivided),
        // vllm-project/vllm, issue 10517: Llama 3.1 70B on two H100 with 20,000 tokens.
        (
            "10517",
            llama_70b(),
            20_000,
            vec![machine(H100, 2)],
            shape(2, 1, 1),
            Reason::LayersDivided,
        ),
        // Issue 596: Llama 2 13B on three RTX 3090, of which two can divide it.
        (
            "596",
            llama_13b(),
            4096,
            vec![machine(RTX_3090, 3)],
            shape(2, 1, 1),
            Reason::LayersDivided,
        ),
        // Issue 5003: Llama 3 70B has no third part of its heads. What vLLM's documentation says of
        // an uneven number of GPUs: `pipeline_parallel_size` is that number.
        ("5003", llama_70b(), full, vec![machine(A100, 3)], shape(1, 3, 1), Reason::LayersDealt),
        // The same documentation, of GPUs without NVLink such as the L40S: pipeline, not tensor.
        ("L40S", llama_70b(), 8192, vec![slow], shape(1, 4, 1), Reason::LayersDealt),
        // vLLM's blog on Llama 3.1: 405B in 8 bits on 8 A100 or H100, in 16 bits on 8 H200 or
        // MI300X, or on several nodes that take layers each.
        (
            "blog",
            llama_405b(1),
            full,
            vec![machine(A100, 8)],
            shape(8, 1, 1),
            Reason::LayersDivided,
        ),
        (
            "blog",
            llama_405b(1),
            full,
            vec![machine(H100, 8)],
            shape(8, 1, 1),
            Reason::LayersDivided,
        ),
        (
            "blog",
            llama_405b(2),
            full,
            vec![machine(H200, 8)],
            shape(8, 1, 1),
            Reason::LayersDivided,
        ),
        (
            "blog",
            llama_405b(2),
            full,
            vec![machine(MI300X, 8)],
            shape(8, 1, 1),
            Reason::LayersDivided,
        ),
        ("blog", llama_405b(2), full, vec![machine(H100, 8); 2], shape(8, 2, 2), Reason::Hybrid),
        // vLLM's recipe for DeepSeek R1: 8 H200. SGLang's table for it: two times 8 H100.
        (
            "recipe",
            deepseek_r1(),
            full,
            vec![machine(H200, 8)],
            shape(8, 1, 1),
            Reason::LayersDivided,
        ),
        ("table", deepseek_r1(), full, vec![machine(H100, 8); 2], shape(8, 2, 2), Reason::Hybrid),
    ] {
        let plan = decide(&model, context, 1, &machines);
        let layout = plan.layout.as_ref().unwrap_or_else(|| panic!("{source}: {plan:?}"));
        assert_eq!(
            (layout.shape(), plan.reason, plan.is_enough),
            (expected, reason, true),
            "{source}"
        );
    }
}

#[test]
fn what_does_not_hold_a_model_is_told_apart() {
    // vLLM's blog leaves 405B in 16 bits no other way on one machine of 8 H100.
    let none = decide(&llama_405b(2), 4096, 1, &[machine(H100, 8)]);
    assert_eq!((none.layout, none.reason), (None, Reason::NothingHolds));
    assert!(none.passed_over.contains(&(shape(8, 1, 1), Reason::WeightsTooLarge)));
    assert_eq!(decide(&llama_8b(), 4096, 1, &[]).reason, Reason::NoGpu);
    assert_eq!(decide(&llama_8b(), 4096, 1, &[machine(T4, 0)]).reason, Reason::NoGpu);

    let two = decide(&llama_70b(), 131_072, 1, &[machine(A100, 2)]);
    assert_eq!(two.reason, Reason::NothingHolds, "vllm-project/vllm, issue 5003");
    assert!(two.passed_over.contains(&(shape(2, 1, 1), Reason::CacheTooSmall)));
}

#[test]
fn heads_that_cannot_be_divided_deal_the_layers() {
    // vllm-project/vllm, issue 2652: "Total number of attention heads (52) must be divisible by
    // tensor parallel size (8)".
    let plan = decide(&model(65_057_902_592, 60, 52, 52), 2048, 1, &[machine(T4, 8)]);
    assert!(plan.passed_over.contains(&(shape(8, 1, 1), Reason::HeadsNotDivisible)));
    assert!(plan.passed_over.contains(&(shape(4, 1, 1), Reason::WeightsTooLarge)));
    assert_eq!(plan.layout.map(|layout| layout.shape()), Some(shape(1, 6, 1)));
    // Issue 11797: Qwen2 7B, with 28 heads and 4 for keys and values.
    let plan = decide(&model(15_231_233_024, 28, 28, 4), 32_768, 1000, &[machine(RTX_4090, 8)]);
    assert!(plan.passed_over.contains(&(shape(8, 1, 1), Reason::HeadsNotDivisible)));
    // The same issue: the heads for keys and values count, too. Phi-3 medium has 40 and 10 of them.
    let plan = decide(&model(27_920_476_160, 40, 40, 10), 4096, 1000, &[machine(RTX_4090, 4)]);
    assert!(plan.passed_over.contains(&(shape(2, 1, 1), Reason::TooFewRequests)));
    assert!(plan.passed_over.contains(&(shape(4, 1, 1), Reason::HeadsNotDivisible)));
}

#[test]
fn gpus_that_differ_take_layers_by_their_memory() {
    // vllm-project/vllm, issue 34076: Qwen3-Coder-30B-A3B in 8 bits on 16 and 32 GB, with 16 and 32
    // of its layers.
    let gpus = vec![gpu(("RTX 5070 Ti", 16_303)), gpu(("RTX 5090 D", 32_607))];
    let qwen = model(31_100_000_000, 48, 32, 4);
    let plan = decide(&qwen, 34_736, 1, &[Machine { gpus, has_fast_links: true }]);
    assert!(plan.passed_over.contains(&(shape(2, 1, 1), Reason::GpusDiffer)));
    let stages = plan.layout.expect("it holds").stages;
    let dealt: Vec<_> = stages.into_iter().map(|stage| (stage.gpus, stage.layers)).collect();
    assert_eq!(dealt, [(vec![1], 32), (vec![0], 16)]);
}

#[test]
fn more_requests_take_more_gpus() {
    let four = [machine(RTX_4090, 4)];
    let found = |requests| {
        let plan = decide(&llama_8b(), 8192, requests, &four);
        (plan.layout.as_ref().expect("it holds").shape(), plan.is_enough, plan.scale())
    };
    assert_eq!(found(4), (shape(1, 1, 1), true, Some(Scale::OneGpu)));
    assert_eq!(found(16), (shape(2, 1, 1), true, Some(Scale::OneMachine)));
    assert_eq!(found(32), (shape(4, 1, 1), true, Some(Scale::OneMachine)));
    assert_eq!(found(1000), (shape(4, 1, 1), false, Some(Scale::OneMachine)));
    let plan = decide(&llama_8b(), 8192, 16, &four);
    assert_eq!(plan.passed_over, [(shape(1, 1, 1), Reason::TooFewRequests)]);
}

#[test]
fn machines_with_one_gpu_each_take_layers_each() {
    let plan = decide(&llama_13b(), 4096, 1, &[machine(RTX_3090, 1), machine(RTX_4090, 1)]);
    assert_eq!((plan.reason, plan.scale()), (Reason::MachinesDealt, Some(Scale::SeveralMachines)));
    assert_eq!(plan.layout.expect("it holds").shape(), shape(1, 2, 2));
}

#[test]
fn blocks_are_as_many_as_servers_count() {
    let gib = |hundredths| ByteSize::gib(1).part(hundredths, 100);
    let f16 = CacheType::F16;
    let usage = Usage::default();
    // vllm-project/vllm, issue 34076: with 3.18 GiB "the estimated maximum model length is 34736".
    let tokens = usage.tokens(usage.blocks(gib(318), Attention::new(48, 4, 128).token(f16)));
    assert!(tokens.abs_diff(34_736) <= 64, "{tokens}");
    // Issue 21348: Qwen3-235B-A22B on four H100, 8.11 GiB each: 178,880 tokens, of the GPU with
    // least. Each has one of the four heads.
    let tokens = usage.tokens(usage.blocks(gib(811), Attention::new(94, 1, 128).token(f16)));
    assert!(tokens >= 178_880 && tokens * 1000 < 178_880 * 1015, "{tokens}");
    // pegainfer-project/pegainfer, issue 422, which counts as vLLM does: Qwen3 4B on a card of
    // 24,112 MiB, 9,094 of them for weights, 337 and 150 for the rest: 5,385 blocks.
    let usage = Usage { overhead: ByteSize::mib(337 + 150), ..usage };
    let room = usage.usable(ByteSize::mib(24_112)).minus(ByteSize::mib(9094)).expect("it fits");
    let blocks = usage.blocks(room, Attention::new(36, 8, 128).token(f16));
    assert!(blocks.abs_diff(5385) <= 1, "{blocks}");
}

#[test]
fn concurrency_is_what_vllm_logs() {
    for (tokens, context, logged) in [
        // vLLM's documentation, "Parallelism and scaling".
        (643_232, 40_960, 1570),
        // vllm-project/vllm, pull 12569: "# GPU blocks: 1381", 10.79x.
        (1381 * 16, 2048, 1079),
        // Pull 13596: "# GPU blocks: 127626", 997.08x.
        (127_626 * 16, 2048, 99_708),
    ] {
        assert_eq!(concurrency(tokens, context), logged);
    }
    assert_eq!((concurrency(u64::MAX, 0), concurrency(0, 1)), (u64::MAX, 0));
}

#[test]
fn every_reason_has_a_name_and_a_sentence_of_its_own() {
    let all = [
        Reason::OneGpu,
        Reason::LayersDivided,
        Reason::LayersDealt,
        Reason::MachinesDealt,
        Reason::Hybrid,
        Reason::WeightsTooLarge,
        Reason::CacheTooSmall,
        Reason::TooFewRequests,
        Reason::HeadsNotDivisible,
        Reason::GpusDiffer,
        Reason::TooFewLayers,
        Reason::NoGpu,
        Reason::NothingHolds,
    ];
    let names: BTreeSet<_> = all.iter().map(|reason| reason.name()).collect();
    let sentences: BTreeSet<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!((names.len(), sentences.len()), (all.len(), all.len()));
    assert!(sentences.iter().all(|sentence| sentence.ends_with('.')));
}

fn any_machine() -> impl Strategy<Value = Machine> {
    let kind = prop::sample::select(vec![T4, RTX_3090, RTX_4090, L40S, H100, ("none", 0)]);
    let gpus = prop::collection::vec(kind.prop_map(gpu), 0..10);
    (gpus, any::<bool>()).prop_map(|(gpus, has_fast_links)| Machine { gpus, has_fast_links })
}

proptest! {
    #[test]
    fn what_is_planned_fits(
        machines in prop::collection::vec(any_machine(), 0..5),
        gib in 0_u64..400,
        layers in 0_u32..130,
        heads in 0_u32..130,
        kv_heads in 0_u32..20,
        context_tokens in 0_u32..200_000,
        requests in 0_u32..50,
    ) {
        let model = model(gib << 30, layers, heads, kv_heads);
        let plan = decide(&model, context_tokens, requests, &machines);
        prop_assert!(plan.passed_over.len() <= Plan::MAX_PASSED_OVER);
        let Some(layout) = plan.layout else { return Ok(()) };
        prop_assert!(layout.tokens >= u64::from(context_tokens));
        prop_assert_eq!(layout.stages.iter().map(|stage| stage.layers).sum::<u32>(), layers);
        let mut used = BTreeSet::new();
        for stage in &layout.stages {
            let width = u64::try_from(stage.gpus.len()).unwrap();
            prop_assert!(width == 1 || u64::from(heads) % width == 0);
            let weights = u128::from(gib << 30) * u128::from(stage.layers)
                / (u128::from(layers.max(1)) * u128::from(width));
            for gpu in &stage.gpus {
                prop_assert!(used.insert((stage.machine, *gpu)), "used twice");
                let memory = machines[stage.machine].gpus[*gpu].memory.get();
                prop_assert!(weights <= u128::from(memory) * 9 / 10);
            }
        }
    }

    #[test]
    fn numbers_of_any_size_are_taken(numbers in any::<[u32; 6]>(), weights in any::<u64>(), percent in any::<u8>()) {
        let [layers, heads, kv_heads, context_tokens, requests, block_tokens] = numbers;
        let usage = Usage { percent, block_tokens, overhead: ByteSize::new(weights) };
        let need = Need { context_tokens, requests };
        let huge = Gpu { name: String::new(), memory: ByteSize::new(u64::MAX) };
        let machine = Machine { gpus: vec![huge; 3], has_fast_links: true };
        let machines = vec![machine; 70];
        let plan = plan(&model(weights, layers, heads, kv_heads), need, &machines, &usage);
        prop_assert!(plan.reason != Reason::NoGpu);
    }
}
