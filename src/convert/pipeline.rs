//! The tensors' way from one file to the other: slices of rows are dequantized and quantized by all
//! threads while the slice before is written.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use lapidary_formats::gguf::{GgufError, Header, Writer};
use lapidary_formats::quant::QuantType;
use lapidary_formats::tensor::TensorView;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::metadata::header;
use super::target::Target;
use super::{ConvertError, Recipe, Report, Totals};
use crate::model::{Role, Source, TensorSpec};

/// Values that are converted before progress is told and cancelling looked at: rows enough for
/// many threads (27B: 113 of the longest), and a few megabytes.
const SLICE: usize = 4 << 20;

/// What to convert to, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which type each tensor gets.
    pub recipe: Recipe,
    /// How many threads work; as many as there are processors if not given. The file's bytes do
    /// not depend on it.
    pub threads: Option<usize>,
    /// Whether a file that is there already may be replaced.
    pub force: bool,
}

/// Who wants to know how far a conversion is. Every method does nothing unless it is overridden;
/// `()` is nobody.
pub trait Progress {
    /// Everything has been checked; `bytes` bytes of tensors are going to be read.
    fn started(&mut self, _bytes: u64) {}
    /// The next tensor, by its GGUF name.
    fn tensor(&mut self, _name: &str) {}
    /// That many bytes more have been read from the source and converted.
    fn advanced(&mut self, _bytes_in: u64, _bytes_out: u64) {}
    /// All tensors are written; what remains is to wait for the disk.
    fn finished(&mut self) {}
    /// Whether to stop and leave nothing behind; asked before every slice.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {}

/// Converts a model to a GGUF file at `out`.
///
/// It is one pass: memory holds a slice of the mapped source and two of the result, a few megabytes
/// each. A tensor
/// that has its new type already is copied. The new file appears under its name when it is
/// complete and on the disk, and not at all if anything goes wrong.
///
/// # Errors
/// Those of [`ConvertError`]: among them, if `out` exists and `force` is not given, if the disk is
/// or runs full, and if a weight is not finite or beyond the range of its new type.
pub fn convert(
    source: &Source,
    out: &Path,
    options: Options,
    progress: &mut dyn Progress,
) -> Result<Report, ConvertError> {
    let start = Instant::now();
    let header = header(source, options.recipe)?;
    let threads = options.threads.unwrap_or(0);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| ConvertError::Threads { threads, error })?;
    let mut report = plan(source, &header);
    let target = Target::create(out, options.force, source, report.file_bytes)?;
    progress.started(report.bytes_read);
    let file = BufWriter::new(target.file());
    let mut slices = Slices::new(&pool, out, file, &header)?;
    write_tensors(source, &header, &mut slices, SLICE, progress)?;
    slices.finish()?;
    progress.finished();
    target.sync()?;
    if progress.cancelled() {
        return Err(ConvertError::Cancelled);
    }
    target.commit()?;
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// What the conversion is going to do.
fn plan(source: &Source, header: &Header) -> Report {
    let values = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let totals = Totals::new(header.tensors().iter().map(|t| (t.ty, values(&t.shape), t.bytes)));
    let views = source.tensors().iter().map(|spec| source.tensor(spec));
    let is_requantized =
        |(from, to): &(TensorView, QuantType)| from.ty.block_len() > 1 && from.ty != *to;
    Report {
        totals,
        file_bytes: header.file_bytes(),
        bytes_read: views.clone().map(|view| view.data.len() as u64).sum(),
        requantized: views
            .zip(header.tensors().iter().map(|t| t.ty))
            .filter(is_requantized)
            .count(),
        untied: source.is_untied(),
        seconds: 0.0,
    }
}

/// Writes every tensor of `header`, which are those of `source` in the same order, in slices of
/// about `values` values.
fn write_tensors<W: Write + Send>(
    source: &Source,
    header: &Header,
    slices: &mut Slices<W>,
    values: usize,
    progress: &mut dyn Progress,
) -> Result<(), ConvertError> {
    for (spec, info) in source.tensors().iter().zip(header.tensors()) {
        progress.tensor(&spec.name);
        let view = source.tensor(spec);
        let checked = |largest| check(source, view.name, info.ty, largest);
        let row_bytes = view.data.len() / view.rows();
        let rows = match spec.role {
            Role::Norm => view.rows(),
            Role::Matrix => (values / view.cols()).max(1),
        };
        for data in view.data.chunks(rows * row_bytes) {
            if progress.cancelled() {
                return Err(ConvertError::Cancelled);
            }
            let bytes_out = slices.push(|out| match spec.role {
                Role::Norm => checked(convert_norm(source, spec, out)),
                Role::Matrix => checked(convert_rows(&TensorView { data, ..view }, info.ty, out)),
            })?;
            source.release(data);
            progress.advanced(data.len() as u64, bytes_out);
        }
    }
    Ok(())
}

/// Two buffers that change places: while one is written, the other is filled.
struct Slices<'a, W: Write> {
    pool: &'a ThreadPool,
    /// For errors.
    path: &'a Path,
    writer: Writer<W>,
    ready: Vec<u8>,
    next: Vec<u8>,
}

