//! The input of matrix products, quantized once for all the matrices that are multiplied with it.

use std::mem::size_of;

use bytemuck::{Pod, Zeroable};
use lapidary_formats::quant::QuantType;

use super::isa::Isa;
use super::quantize::{QuantizeBlock, Quantized, Quantizer};
use super::{refit, ThreadPool};

/// Rows of activations, `[n, cols]`, and the quantized forms of them that a product has asked for.
#[derive(Debug, Default)]
pub struct Activations {
    cols: usize,
    x: Vec<f32>,
    /// Cleared when new rows come.
    forms: Vec<(QuantType, Layout, Form)>,
}

/// How quantized rows are laid out in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As blocks of the type, for the reference.
    Blocks,
    /// The codes of a row in sequence, with scales and sums in arrays of their own.
    Rows,
    /// Columns of the product side by side, as many as given in a register.
    Panels(usize),
}

/// Quantized rows.
#[derive(Debug, Default)]
struct Form {
    blocks: Vec<u8>,
    rows: QuantizedRows,
    panels: Vec<Line>,
}

/// Rows in [`Layout::Rows`]. Every array is `[n, blocks of a row, …]`. In Q8_K the first [`WRAPPED`]
/// blocks of a row follow once more after its last: kernels take four blocks at a time, which may
/// belong to two rows of the matrix.
#[derive(Debug, Default)]
pub struct QuantizedRows {
    /// Codes, 32 at a time.
    pub qs: Vec<[u8; 32]>,
    /// Q8_K: the sums of every 16 codes.
    pub bsums: Vec<[i16; 16]>,
    /// Q8_K: the sums of every 32 codes.
    pub pair_sums: Vec<[i16; 8]>,
    /// Q8_0: the sum of a block's codes.
    pub sums: Vec<i32>,
    /// Scales.
    pub d: Vec<f32>,
}

/// Blocks that are repeated; see [`QuantizedRows`].
pub const WRAPPED: usize = 3;

/// A cache line, as registers of up to 512 bits are loaded from it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line([u8; 64]);

/// Registers side by side in a panel of [`Layout::Panels`]. The last panel of an input may be one
/// register wide.
pub const PANEL: usize = 2;

/// Registers that a block of Q8_K takes in a panel one register wide: codes, of which a register has
/// four for each column, sums, of which it has two, and the scale.
pub const K_REGISTERS: usize = 64 + 8 + 1;

/// The same for a block of Q8_0: codes, sum, scale.
pub const REGISTERS_32: usize = 8 + 1 + 1;

/// Bytes that a register of a panel has for each column.
const COLUMN_BYTES: usize = 4;

impl Activations {
    /// Replaces the rows with `n` new ones of `cols` values, which `write` puts into the buffer that
    /// it is given.
    pub fn fill(&mut self, n: usize, cols: usize, write: impl FnOnce(&mut [f32])) {
        self.cols = cols;
        refit(&mut self.x, n * cols, 0.0);
        write(&mut self.x);
        self.forms.iter_mut().for_each(|(_, _, form)| form.clear());
    }

    /// Bytes that a row of `cols` values takes: the values, and the largest of their quantized forms,
    /// which is Q8_0 in panels.
    pub fn row_bytes(cols: usize) -> usize {
        cols * size_of::<f32>() + cols * REGISTERS_32 * COLUMN_BYTES / 32
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.x.len() / self.cols.max(1)
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The rows as they were written.
    pub fn x(&self) -> &[f32] {
        &self.x
    }

    /// Quantizes the rows to `ty` in `layout`, unless that has been done.
    ///
    /// # Panics
    /// If a row is not a whole number of blocks of `ty`. The rows of the matrix are as long, and they
    /// are whole blocks.
    pub fn prepare(&mut self, pool: &ThreadPool, isa: Isa, ty: QuantType, layout: Layout) {
        let (cols, n) = (self.cols, self.n());
        let at = self.find(ty, layout).unwrap_or_else(|| {
            self.forms.push((ty, layout, Form::default()));
            self.forms.len() - 1
        });
        let form = &mut self.forms[at].2;
        if !form.is_empty() || n == 0 {
            return;
        }
        let row_bytes = ty.row_bytes(cols).expect("rows of whole blocks");
        match layout {
            Layout::Blocks => {
                refit(&mut form.blocks, n * row_bytes, 0);
                let rows = form.blocks.chunks_mut(row_bytes).zip(self.x.chunks(cols));
                let quantize = ty.traits().quantize.expect("activation types are written");
                pool.for_each(rows, |(bytes, x)| quantize(x, bytes));
            }
            Layout::Rows if ty == QuantType::Q8_K => form.rows.fill_k(isa, &self.x, cols),
            Layout::Rows => form.rows.fill_32(isa, &self.x),
            Layout::Panels(width) => {
                let panels = Panels { n, cols, width, k: ty == QuantType::Q8_K };
                panels.fill(pool, isa, &self.x, &mut form.panels);
            }
        }
    }

    /// Rows that were prepared in `Layout::Blocks`.
    pub fn blocks(&self, ty: QuantType) -> &[u8] {
        &self.form(ty, Layout::Blocks).blocks
    }

    /// Rows that were prepared in `Layout::Rows`.
    pub fn rows(&self, ty: QuantType) -> &QuantizedRows {
        &self.form(ty, Layout::Rows).rows
    }

    /// Rows that were prepared in `Layout::Panels`.
    pub fn panels(&self, ty: QuantType, width: usize) -> &[Line] {
        &self.form(ty, Layout::Panels(width)).panels
    }

    fn form(&self, ty: QuantType, layout: Layout) -> &Form {
        &self.forms[self.find(ty, layout).expect("prepared before it is read")].2
    }

    fn find(&self, ty: QuantType, layout: Layout) -> Option<usize> {
        self.forms.iter().position(|(t, l, _)| (*t, *l) == (ty, layout))
    }
}

impl Form {
    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.rows.d.is_empty() && self.panels.is_empty()
    }

