//! The cache of keys or of values of one layer.

use std::ops::Range;

use lapidary_formats::quant::blocks::BlockQ8_0;

use super::unit::{Unit, UNIT};
use super::{FEW, SPAN};
use crate::kernels::isa::{Op, Simd};
use crate::kernels::Cpu;

/// What keys and values are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Half precision, the default of other programs too.
    F16,
    /// Eight bits, with a scale for every 32 values: blocks of the quant type of that name.
    Q8_0,
    /// Single precision, for exact comparisons.
    F32,
}

impl KvType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F16, Self::Q8_0, Self::F32];

    /// Its name in `--kv`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::F32 => "f32",
        }
    }

    /// Bytes of a head's key, or of its value, at one position: whole units of 32 values.
    pub fn head_bytes(self, head_dim: usize) -> usize {
        let unit = match self {
            Self::F16 => size_of::<[u16; UNIT]>(),
            Self::Q8_0 => size_of::<BlockQ8_0>(),
            Self::F32 => size_of::<[f32; UNIT]>(),
        };
        head_dim.div_ceil(UNIT) * unit
    }
}

/// The keys (or the values) of one layer, by position. Memory is allocated a span of positions at a
/// time, as they come. A ring that is full overwrites the oldest positions.
#[derive(Debug)]
pub struct KvRows {
    shape: Shape,
    /// Positions that were written since it was empty, without those that were truncated.
    len: usize,
    /// The largest `len` since it was empty: everything before `reached - capacity` is overwritten.
    reached: usize,
    slots: Slots,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    n_head_kv: usize,
    head_dim: usize,
    /// Positions that there is room for. A multiple of [`SPAN`] in a ring.
    capacity: usize,
}

/// The spans. Span `i` is in slot `i` modulo the number of slots.
#[derive(Debug)]
pub(super) enum Slots {
    F16(Spans<[u16; UNIT]>),
    Q8_0(Spans<BlockQ8_0>),
    F32(Spans<[f32; UNIT]>),
}

/// By slot, `[n_head_kv, positions of the span, units of a head]`, so that attention reads what
/// belongs to a head in sequence. Pages that are never written take no memory.
#[derive(Debug)]
pub(super) struct Spans<U> {
    shape: Shape,
    slots: Vec<Vec<U>>,
}

/// Evaluates `$then` with the spans as `$spans`, whatever their type.
macro_rules! each_type {
    ($slots:expr, $spans:ident => $then:expr) => {
        match $slots {
            Slots::F16($spans) => $then,
            Slots::Q8_0($spans) => $then,
            Slots::F32($spans) => $then,
        }
    };
}

mod stored;

impl KvRows {
    /// With room for `capacity` positions.
    pub fn new(ty: KvType, n_head_kv: usize, head_dim: usize, capacity: usize) -> Self {
        let shape = Shape { n_head_kv, head_dim, capacity };
        let slots = match ty {
            KvType::F16 => Slots::F16(Spans::new(shape)),
            KvType::Q8_0 => Slots::Q8_0(Spans::new(shape)),
            KvType::F32 => Slots::F32(Spans::new(shape)),
        };
        Self { shape, len: 0, reached: 0, slots }
    }

    /// The capacity of a ring for queries that attend to `window` positions, their own included, when
    /// up to `n_ubatch` rows are appended before the queries are computed.
    pub fn ring_capacity(window: usize, n_ubatch: usize) -> usize {
        (window - 1 + n_ubatch).next_multiple_of(SPAN)
    }

    /// Appends rows, `[n, n_head_kv * head_dim]`.
    ///
    /// # Panics
    /// If they are more rows than the capacity.
    pub fn push(&mut self, cpu: &Cpu, x: &[f32]) {
        let Shape { n_head_kv, head_dim, capacity } = self.shape;
        let n = x.len() / (n_head_kv * head_dim);
        assert!(n <= capacity, "more rows than the cache has room for");
        let rows = self.len..self.len + n;
        each_type!(&mut self.slots, spans => spans.write(cpu, rows.clone(), x));
        self.len = rows.end;
        self.reached = self.reached.max(self.len);
    }

    /// The first position that is not overwritten.
    pub fn first(&self) -> usize {
        self.reached.saturating_sub(self.shape.capacity)
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if self.len == 0 {
            self.reached = 0;
        }
    }

