//! Runs GGUF models inside this process.
