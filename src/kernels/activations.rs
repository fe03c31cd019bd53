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
    /// Columns of the product side by side in registers.
    Panels {
        /// Columns of a register.
        columns: usize,
        /// Bytes of a register that each has: 4, 8 or 16.
        width: usize,
    },
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

/// Where the parts of a block of Q8_K begin in a panel one register wide: its first register has
/// the first codes of every column, as many bytes as a column has of a register, and so on.
#[derive(Clone, Copy, Debug)]
pub struct PlacesK {
    /// The sums of every 16 codes, two bytes each.
    pub bsums: usize,
    /// The sums of every 32 codes, two bytes each.
    pub pair_sums: usize,
    /// The scale, in all dwords of a column.
    pub d: usize,
    /// Number of registers.
    pub registers: usize,
}

/// The same for a block of Q8_0.
#[derive(Clone, Copy, Debug)]
pub struct Places32 {
    /// The sum of the codes, in all dwords of a column.
    pub sum: usize,
    /// The scale, likewise.
    pub d: usize,
    /// Number of registers.
    pub registers: usize,
}

impl PlacesK {
    /// With columns of `width` bytes: 4, 8 or 16.
    pub const fn new(width: usize) -> Self {
        let bsums = 256 / width;
        let pair_sums = bsums + 32 / width;
        let d = pair_sums + 16 / width;
        Self { bsums, pair_sums, d, registers: d + 1 }
    }
}

impl Places32 {
    /// With columns of `width` bytes: 4, 8 or 16.
    pub const fn new(width: usize) -> Self {
        let sum = 32 / width;
        Self { sum, d: sum + 1, registers: sum + 2 }
    }
}

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
        let width = |width: usize| Places32::new(width).registers * width;
        cols * size_of::<f32>() + cols * width(4).max(width(8)).max(width(16)) / 32
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
            Layout::Panels { columns, width } => {
                let panels = Panels { n, cols, columns, width, k: ty == QuantType::Q8_K };
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

    /// Rows that were prepared in this `Layout::Panels`.
    pub fn panels(&self, ty: QuantType, columns: usize, width: usize) -> &[Line] {
        &self.form(ty, Layout::Panels { columns, width }).panels
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
                self.pair_sums.push(pair_sums(&bsums));
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
    columns: usize,
    /// Bytes that a column has of a register.
    width: usize,
    /// Whether the type is Q8_K; otherwise it is Q8_0.
    k: bool,
}

impl Panels {
    fn fill(&self, pool: &ThreadPool, isa: Isa, x: &[f32], lines: &mut Vec<Line>) {
        let (len, registers) = match self.k {
            true => (256, PlacesK::new(self.width).registers),
            false => (32, Places32::new(self.width).registers),
        };
        let (blocks, register) = (self.cols / len, self.columns * self.width);
        let count = self.n.div_ceil(self.columns);
        let bytes = count * blocks * registers * register;
        refit(lines, bytes.div_ceil(size_of::<Line>()), Line::zeroed());
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(lines);
        // An item is a block of all columns of a panel.
        let panels = bytes.chunks_mut(blocks * registers * register * PANEL).enumerate();
        let items = panels.take(count.div_ceil(PANEL)).flat_map(|(i, panel)| {
            let first = i * PANEL * self.columns;
            let across = PANEL.min(count - i * PANEL);
            let columns = first..self.n.min(first + across * self.columns);
            let blocks = panel.chunks_mut(registers * register * across).take(blocks).enumerate();
            blocks.map(move |(block, to)| (columns.clone(), across, block, to))
        });
        pool.for_each(items, |(columns, across, block, to)| {
            for (i, t) in columns.enumerate() {
                let x = &x[t * self.cols + block * len..][..len];
                let (column, width) = (i % self.columns, self.width);
                let offset = i / self.columns * register + column * width;
                let place = Place { to: &mut to[offset..], step: across * register, width };
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
    /// From the first of them on.
    to: &'a mut [u8],
    /// Bytes between two of them.
    step: usize,
    /// Bytes of each.
    width: usize,
}

impl Place<'_> {
    /// Puts `bytes` into the places from number `first` on.
    fn put(&mut self, first: usize, bytes: &[u8]) {
        // With a width that the compiler knows.
        match self.width {
            4 => self.put_pieces::<4>(first, bytes),
            8 => self.put_pieces::<8>(first, bytes),
            _ => self.put_pieces::<16>(first, bytes),
        }
    }

    fn put_pieces<const WIDTH: usize>(&mut self, first: usize, bytes: &[u8]) {
        let places = self.to[first * self.step..].chunks_mut(self.step);
        for (to, piece) in places.zip(bytes.as_chunks::<WIDTH>().0) {
            to[..WIDTH].copy_from_slice(piece);
        }
    }

    /// Puts four bytes into place number `at`, again and again.
    fn repeat(&mut self, at: usize, bytes: [u8; 4]) {
        let [a, b, c, d] = bytes;
        self.put(at, &[a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d][..self.width]);
    }

    fn put_k(mut self, q: &Quantized<256>) {
        let (places, bsums) = (PlacesK::new(self.width), q.bsums());
        self.put(0, bytemuck::cast_slice(&q.qs));
        self.put(places.bsums, bytemuck::cast_slice(&bsums));
        self.put(places.pair_sums, bytemuck::cast_slice(&pair_sums(&bsums)));
        self.repeat(places.d, q.d.to_ne_bytes());
    }

    fn put_32(mut self, q: &Quantized<32>) {
        let places = Places32::new(self.width);
        self.put(0, bytemuck::cast_slice(&q.qs));
        self.repeat(places.sum, q.sum().to_ne_bytes());
        self.repeat(places.d, q.d.to_ne_bytes());
    }
}

/// The sums of every 32 codes, from those of every 16.
fn pair_sums(bsums: &[i16; 16]) -> [i16; 8] {
    std::array::from_fn(|i| bsums[2 * i] + bsums[2 * i + 1])
}

fn whole<const N: usize>(x: &[f32]) -> &[f32; N] {
    x.first_chunk().expect("rows of whole blocks")
}