    fn clear(&mut self) {
        self.blocks.clear();
        self.rows.qs.clear();
        self.rows.bsums.clear();
        self.rows.pair_sums.clear();
        self.rows.sums.clear();
        self.rows.d.clear();
        self.panels.clear();
    }
}

impl QuantizedRows {
    fn fill_k(&mut self, isa: Isa, x: &[f32], cols: usize) {
        for row in x.chunks_exact(cols) {
            let blocks = isa.run(Quantizer(row.as_chunks::<256>().0));
            for q in blocks.iter().cycle().take(blocks.len() + WRAPPED) {
                let bsums = q.bsums();
                self.qs.extend_from_slice(bytemuck::cast_slice(&q.qs));
                self.bsums.push(bsums);
                self.pair_sums.push(std::array::from_fn(|i| bsums[2 * i] + bsums[2 * i + 1]));
                self.d.push(q.d);
            }
        }
    }

    fn fill_32(&mut self, isa: Isa, x: &[f32]) {
        let (x, _) = x.as_chunks::<32>();
        for q in isa.run(Quantizer(x)) {
            self.qs.push(bytemuck::cast(q.qs));
            self.sums.push(q.sum());
            self.d.push(q.d);
        }
    }
}

/// The shape of rows in [`Layout::Panels`].
struct Panels {
    n: usize,
    cols: usize,
    /// Columns of the product in a register.
    width: usize,
    /// Whether the type is Q8_K; otherwise it is Q8_0.
    k: bool,
}

impl Panels {
    fn fill(&self, pool: &ThreadPool, isa: Isa, x: &[f32], lines: &mut Vec<Line>) {
        let (len, registers) = if self.k { (256, K_REGISTERS) } else { (32, REGISTERS_32) };
        let (blocks, register) = (self.cols / len, COLUMN_BYTES * self.width);
        let count = self.n.div_ceil(self.width);
        let bytes = count * blocks * registers * register;
        refit(lines, bytes.div_ceil(size_of::<Line>()), Line::zeroed());
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(lines);
        // An item is a block of all columns of a panel.
        let panels = bytes.chunks_mut(blocks * registers * register * PANEL).enumerate();
        let items = panels.take(count.div_ceil(PANEL)).flat_map(|(i, panel)| {
            let first = i * PANEL * self.width;
            let across = PANEL.min(count - i * PANEL);
            let columns = first..self.n.min(first + across * self.width);
            let blocks = panel.chunks_mut(registers * register * across).take(blocks).enumerate();
            blocks.map(move |(block, to)| (columns.clone(), across, block, to))
        });
        pool.for_each(items, |(columns, across, block, to)| {
            for (i, t) in columns.enumerate() {
                let x = &x[t * self.cols + block * len..][..len];
                let place = Place { to: &mut *to, register, across, column: i, width: self.width };
                if self.k {
                    place.put_k(&isa.run(QuantizeBlock::<256>(whole(x))));
                } else {
                    place.put_32(&isa.run(QuantizeBlock::<32>(whole(x))));
                }
            }
        });
    }
}

/// The places of one column in a block of a panel.
struct Place<'a> {
    to: &'a mut [u8],
    /// Bytes of a register.
    register: usize,
    /// Registers side by side.
    across: usize,
    /// Index of the column in the panel.
    column: usize,
    /// Columns of a register.
    width: usize,
}

impl Place<'_> {
    /// Puts `values` into the column's places in the registers from `first` on.
    fn put(&mut self, first: usize, values: impl Iterator<Item = [u8; COLUMN_BYTES]>) {
        let (register, place) = (self.column / self.width, self.column % self.width);
        let offset = register * self.register + place * COLUMN_BYTES;
        let step = self.across * self.register;
        let places = self.to[first * step + offset..].chunks_mut(step);
        for (to, value) in places.zip(values) {
            to[..COLUMN_BYTES].copy_from_slice(&value);
        }
    }

    fn put_k(mut self, q: &Quantized<256>) {
        let pair = |s: &[i16; 2]| bytemuck::cast::<[i16; 2], [u8; 4]>(*s);
        self.put(0, codes(&q.qs));
        self.put(64, q.bsums().as_chunks().0.iter().map(pair));
        self.put(72, std::iter::once(q.d.to_ne_bytes()));
    }

    fn put_32(mut self, q: &Quantized<32>) {
        self.put(0, codes(&q.qs));
        self.put(8, std::iter::once(q.sum().to_ne_bytes()));
        self.put(9, std::iter::once(q.d.to_ne_bytes()));
    }
}

fn whole<const N: usize>(x: &[f32]) -> &[f32; N] {
    x.first_chunk().expect("rows of whole blocks")
}

fn codes(qs: &[i8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    qs.as_chunks().0.iter().map(|q: &[i8; 4]| q.map(|q| q as u8))
}
