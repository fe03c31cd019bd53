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
use super::{ConvertError, Plan, Report, Totals};
use crate::kernels::{largest, Isa, Requantize};
use crate::model::{Role, Source, TensorSpec};

/// Values that are converted before progress is told and cancelling looked at: rows enough for
/// many threads (27B: 113 of the longest), and a few megabytes.
const SLICE: usize = 4 << 20;

/// How to work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How many threads work; as many as there are processors if not given. The file's bytes do
    /// not depend on it.
    pub threads: Option<usize>,
    /// The instructions used, on which the bytes do not depend either.
    pub isa: Isa,
    /// Whether a file that is there already may be replaced.
    pub force: bool,
}

/// Who wants to know how far a conversion is. Every method does nothing unless it is overridden;
/// `()` is nobody.
pub trait Progress {
    /// A plan is being made; `values` values are going to be looked at.
    fn measuring(&mut self, _values: u64) {}
    /// Everything has been checked; `bytes` bytes of tensors are going to be read.
    fn started(&mut self, _bytes: u64) {}
    /// The next tensor, by its GGUF name.
    fn tensor(&mut self, _name: &str) {}
    /// That many bytes more have been read from the source and converted; or values measured.
    fn advanced(&mut self, _bytes_in: u64, _bytes_out: u64) {}
    /// All tensors are written; what remains is to wait for the disk.
    fn finished(&mut self) {}
    /// Whether to stop and leave nothing behind; asked before every slice.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {}

/// Converts a model to a GGUF file at `out`, as `plan` has it.
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
    plan: &Plan,
    options: Options,
    progress: &mut dyn Progress,
) -> Result<Report, ConvertError> {
    let start = Instant::now();
    let header = header(source, plan)?;
    let pool = pool(options.threads)?;
    let mut report = outlook(source, &header);
    let target = Target::create(out, options.force, source, report.file_bytes)?;
    progress.started(report.bytes_read);
    let file = BufWriter::new(target.file());
    let mut slices = Slices::new(&pool, out, file, &header)?;
    let work = Work { source, header: &header, plan, isa: options.isa };
    work.write_tensors(&mut slices, SLICE, progress)?;
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

/// `threads`, or as many as there are processors.
pub(super) fn pool(threads: Option<usize>) -> Result<ThreadPool, ConvertError> {
    let threads = threads.unwrap_or(0);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|error| ConvertError::Threads { threads, error })
}

/// What the conversion is going to do.
fn outlook(source: &Source, header: &Header) -> Report {
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

/// A conversion.
struct Work<'a> {
    source: &'a Source,
    /// Its tensors are those of the source in the same order.
    header: &'a Header,
    plan: &'a Plan,
    isa: Isa,
}

impl Work<'_> {
    /// Writes every tensor, in slices of about `values` values.
    fn write_tensors<W: Write + Send>(
        &self,
        slices: &mut Slices<W>,
        values: usize,
        progress: &mut dyn Progress,
    ) -> Result<(), ConvertError> {
        let tensors = self.source.tensors().iter().zip(self.header.tensors());
        for (i, (spec, info)) in tensors.enumerate() {
            progress.tensor(&spec.name);
            let view = self.source.tensor(spec);
            let importance = self.plan.weighting.as_ref().and_then(|w| w.of(i));
            let requantize =
                Requantize { from: view.ty, to: info.ty, importance, effort: self.plan.effort };
            let row_bytes = view.data.len() / view.rows();
            let rows = match spec.role {
                Role::Norm => view.rows(),
                Role::Matrix => (values / view.cols()).max(1),
            };
            for data in view.data.chunks(rows * row_bytes) {
                if progress.cancelled() {
                    return Err(ConvertError::Cancelled);
                }
                let view = TensorView { data, ..view };
                let bytes_out = slices.push(|out| {
                    let largest = match spec.role {
                        Role::Norm => convert_norm(self.source, spec, out),
                        Role::Matrix => convert_rows(&view, requantize, self.isa, out),
                    };
                    check(self.source, view.name, info.ty, largest)
                })?;
                self.source.release(data);
                progress.advanced(data.len() as u64, bytes_out);
            }
        }
        Ok(())
    }
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
fn convert_rows(view: &TensorView, requantize: Requantize, isa: Isa, out: &mut Vec<u8>) -> f32 {
    let cols = view.cols();
    let row_bytes =
        |ty: QuantType| ty.row_bytes(cols).expect("rows were checked to be whole blocks");
    let rows = view.data.par_chunks_exact(row_bytes(requantize.from));
    out.resize(rows.len() * row_bytes(requantize.to), 0);
    out.par_chunks_exact_mut(row_bytes(requantize.to))
        .zip(rows)
        .map_init(|| vec![0.0; cols], |x, (out, row)| requantize.row(isa, row, x, out))
        .reduce(|| 0.0, |a, b| if a.to_bits() > b.to_bits() { a } else { b })
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
    use crate::convert::Recipe;

    fn micro() -> Source {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/micro-gemma2");
        Source::open(Path::new(fixture)).unwrap()
    }

    /// Writes the whole model to `out`, in slices of `values` values.
    fn write<W: Write + Send>(out: W, values: usize) -> Result<W, ConvertError> {
        let source = micro();
        let plan = Plan::of_recipe(&source, Recipe::Q4_K_M);
        let header = header(&source, &plan)?;
        let pool = ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let mut slices = Slices::new(&pool, Path::new("out.gguf"), out, &header)?;
        let work = Work { source: &source, header: &header, plan: &plan, isa: Isa::best() };
        work.write_tensors(&mut slices, values, &mut ())?;
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
}
