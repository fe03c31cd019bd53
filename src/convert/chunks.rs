//! Chunks of rows: quantized by all threads while the chunk before is written.

use std::io::{Seek, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use lapidary_formats::gguf::{GgufError, Header, Writer};
use lapidary_formats::quant::QuantType;

use super::second_order::ROWS;
use super::ConvertError;
use crate::kernels::second_order::{round_rows, Rounding, RowFeedback};
use crate::kernels::{largest, Cpu, Isa, Quantize};
use crate::model::{TensorRows, TensorSpec};

/// Values that a thread converts at a time, in whole rows: so many that handing them out takes no
/// time, and so few that no thread waits long for the last.
const ITEM: usize = 1 << 14;

/// How rows become blocks.
#[derive(Clone, Copy)]
pub(super) enum How<'a> {
    /// Each row by itself.
    Quantize(Quantize<'a>),
    /// Several rows together, so that their outputs keep their values.
    Round(Rounding<'a>),
}

impl How<'_> {
    fn ty(&self) -> QuantType {
        match self {
            Self::Quantize(quantize) => quantize.ty,
            Self::Round(rounding) => rounding.ty,
        }
    }

    /// Rows that are converted before progress is told, about `rows`.
    pub fn chunk(&self, rows: usize, cpu: &Cpu) -> usize {
        match self {
            Self::Quantize(_) => rows.max(1),
            // Some items for every thread.
            Self::Round(_) => rows.next_multiple_of(ROWS).max(4 * ROWS * cpu.threads()),
        }
    }

    /// Rows that a thread converts at a time.
    fn item(&self, cols: usize) -> usize {
        match self {
            Self::Quantize(_) => (ITEM / cols).max(1),
            Self::Round(_) => ROWS,
        }
    }

    /// Writes the rows `x`, `[rows, cols]`, to `out`, unless there are values that are not finite.
    /// Returns the [`largest`] magnitude.
    fn rows(&self, isa: Isa, x: &[f32], cols: usize, out: &mut [u8]) -> f32 {
        match self {
            Self::Quantize(quantize) => {
                let row_bytes = out.len() / (x.len() / cols);
                let rows = x.chunks_exact(cols).zip(out.chunks_exact_mut(row_bytes));
                rows.fold(0.0, |max, (x, out)| larger(max, quantize.row(isa, x, out)))
            }
            Self::Round(rounding) => {
                let largest = largest(x);
                if largest.is_finite() {
                    round_rows(isa, *rounding, x, cols, out);
                }
                largest
            }
        }
    }
}

/// The larger one in the order of [`largest`].
fn larger(a: f32, b: f32) -> f32 {
    f32::from_bits(a.to_bits().max(b.to_bits()))
}

/// Two buffers that change places: while one is written, the other is filled.
pub(super) struct Chunks<'a, W: Write> {
    cpu: &'a Cpu,
    /// For errors.
    path: &'a Path,
    pub writer: Writer<W>,
    ready: Vec<u8>,
    next: Vec<u8>,
}

impl<'a, W: Write + Seek> Chunks<'a, W> {
    /// Writes `header` to `out`, for the tensors to follow, or goes on after the first tensors,
    /// which are `finished` and have these checksums.
    pub fn new(
        cpu: &'a Cpu,
        path: &'a Path,
        out: W,
        header: &Header,
        finished: Vec<u64>,
    ) -> Result<Self, ConvertError> {
        let writer = Writer::after_complete(out, header.clone(), finished);
        let writer =
            writer.map_err(|error| ConvertError::Write { path: path.to_owned(), error })?;
        Ok(Self { cpu, path, writer, ready: Vec::new(), next: Vec::new() })
    }