    /// Makes it hold the positions of `other` before `len`, as far as they are not overwritten, and
    /// nothing else.
    ///
    /// # Panics
    /// If the shapes or types differ.
    pub fn copy_from(&mut self, other: &Self, len: usize) {
        assert_eq!(self.shape, other.shape, "caches of one shape");
        let wrapped = other.reached > self.shape.capacity;
        let n = if wrapped { usize::MAX } else { len.div_ceil(SPAN) };
        match (&mut self.slots, &other.slots) {
            (Slots::F16(to), Slots::F16(from)) => to.copy_from(from, n),
            (Slots::Q8_0(to), Slots::Q8_0(from)) => to.copy_from(from, n),
            (Slots::F32(to), Slots::F32(from)) => to.copy_from(from, n),
            _ => panic!("caches of one type"),
        }
        self.len = len;
        // What is overwritten there is missing here.
        self.reached = if wrapped { other.reached } else { len };
    }

    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }
}

impl<U: Unit> Spans<U> {
    fn new(shape: Shape) -> Self {
        Self { shape, slots: Vec::new() }
    }

    /// Copies the first `n` slots, or all that there are.
    fn copy_from(&mut self, other: &Self, n: usize) {
        for (slot, from) in other.slots.iter().take(n).enumerate() {
            match self.slots.get_mut(slot) {
                Some(to) => to.copy_from_slice(from),
                None => self.slots.push(from.clone()),
            }
        }
    }

    /// The number of positions in `slot`, which may be fewer in the last one, and of a head's units
    /// at a position.
    fn rows(&self, slot: usize) -> (usize, usize) {
        let Shape { head_dim, capacity, .. } = self.shape;
        (SPAN.min(capacity - slot * SPAN), head_dim.div_ceil(UNIT))
    }

    fn slot(&self, pos: usize) -> usize {
        pos / SPAN % self.shape.capacity.div_ceil(SPAN)
    }

    /// What a head has in the span that begins at position `at`, `[positions, units]`.
    pub fn span(&self, at: usize, head_kv: usize) -> &[U] {
        let slot = self.slot(at);
        let (positions, units) = self.rows(slot);
        &self.slots[slot][head_kv * positions * units..][..positions * units]
    }

    /// Writes `rows`, `x` being `[rows, n_head_kv * head_dim]`.
    fn write(&mut self, cpu: &Cpu, rows: Range<usize>, x: &[f32]) {
        let row = self.shape.n_head_kv * self.shape.head_dim;
        let (few, mut at) = (rows.len() <= FEW, rows.start);
        while at < rows.end {
            let end = rows.end.min((at / SPAN + 1) * SPAN);
            let x = &x[(at - rows.start) * row..(end - rows.start) * row];
            let writes = self.writes(at, x);
            // Calling the threads would take longer than writing a few rows.
            match few {
                true => writes.for_each(|write| cpu.isa.run(write)),
                false => cpu.pool.for_each(writes, |write| cpu.isa.run(write)),
            }
            at = end;
        }
    }

    /// What is to be written to one span, by head.
    fn writes<'a>(&'a mut self, at: usize, x: &'a [f32]) -> impl Iterator<Item = Write<'a, U>> {
        let Shape { n_head_kv, head_dim, .. } = self.shape;
        let slot = self.slot(at);
        let (positions, units) = self.rows(slot);
        if self.slots.len() == slot {
            self.slots.push(bytemuck::zeroed_vec(n_head_kv * positions * units));
        }
        let heads = self.slots[slot].chunks_exact_mut(positions * units).enumerate();
        heads.map(move |(head_kv, to)| Write {
            x,
            n_head_kv,
            head_kv,
            head_dim,
            to: &mut to[at % SPAN * units..],
        })
    }
}

/// Stores one head's part of some rows.
struct Write<'a, U> {
    /// `[n, n_head_kv * head_dim]`
    x: &'a [f32],
    n_head_kv: usize,
    head_kv: usize,
    head_dim: usize,
    /// `[n, units]`, and more
    to: &'a mut [U],
}

impl<U: Unit> Op for Write<'_, U> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let heads = self.x.chunks_exact(self.head_dim).skip(self.head_kv).step_by(self.n_head_kv);
        let rows = self.to.chunks_exact_mut(self.head_dim.div_ceil(UNIT));
        for (x, to) in heads.zip(rows) {
            let (whole, rest) = x.as_chunks::<UNIT>();
            for (x, to) in whole.iter().zip(to.iter_mut()) {
                *to = U::store(s, x);
            }
            if let (false, Some(to)) = (rest.is_empty(), to.last_mut()) {
                let mut x = [0.0; UNIT];
                x[..rest.len()].copy_from_slice(rest);
                *to = U::store(s, &x);
            }
        }
    }
}
