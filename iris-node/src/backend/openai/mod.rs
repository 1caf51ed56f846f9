//! Forwards to a model server that speaks the OpenAI API.