    /// Converts a chunk of the `rows`, of `cols` values each, on all threads, while the chunk before
    /// is written. Returns the [`largest`] magnitude and the number of bytes that the rows became.
    /// Rows that are not finite are left out of these, for the caller has to refuse them.
    pub fn push(
        &mut self,
        rows: &dyn TensorRows,
        chunk: Range<usize>,
        cols: usize,
        how: How<'_>,
    ) -> Result<(f32, u64), ConvertError> {
        let Self { cpu, writer, ready, next, .. } = self;
        let row_bytes = how.ty().row_bytes(cols).expect("rows were checked to be whole blocks");
        let copied = rows.stored().filter(|view| view.ty == how.ty()).map(|view| view.data);
        next.resize(chunk.len() * row_bytes, 0);
        let step = how.item(cols);
        let items = chunk.step_by(step).zip(next.chunks_mut(step * row_bytes));
        // As bits, which are in the order of `largest`.
        let max = AtomicU32::new(0);
        let work = |x: &mut Vec<f32>, (first, out): (usize, &mut [u8])| {
            x.resize(out.len() / row_bytes * cols, 0.0);
            for (i, x) in x.chunks_exact_mut(cols).enumerate() {
                rows.read(first + i, x);
            }
            let largest = match copied {
                Some(data) => {
                    out.copy_from_slice(&data[first * row_bytes..][..out.len()]);
                    largest(x)
                }
                None => how.rows(cpu.isa(), x, cols, out),
            };
            max.fetch_max(largest.to_bits(), Ordering::Relaxed);
        };
        let written = cpu.for_each_beside(|| write(writer, ready), items, Vec::new, work);
        written.map_err(|error| self.error(error))?;
        std::mem::swap(&mut self.ready, &mut self.next);
        Ok((f32::from_bits(max.into_inner()), self.ready.len() as u64))
    }

    /// The same of a whole tensor, whose rows make up for each other's errors, after `make_up` has changed
    /// them.
    pub fn push_whole(
        &mut self,
        rows: &dyn TensorRows,
        spec: &TensorSpec,
        rounding: Rounding<'_>,
        feedback: &RowFeedback,
        make_up: impl FnOnce(&mut [f32]),
    ) -> Result<(f32, u64), ConvertError> {
        self.flush()?;
        let (n, cols) = (spec.rows(), spec.cols());
        let mut x = vec![0.0; n * cols];
        self.cpu.for_each(x.chunks_exact_mut(cols).enumerate(), |(row, x)| rows.read(row, x));
        let largest = largest(&x);
        let row_bytes = rounding.ty.row_bytes(cols).expect("rows were checked to be whole blocks");
        self.ready.resize(n * row_bytes, 0);
        if largest.is_finite() {
            make_up(&mut x);
            feedback.round(self.cpu, rounding, &x, cols, &mut self.ready);
        }
        Ok((largest, self.ready.len() as u64))
    }

    /// Writes what is left, and hands it to the system.
    pub fn flush_file(&mut self) -> Result<(), ConvertError> {
        self.flush()?;
        let flushed = self.writer.flush();
        flushed.map_err(|error| self.error(error))
    }

    /// Writes what is left.
    pub fn flush(&mut self) -> Result<(), ConvertError> {
        let written = write(&mut self.writer, &self.ready);
        self.ready.clear();
        written.map_err(|error| self.error(error))
    }

    /// Writes what is left, and gives back what was written to,
    /// together with the checksums of the tensors.
    pub fn finish(mut self) -> Result<(W, Vec<u64>), ConvertError> {
        self.flush()?;
        let path = self.path.to_owned();
        let checksums = self.writer.checksums().to_vec();
        let out = self.writer.finish().map_err(|error| ConvertError::Write { path, error })?;
        Ok((out, checksums))
    }

    fn error(&self, error: GgufError) -> ConvertError {
        ConvertError::Write { path: self.path.to_owned(), error }
    }
}

/// Writes a chunk, and the checksum of a tensor that is complete with it.
fn write<W: Write + Seek>(writer: &mut Writer<W>, chunk: &[u8]) -> Result<(), GgufError> {
    let complete = writer.checksums().len();
    writer.write(chunk)?;
    if writer.checksums().len() > complete {
        writer.write_checksums()?;
    }
    Ok(())
}
