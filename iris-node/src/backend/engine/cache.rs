use super::config::Config;
use super::matrix::{dots, softmax};
use super::network::Memory;

/// Tokens a new cache has room for beyond the prompt.
const SPARE: usize = 128;

/// The keys and values of one conversation, per layer.
///
/// Room is set aside in advance and doubled when it runs out, so a token writes its own row and
/// copies nothing.
pub(super) struct Cache {
    layers: Vec<Layer>,
    heads: usize,
    size: usize,
    context: usize,
    room: usize,
    len: usize,
}

struct Layer {
    /// `(key-value heads, room, head size)`.
    keys: Vec<f32>,
    /// `(key-value heads, head size, room)`: what is summed over lies side by side.
    values: Vec<f32>,
}

impl Cache {
    /// Makes an empty cache with room for a prompt of `tokens`, for at most `context` in all.
    pub(super) fn new(config: &Config, tokens: usize, context: usize) -> Self {
        let room = (tokens + SPARE).min(context);
        let (heads, size) = (config.kv_heads, config.head_dim);
        let zeros = || vec![0.0; heads * room * size];
        let layers = (0..config.layers).map(|_| Layer { keys: zeros(), values: zeros() });
        Self { layers: layers.collect(), heads, size, context, room, len: 0 }
    }

    /// Writes the next tokens' rows of `layer`, each `(key-value heads, head size)`.
    pub(super) fn append(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let Self { heads, size, len, .. } = *self;
        let end = len + keys.len() / (heads * size);
        if end > self.room {
            self.grow(end);
        }
        let (room, layer) = (self.room, &mut self.layers[layer]);
        for (row, at) in (len..end).enumerate() {
            for head in 0..heads {
                let from = (row * heads + head) * size;
                let to = (head * room + at) * size;
                layer.keys[to..to + size].copy_from_slice(&keys[from..from + size]);
                let columns = layer.values[head * size * room..].iter_mut().skip(at).step_by(room);
                for (to, value) in columns.zip(&values[from..from + size]) {
                    *to = *value;
                }
            }
        }
    }

    /// Looks with one head of a query at the first `seen` tokens, and writes what it finds.
    pub(super) fn attend(
        &self,
        layer: usize,
        head: usize,
        query: &[f32],
        seen: usize,
        found: &mut [f32],
    ) {
        let (size, room, layer) = (self.size, self.room, &self.layers[layer]);
        #[allow(clippy::cast_precision_loss)]
        let scale = 1.0 / (size as f32).sqrt();
        let mut weights = vec![0.0; seen];
        dots(query, &layer.keys[head * room * size..], size, &mut weights);
        for weight in &mut weights {
            *weight *= scale;
        }
        softmax(&mut weights);
        dots(&weights, &layer.values[head * size * room..], room, found);
    }

    /// Counts `tokens` as read, once every layer has appended them.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    fn grow(&mut self, needed: usize) {
        let (old, len) = (self.room, self.len);
        self.room = (old * 2).min(self.context).max(needed);
        let (keys, values) = (self.heads, self.heads * self.size);
        for layer in &mut self.layers {
            layer.keys = widened(&layer.keys, keys, len * self.size, self.room * self.size);
            layer.values = widened(&layer.values, values, len, self.room);
        }
    }
}

impl Memory for Cache {
    fn len(&self) -> usize {
        self.len
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

/// Copies the used beginnings of `rows` rows to longer ones.
fn widened(rows_of: &[f32], rows: usize, used: usize, len: usize) -> Vec<f32> {
    let mut wide = vec![0.0; rows * len];
    let old = rows_of.chunks_exact(rows_of.len() / rows);
    for (to, from) in wide.chunks_exact_mut(len).zip(old) {
        to[..used].copy_from_slice(&from[..used]);
    }
    wide
}

#[cfg(test)]
mod tests {
    use super::super::config::RopeLayout;
    use super::*;

    #[test]
    fn rows_survive_growth() {
        let config = Config {
            context: 1000,
            width: 4,
            layers: 1,
            feed_forward: 4,
            heads: 2,
            kv_heads: 2,
            head_dim: 2,
            norm_epsilon: 1e-5,
            rope_layout: RopeLayout::Adjacent,
            rope_dim: 2,
            rope_base: 1e4,
            rope_scale: 1.0,
            pooling: None,
        };
        let mut cache = Cache::new(&config, 3, 300);
        for step in 0..100u8 {
            // Each token's number, negated for the second head.
            let rows = (step * 2..step * 2 + 3).map(f32::from);
            let rows: Vec<f32> = rows.flat_map(|n| [n, n, -n, -n]).collect();
            cache.append(0, &rows, &rows);
            cache.advance(3);
        }
        assert_eq!((cache.len(), cache.room), (300, 300));
        let mut found = [0.0; 2];
        // A strong query takes the token with the greatest key, as far as it may see.
        for (head, seen, expected) in [(0, 300, 200.0), (0, 150, 100.0), (1, 300, 0.0)] {
            cache.attend(0, head, &[100.0, 100.0], seen, &mut found);
            let near = found.iter().all(|value| (value - expected).abs() < 1e-3);
            assert!(near, "head {head}, {seen} tokens: {found:?}");
        }
        cache.truncate(10);
        cache.append(0, &[900.0; 4], &[900.0; 4]);
        cache.attend(0, 1, &[1.0, 1.0], 11, &mut found);
        assert!(cache.len() == 10 && found.iter().all(|value| (value - 900.0).abs() < 1e-3));
    }
}
