//! Buffers that are used again and again.

/// Makes `buffer` of `len` values, of which none counts on what was there before.
///
/// A vector that grows by itself takes up to twice what it needs, and while it moves holds both the
/// old and the new; what a run takes could then not be said before.
pub fn refit<T: Copy>(buffer: &mut Vec<T>, len: usize, value: T) {
    if buffer.capacity() < len {
        // The old one first.
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
