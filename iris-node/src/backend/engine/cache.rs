use candle_core::{DType, Device, Result, Tensor};

use super::config::Config;

/// Tokens a new cache has room for beyond the prompt.
const SPARE: usize = 128;

/// The keys and values of one generation, per layer.
///
/// Room is set aside in advance and doubled when it runs out, so a token writes its own row and
/// copies nothing.
pub(super) struct Cache {
    layers: Vec<Layer>,
    context: usize,
    room: usize,
    len: usize,
}

struct Layer {
    /// `(key-value heads, room, head size)`.
    keys: Tensor,
    /// `(key-value heads, head size, room)`: what is summed over lies side by side.
    values: Tensor,
}

impl Cache {
    /// Makes an empty cache with room for a prompt of `tokens`, for at most `context` in all.
    pub(super) fn new(config: &Config, tokens: usize, context: usize) -> Result<Self> {
        let room = (tokens + SPARE).min(context);
        let (heads, size) = (config.kv_heads, config.head_dim);
        let layer = |_| {
            Ok(Layer { keys: zeros((heads, room, size))?, values: zeros((heads, size, room))? })
        };
        let layers = (0..config.layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, context, room, len: 0 })
    }

    /// Returns how many tokens the model has read.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Writes the next tokens' rows of `layer` and returns all rows up to them.
    ///
    /// Keys are `(key-value heads, tokens, head size)`, values have the last two swapped.
    pub(super) fn append(
        &mut self,
        layer: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let end = self.len + keys.dim(1)?;
        if end > self.room {
            self.grow(end)?;
        }
        let layer = &self.layers[layer];
        layer.keys.slice_set(keys, 1, self.len)?;
        layer.values.slice_set(values, 2, self.len)?;
        Ok((layer.keys.narrow(1, 0, end)?, layer.values.narrow(2, 0, end)?))
    }

    /// Counts `tokens` as read, once every layer has appended them.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    fn grow(&mut self, needed: usize) -> Result<()> {
        self.room = (self.room * 2).min(self.context).max(needed);
        for layer in &mut self.layers {
            let (heads, _, size) = layer.keys.dims3()?;
            let keys = zeros((heads, self.room, size))?;
            keys.slice_set(&layer.keys.narrow(1, 0, self.len)?.contiguous()?, 1, 0)?;
            let values = zeros((heads, size, self.room))?;
            values.slice_set(&layer.values.narrow(2, 0, self.len)?.contiguous()?, 2, 0)?;
            *layer = Layer { keys, values };
        }
        Ok(())
    }
}

fn zeros(shape: (usize, usize, usize)) -> Result<Tensor> {
    Tensor::zeros(shape, DType::F32, &Device::Cpu)
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
        };
        let mut cache = Cache::new(&config, 3, 300).unwrap();
        let rows = |from: u8| (from..from + 3).map(f32::from).collect::<Vec<_>>();
        let mut written = Vec::new();
        for step in 0..100u8 {
            let row = Tensor::new(rows(step), &Device::Cpu).unwrap();
            let keys = row.reshape((1, 3, 1)).unwrap().broadcast_as((2, 3, 2)).unwrap();
            let values = keys.transpose(1, 2).unwrap().contiguous().unwrap();
            let all = cache.append(0, &keys.contiguous().unwrap(), &values).unwrap();
            cache.advance(3);
            written.extend(rows(step));
            let last_head = |tensor: Tensor| tensor.narrow(0, 1, 1).unwrap().squeeze(0).unwrap();
            let keys = last_head(all.0).narrow(1, 1, 1).unwrap().flatten_all().unwrap();
            let values = last_head(all.1).narrow(0, 1, 1).unwrap().flatten_all().unwrap();
            assert_eq!(keys.to_vec1::<f32>().unwrap(), written);
            assert_eq!(values.to_vec1::<f32>().unwrap(), written);
        }
        assert_eq!((cache.len(), cache.room), (300, 300));
    }
}
