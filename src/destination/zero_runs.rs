//! Runs of zeros, which `--sparse always` turns into holes.

/// The shortest run of zeros that becomes a hole, in bytes: one more request costs the disk about as much as writing
/// this many.
pub const MIN_HOLE: usize = 64 << 10;
static ZEROS: [u8; MIN_HOLE] = [0; MIN_HOLE];

/// A part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub start: usize,
    pub len: usize,
    /// All its bytes are zero.
    pub zero: bool,
}

/// Cuts `data` into runs that are all zero or not, in steps of `granule` bytes, at most [`MIN_HOLE`].
pub fn runs(data: &[u8], granule: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (i, part) in data.chunks(granule).enumerate() {
        let zero = part.len() == granule && *part == ZEROS[..part.len()];
        match runs.last_mut() {
            Some(last) if last.zero == zero => last.len += part.len(),
            _ => runs.push(Run { start: i * granule, len: part.len(), zero }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_granules_of_zeros_are_zero_runs() {
        let mut data = vec![0; 50];
        data[10..20].fill(1);
        let zero = |start, len| Run { start, len, zero: true };
        let data_run = |start, len| Run { start, len, zero: false };
        assert_eq!(runs(&data, 10), [zero(0, 10), data_run(10, 10), zero(20, 30)]);
        assert_eq!(runs(&data[..45], 10), [zero(0, 10), data_run(10, 10), zero(20, 20), data_run(40, 5)]);
        assert_eq!(runs(&[], 10), []);
    }
}