impl<'a, W: Write + Send> Slices<'a, W> {
    /// Writes `header` to `out`, for the tensors to follow.
    fn new(
        pool: &'a ThreadPool,
        path: &'a Path,
        out: W,
        header: &Header,
    ) -> Result<Self, ConvertError> {
        let writer = Writer::new(out, header.clone());
        let writer =
            writer.map_err(|error| ConvertError::Write { path: path.to_owned(), error })?;
        Ok(Self { pool, path, writer, ready: Vec::new(), next: Vec::new() })
    }

    /// Takes the bytes that `fill` leaves, which follow those taken before; gives their number.
    fn push<F>(&mut self, fill: F) -> Result<u64, ConvertError>
    where
        F: FnOnce(&mut Vec<u8>) -> Result<(), ConvertError> + Send,
    {
        let Self { writer, ready, next, .. } = self;
        let (written, filled) = self.pool.join(|| writer.write(ready), || fill(next));
        written.map_err(|error| self.error(error))?;
        filled?;
        std::mem::swap(&mut self.ready, &mut self.next);
        Ok(self.ready.len() as u64)
    }

    /// Writes what is left, and gives back what was written to.
    fn finish(mut self) -> Result<W, ConvertError> {
        self.writer.write(&self.ready).map_err(|error| self.error(error))?;
        let path = self.path.to_owned();
        self.writer.finish().map_err(|error| ConvertError::Write { path, error })
    }

    fn error(&self, error: GgufError) -> ConvertError {
        ConvertError::Write { path: self.path.to_owned(), error }
    }
}

/// Converts a norm to `out`; the result is its [`largest`] magnitude.
fn convert_norm(source: &Source, spec: &TensorSpec, out: &mut Vec<u8>) -> f32 {
    let w = source.norm(spec);
    out.clear();
    out.extend(w.iter().flat_map(|w| w.to_le_bytes()));
    largest(&w)
}

/// Converts rows to `out`, all threads together; the result is their [`largest`] magnitude. Rows
/// that are not finite are left out of it, for the caller has to refuse them.
fn convert_rows(view: &TensorView, ty: QuantType, out: &mut Vec<u8>) -> f32 {
    let (from, to, cols) = (view.ty.traits(), ty.traits(), view.cols());
    let row_bytes =
        |ty: QuantType| ty.row_bytes(cols).expect("rows were checked to be whole blocks");
    let rows = view.data.par_chunks_exact(row_bytes(view.ty));
    out.resize(rows.len() * row_bytes(ty), 0);
    out.par_chunks_exact_mut(row_bytes(ty))
        .zip(rows)
        .map_init(
            || vec![0.0; cols],
            |x, (out, row)| {
                (from.dequantize)(row, x);
                let largest = largest(x);
                if view.ty == ty {
                    out.copy_from_slice(row);
                } else if largest.is_finite() {
                    (to.quantize)(x, out);
                }
                largest
            },
        )
        .reduce(|| 0.0, |a, b| if a.to_bits() > b.to_bits() { a } else { b })
}

/// The largest magnitude, where infinity is larger than every number and NaN larger still. That is
/// the order of the bits without the sign, which needs no comparison of floats.
fn largest(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |largest, x| largest.max(x.abs().to_bits())))
}

/// Refuses weights that the new file cannot hold. `name` is the tensor's in the source.
fn check(source: &Source, name: &str, ty: QuantType, largest: f32) -> Result<(), ConvertError> {
    let (path, name) = (|| source.path().to_owned(), || name.to_owned());
    if !largest.is_finite() {
        return Err(ConvertError::NotFinite { path: path(), name: name() });
    }
    if ty == QuantType::F16 && largest > half::f16::MAX.to_f32() {
        return Err(ConvertError::Overflow { path: path(), name: name(), value: largest, ty });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micro() -> Source {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/micro-gemma2");
        Source::open(Path::new(fixture)).unwrap()
    }

    /// Writes the whole model to `out`, in slices of `values` values.
    fn write<W: Write + Send>(out: W, values: usize) -> Result<W, ConvertError> {
        let source = micro();
        let header = header(&source, Recipe::Q4_K_M)?;
        let pool = ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let mut slices = Slices::new(&pool, Path::new("out.gguf"), out, &header)?;
        write_tensors(&source, &header, &mut slices, values, &mut ())?;
        slices.finish()
    }

    #[test]
    fn slices_of_any_size_give_the_same_bytes() {
        let whole = write(Vec::new(), usize::MAX).unwrap();
        for values in [1, 1000, 96 * 100] {
            assert!(write(Vec::new(), values).unwrap() == whole, "slices of {values} values");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_an_error_that_names_the_output() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let error = write(full, SLICE).unwrap_err().to_string();
        assert!(error.starts_with("out.gguf: "), "{error}");
        assert!(error.contains("No space left on device"), "{error}");
    }

    #[test]
    fn the_largest_magnitude_knows_neither_sign_nor_order_of_nan() {
        assert_eq!(largest(&[]), 0.0);
        assert_eq!(largest(&[1.0, -3.0, 2.0, -0.0]), 3.0);
        assert_eq!(largest(&[1.0, f32::NEG_INFINITY, 2.0]), f32::INFINITY);
        assert!(largest(&[f32::INFINITY, -f32::NAN, 1.0]).is_nan());
        assert!(largest(&[f32::NAN, f32::INFINITY, 1.0]).is_nan());
    }
}
