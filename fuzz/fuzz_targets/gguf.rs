//! A model file is refused or loaded.

#![no_main]

use iris_node::backend::engine::properties;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        // The readers of the format panic over some headers, which the engine catches; the
        // fuzzer's own hook would end the process before.
        std::panic::set_hook(Box::new(|_| {}));
    },
    |file: &[u8]| properties::model(file)
);
