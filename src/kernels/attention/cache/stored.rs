//! Rows of the cache as they are stored in a file: by position, in whatever order they lie in memory.

use std::ops::Range;

use super::{KvRows, Slots, Spans, Unit, SPAN, UNIT};

impl KvRows {
    /// The positions that it holds.
    pub fn positions(&self) -> Range<usize> {
        self.first().min(self.len)..self.len
    }

    /// Appends the row at `pos` to `bytes`: the heads in order, each in whole units of 32 values,
    /// little-endian.
    ///
    /// # Panics
    /// If `pos` is not one of [`positions`](Self::positions).
    pub fn append_row(&self, pos: usize, bytes: &mut Vec<u8>) {
        assert!(self.positions().contains(&pos), "no row at position {pos}");
        each_type!(&self.slots, spans => spans.append_row(pos, bytes));
    }

    /// Makes it hold the rows at `positions`, or as many of the last as there is room for, and
    /// nothing else. `next` is called for every position in order, and fills in the bytes that
    /// [`append_row`](Self::append_row) made of it.
    ///
    /// # Errors
    /// Those of `next`; then it is empty.
    pub fn restore<E>(
        &mut self,
        positions: Range<usize>,
        mut next: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.truncate(0);
        let mut bytes = vec![0; self.row_bytes()];
        let first = positions.start.max(positions.end.saturating_sub(self.shape.capacity));
        for pos in positions.clone() {
            next(&mut bytes)?;
            if pos >= first {
                each_type!(&mut self.slots, spans => spans.put_row(pos, &bytes));
            }
        }
        self.len = positions.end;
        // So that `first()` is the first row that is there, though none was overwritten yet.
        self.reached = if first == 0 { self.len } else { first + self.shape.capacity };
        Ok(())
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        each_type!(&self.slots, spans => spans.row_bytes())
    }
}

impl<U: Unit> Spans<U> {
    fn row_bytes(&self) -> usize {
        self.shape.n_head_kv * self.shape.head_dim.div_ceil(UNIT) * size_of::<U>()
    }

    fn append_row(&self, pos: usize, bytes: &mut Vec<u8>) {
        let (positions, units) = self.rows(self.slot(pos));
        for head in self.slots[self.slot(pos)].chunks_exact(positions * units) {
            for unit in &head[pos % SPAN * units..][..units] {
                bytes.extend_from_slice(bytemuck::bytes_of(&unit.to_le()));
            }
        }
    }

    fn put_row(&mut self, pos: usize, bytes: &[u8]) {
        let slot = self.slot(pos);
        let (n_head_kv, n_slots) = (self.shape.n_head_kv, self.slots.len());
        // The slots before it in a ring have to exist too, though they are empty.
        for slot in n_slots..=slot {
            let (positions, units) = self.rows(slot);
            self.slots.push(bytemuck::zeroed_vec(n_head_kv * positions * units));
        }
        let (positions, units) = self.rows(slot);
        let heads = self.slots[slot].chunks_exact_mut(positions * units);
        for (head, bytes) in heads.zip(bytes.chunks_exact(units * size_of::<U>())) {
            let row = &mut head[pos % SPAN * units..][..units];
            for (unit, bytes) in row.iter_mut().zip(bytes.chunks_exact(size_of::<U>())) {
                *unit = bytemuck::pod_read_unaligned::<U>(bytes).to_le();
            }
        }
    }
}
