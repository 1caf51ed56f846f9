//! Reads the formats that files keep quantised weights in, block by block.

use candle_core::quantized::GgmlDType;
use half::f16;

/// Weights that share a scale: each is its number times the scale, and `low` added.
pub(super) struct Block<const SIZE: usize> {
    pub(super) numbers: [i8; SIZE],
    pub(super) scale: f32,
    pub(super) low: f32,
}

/// Reads all blocks of a row.
type Reader<const SIZE: usize> = fn(&[u8]) -> Vec<Block<SIZE>>;

/// How the numbers of a format are read and kept.
pub(super) enum Format {
    /// From 0 to 15.
    Nibbles(Reader<32>),
    /// From 0 to 31.
    Bytes(Reader<32>),
    /// From -128 to 127.
    Signed(Reader<32>),
    /// The same, with a scale for every 16.
    SignedHalves(Reader<16>),
}

impl Format {
    pub(super) fn of(kind: GgmlDType) -> Option<Self> {
        Some(match kind {
            GgmlDType::Q4_0 => Self::Nibbles(|data| each::<18>(data, q4_0)),
            GgmlDType::Q4_1 => Self::Nibbles(|data| each::<20>(data, q4_1)),
            GgmlDType::Q4K => Self::Nibbles(|data| parts::<144>(data, q4_k)),
            GgmlDType::Q5_0 => Self::Bytes(|data| each::<22>(data, q5_0)),
            GgmlDType::Q5_1 => Self::Bytes(|data| each::<24>(data, q5_1)),
            GgmlDType::Q5K => Self::Bytes(|data| parts::<176>(data, q5_k)),
            GgmlDType::Q8_0 => Self::Signed(|data| each::<34>(data, q8_0)),
            GgmlDType::Q6K => Self::SignedHalves(|data| {
                let (stored, _) = data.as_chunks::<210>();
                stored.iter().flat_map(q6_k).collect()
            }),
            _ => return None,
        })
    }
}

/// Returns what `low` always is of its scale, if it is.
pub(super) fn lowest(kind: GgmlDType) -> Option<f32> {
    match kind {
        GgmlDType::Q4_0 => Some(-8.0),
        GgmlDType::Q5_0 => Some(-16.0),
        GgmlDType::Q8_0 | GgmlDType::Q6K => Some(0.0),
        _ => None,
    }
}

fn each<const BYTES: usize>(data: &[u8], read: fn(&[u8; BYTES]) -> Block<32>) -> Vec<Block<32>> {
    data.as_chunks().0.iter().map(read).collect()
}

fn parts<const BYTES: usize>(
    data: &[u8],
    read: fn(&[u8; BYTES], usize) -> Block<32>,
) -> Vec<Block<32>> {
    data.as_chunks()
        .0
        .iter()
        .flat_map(|stored| (0..8).map(move |part| read(stored, part)))
        .collect()
}

fn float(stored: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([stored[at], stored[at + 1]]).to_f32()
}

/// Returns the low halves of 16 bytes and behind them the high ones.
fn halves(bytes: &[u8]) -> [i8; 32] {
    std::array::from_fn(|at| ((bytes[at % 16] >> (at / 16 * 4)) & 0x0f).cast_signed())
}

/// Adds to each number a fifth bit.
fn with_fifth(numbers: [i8; 32], bits: &[u8]) -> [i8; 32] {
    std::array::from_fn(|at| numbers[at] | (((bits[at / 8] >> (at % 8)) & 1) << 4).cast_signed())
}

fn q4_0(stored: &[u8; 18]) -> Block<32> {
    let scale = float(stored, 0);
    Block { numbers: halves(&stored[2..]), scale, low: -8.0 * scale }
}

fn q4_1(stored: &[u8; 20]) -> Block<32> {
    Block { numbers: halves(&stored[4..]), scale: float(stored, 0), low: float(stored, 2) }
}

fn q5_0(stored: &[u8; 22]) -> Block<32> {
    let (scale, numbers) = (float(stored, 0), halves(&stored[6..]));
    Block { numbers: with_fifth(numbers, &stored[2..6]), scale, low: -16.0 * scale }
}

fn q5_1(stored: &[u8; 24]) -> Block<32> {
    let numbers = with_fifth(halves(&stored[8..]), &stored[4..8]);
    Block { numbers, scale: float(stored, 0), low: float(stored, 2) }
}

fn q8_0(stored: &[u8; 34]) -> Block<32> {
    let numbers = std::array::from_fn(|at| stored[2 + at].cast_signed());
    Block { numbers, scale: float(stored, 0), low: 0.0 }
}

/// Returns scale and low of one of the eight parts of a block of 256.
fn part_scale(stored: &[u8], part: usize) -> (f32, f32) {
    let packed = &stored[4..16];
    let (scale, low) = if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        let (high_scale, high_low) = ((packed[part - 4] >> 6) << 4, (packed[part] >> 6) << 4);
        ((packed[part + 4] & 0x0f) | high_scale, (packed[part + 4] >> 4) | high_low)
    };
    (float(stored, 0) * f32::from(scale), -float(stored, 2) * f32::from(low))
}

/// Returns 32 numbers of a block of 256: two parts lie in the halves of the same bytes.
fn part_numbers(bytes: &[u8], part: usize) -> [i8; 32] {
    let bytes = &bytes[part / 2 * 32..];
    std::array::from_fn(|at| ((bytes[at] >> (part % 2 * 4)) & 0x0f).cast_signed())
}

fn q4_k(stored: &[u8; 144], part: usize) -> Block<32> {
    let (scale, low) = part_scale(stored, part);
    Block { numbers: part_numbers(&stored[16..], part), scale, low }
}

fn q5_k(stored: &[u8; 176], part: usize) -> Block<32> {
    let (scale, low) = part_scale(stored, part);
    let (fifth, numbers) = (&stored[16..48], part_numbers(&stored[48..], part));
    let number = |at: usize| numbers[at] | (((fifth[at] >> part) & 1) << 4).cast_signed();
    Block { numbers: std::array::from_fn(number), scale, low }
}

/// Returns the 16 parts of a block of 256.
fn q6_k(stored: &[u8; 210]) -> [Block<16>; 16] {
    let (four, two) = (&stored[..128], &stored[128..192]);
    std::array::from_fn(|part| {
        let number = |at: usize| {
            // 128 numbers lie in 64 bytes of four bits and 32 bytes of two.
            let (half, quarter, column) = (part / 8, part % 8 / 2, part % 2 * 16 + at);
            let low = (four[half * 64 + quarter % 2 * 32 + column] >> (quarter / 2 * 4)) & 0x0f;
            let high = (two[half * 32 + column] >> (quarter * 2)) & 3;
            (low | (high << 4)).cast_signed() - 32
        };
        let scale = float(stored, 208) * f32::from(stored[192 + part].cast_signed());
        Block { numbers: std::array::from_fn(number), scale, low: 0.0 }
    })
}
