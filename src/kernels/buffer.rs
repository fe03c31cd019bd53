//! Buffers that are reused.

/// Resizes `buffer` to `len` values, which are any: the caller overwrites all of them.
///
/// A vector that grows by itself takes up to twice the memory it needs, and more while it is moved.
/// The memory that a run takes could then not be predicted.
pub fn refit<T: Copy>(buffer: &mut Vec<T>, len: usize, value: T) {
    if buffer.capacity() < len {
        // Frees the old memory first.
        *buffer = Vec::new();
        *buffer = vec![value; len];
    }
    buffer.resize(len, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_as_large_as_the_longest_and_no_larger() {
        let mut buffer = Vec::new();
        for (len, capacity) in [(3, 3), (100, 100), (1, 100), (101, 101), (0, 101)] {
            refit(&mut buffer, len, 0.0f32);
            assert_eq!((buffer.len(), buffer.capacity()), (len, capacity));
        }
    }
}
