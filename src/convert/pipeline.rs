//! The tensors' way from one file to the other: what is checked before and after, and how each tensor is
//! quantized.

use std::io::{BufWriter, Seek, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use lapidary_formats::gguf::{Header, HEADER_CHECKSUM_KEY};
use lapidary_formats::quant::QuantType;
use lapidary_formats::vocab::Vocab;

use super::check::{self, Check};
use super::chunks::{Chunks, How};
use super::metadata::header;
use super::options::{Options, Progress};
use super::report::llama_cpp;
use super::resume::{finished_tensors, keep_unfinished, Finished};
use super::second_order::Known;
use super::sequential::{Sequential, Written};
use super::target::Target;
use super::{ConvertError, Plan, Report, Totals};
use crate::kernels::{processors, Cpu, Quantize};
use crate::model::{Extent, RowSource, Source, TensorRows};
use crate::tokenizer::Tokenizer;

/// Values that are converted before progress is told and cancelling looked at: rows enough for
/// many threads (27B: 113 of the longest), and a few megabytes.
const CHUNK: usize = 4 << 20;

/// Converts a model to a GGUF file at `out`, as `plan` has it.
///
/// It is one pass: memory holds a chunk of the mapped source and two of the result, a few megabytes
/// each, or a whole tensor where its rows make up for each other's errors. A tensor that has its new type
/// already is copied. The new file appears under its name when
/// it is complete and on the disk, and not at all if anything goes wrong. Until then it is called
/// `OUT.part`, which stays if the conversion is cut short, for [`Options::resume`]; the bytes of a
/// file do not tell how often it was.
///
/// # Errors
/// Those of [`ConvertError`]: among them, if `out` exists and `force` is not given, if the disk is
/// or runs full, if another process converts to `out`, if the unfinished file to go on with is the
/// beginning of something else, and if a weight is not finite or beyond the range of its new type.
pub fn convert(
    source: &dyn RowSource,
    out: &Path,
    plan: &Plan,
    options: Options,
    progress: &mut dyn Progress,
) -> Result<Report, ConvertError> {
    convert_and_check(source, out, plan, options, None, progress)
}

/// The same, but before the file gets its name `check` measures it, and what it finds is stored in
/// the file's metadata.
///
/// # Errors
/// Those of [`convert`], and [`ConvertError::Check`].
pub fn convert_and_check(
    source: &dyn RowSource,
    out: &Path,
    plan: &Plan,
    options: Options,
    check: Option<Check>,
    progress: &mut dyn Progress,
) -> Result<Report, ConvertError> {
    let start = Instant::now();
    let vocab = source.model().vocab()?;
    let extent = if options.verify_source { Extent::Full } else { Extent::Sample };
    let fingerprint = source.fingerprint(extent)?;
    let mut header = header(source, plan, &vocab, fingerprint.clone())?;
    if !options.verify_source {
        // Where the checksum of the complete header will be. So an unfinished file says of what state
        // of the source it is, and a complete one does not.
        header.set(HEADER_CHECKSUM_KEY, source.state());
    }
    if check.is_some() {
        check::reserve(&mut header);
    }
    plan.can_be_written(source)?;
    let cpu = cpu(options)?;
    let mut report = outlook(source, &header, &vocab);
    usable(source.model(), vocab)?;
    let Options { force, resume, .. } = options;
    let mut target = Target::with_header(out, force, resume, Some(source.model()), &header)?;
    progress.started(report.bytes_read);
    let fingerprint = options.verify_source.then_some(&*fingerprint);
    let work = Work { source, header: &header, plan, cpu: &cpu, fingerprint };
    match work.write_file(&mut target, resume, check, progress) {
        Ok((resumed, by_importance)) => {
            (report.resumed, report.by_importance) = (resumed, by_importance);
        }
        Err(error) => return Err(keep_unfinished(target, &header, error)),
    }
    let resumed = source.model().tensors()[..report.resumed].iter();
    report.bytes_read -= resumed.map(|spec| source.rows(spec).bytes(0..spec.rows())).sum::<u64>();
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// Checks, before the long work and after it, that `run` can use the tokenizer of `model`.
fn usable(model: &Source, vocab: Vocab) -> Result<(), ConvertError> {
    let error = |error| ConvertError::Tokenizer { path: model.path().to_owned(), error };
    Tokenizer::new(vocab).map(|_| ()).map_err(error)
}

/// The threads, which are as many as there are processors if no number is given, and the instructions.
pub(super) fn cpu(options: Options) -> Result<Cpu, ConvertError> {
    let threads = options.threads.and_then(NonZeroUsize::new).unwrap_or_else(processors);
    Ok(Cpu::new(Some(threads), options.isa)?)
}

/// What the conversion is going to do.
fn outlook(source: &dyn RowSource, header: &Header, vocab: &Vocab) -> Report {
    let values = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let totals = Totals::new(header.tensors().iter().map(|t| (t.ty, values(&t.shape), t.bytes)));
    let (mut bytes_read, mut requantized) = (0, 0);
    for (spec, info) in source.model().tensors().iter().zip(header.tensors()) {
        let rows = source.rows(spec);
        bytes_read += rows.bytes(0..spec.rows());
        let stored = rows.stored().map(|view| view.ty);
        requantized += usize::from(stored.is_some_and(|ty| ty.block_len() > 1 && ty != info.ty));
    }
    Report {
        totals,
        file_bytes: header.file_bytes(),
        bytes_read,
        requantized,
        resumed: 0,
        by_importance: Vec::new(),
        untied: source.model().is_untied(),
        llama_cpp: llama_cpp(source.model(), vocab),
        seconds: 0.0,
    }
}

/// A conversion.
struct Work<'a> {
    source: &'a dyn RowSource,
    /// Its tensors are those of the source in the same order.
    header: &'a Header,
    plan: &'a Plan,
    cpu: &'a Cpu,
    /// That of the whole source, if it is to be read once more at the end.
    fingerprint: Option<&'a str>,
}

impl Work<'_> {
    /// Writes the file and gives it its name. Returns the number of tensors that were finished before, and
    /// what [`write_tensors`](Self::write_tensors) does.
    fn write_file(
        &self,
        target: &mut Target,
        resume: bool,
        check: Option<Check>,
        progress: &mut dyn Progress,
    ) -> Result<(usize, Vec<String>), ConvertError> {
        let finished = match resume {
            true => self.finished(target, progress)?,
            false => Finished::default(),
        };
        let resumed = finished.checksums.len();
        target.begin(finished.len)?;
        let out = BufWriter::new(target.file());
        let mut chunks =
            Chunks::new(self.cpu, target.path(), out, self.header, finished.checksums)?;
        let written = Written { path: target.unfinished(), header: self.header };
        let second_order = self.plan.second_order.as_ref();
        let sequential = second_order.map(|s| s.sequential(self.source.model(), self.cpu, written));
        let sequential = sequential.transpose()?.flatten();
        let by_importance = self.write_tensors(&mut chunks, CHUNK, sequential, progress)?;
        let (_, checksums) = chunks.finish()?;
        if let Some(check) = check {
            let found = check(target.unfinished())
                .map_err(|error| ConvertError::Check { path: target.path().to_owned(), error })?;
            check::store(target, self.header, checksums, &found)?;
        }
        let written = Source::open(target.unfinished())?;
        usable(&written, written.vocab()?)?;
        self.check_source()?;
        progress.finished();
        let sealed = self.header.seal(&mut target.file());
        let path = || target.path().to_owned();
        sealed.map_err(|error| ConvertError::Output { path: path(), error })?;
        target.sync()?;
        if progress.cancelled() {
            return Err(ConvertError::Cancelled);
        }
        target.commit()?;
        Ok((resumed, by_importance))
    }

    /// What of the unfinished file is finished.
    fn finished(
        &self,
        target: &Target,
        progress: &mut dyn Progress,
    ) -> Result<Finished, ConvertError> {
        let model = self.source.model();
        let bytes_in = |i: usize| {
            let spec = &model.tensors()[i];
            self.source.rows(spec).bytes(0..spec.rows())
        };
        finished_tensors(target, model, self.header, &bytes_in, progress)
    }

    /// Checks that the source is still the one that the conversion began with.
    fn check_source(&self) -> Result<(), ConvertError> {
        let changed = |path: &Path| ConvertError::SourceChanged { path: path.to_owned() };
        if let Some(path) = self.source.changed_file() {
            return Err(changed(path));
        }
        match self.fingerprint {
            Some(before) if self.source.fingerprint(Extent::Full)? != before => {
                Err(changed(self.source.model().path()))
            }
            _ => Ok(()),
        }
    }

    /// Writes every tensor that is not finished, in chunks of about `values` values. Returns the names of
    /// those for which second-order rounding was no better on the text that was held out.
    fn write_tensors<W: Write + Seek>(
        &self,
        chunks: &mut Chunks<W>,
        values: usize,
        mut sequential: Option<Sequential<'_>>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<String>, ConvertError> {
        let tensors = self.source.model().tensors().iter().zip(self.header.tensors());
        let (mut known, mut by_importance) = (None, Vec::new());
        for (i, (spec, info)) in tensors.enumerate().skip(chunks.writer.checksums().len()) {
            if let (Some(sequential), Some(layer)) = (&mut sequential, spec.layer) {
                if !sequential.is_at(layer) {
                    chunks.flush_file()?;
                    sequential.reach(layer, progress)?;
                }
            }
            progress.tensor(&spec.name);
            let rows = self.source.rows(spec);
            let (ty, effort) = (info.ty, self.plan.effort);
            let mut importance = self.plan.weighting.as_ref().and_then(|w| w.of(i));
            let mut how = None;
            // A tensor that has the type already is copied.
            let is_rounded = ty.has_grid() && rows.stored().is_none_or(|view| view.ty != ty);
            let second_order = self.plan.second_order.as_ref().filter(|_| is_rounded);
            if let Some(second_order) = second_order {
                known = second_order.known(self.cpu, self.source.model(), spec, known.take())?;
                if let Some(known) = &known {
                    importance = Some(known.importance());
                    let rounding = second_order.rounding(self.cpu, &*rows, spec, known, ty);
                    how = rounding.map(How::Round);
                    if how.is_none() {
                        by_importance.push(spec.name.clone());
                    }
                }
            }
            let feedback = match (second_order, &how) {
                (Some(second_order), Some(How::Round(_))) => {
                    second_order.row_feedback(self.cpu, spec)?
                }
                _ => None,
            };
            let how = how.unwrap_or(How::Quantize(Quantize { ty, importance, effort }));
            if let (How::Round(rounding), Some(feedback)) = (how, feedback) {
                let lost = |known: &Known| sequential.as_ref()?.lost(known.inputs);
                let make_up = |x: &mut [f32]| {
                    if let Some((known, lost)) = known.as_ref().and_then(|k| Some((k, lost(k)?))) {
                        known.make_up(self.cpu, lost, x);
                    }
                };
                let push = |chunks: &mut Chunks<W>| {
                    chunks.push_whole(&*rows, spec, rounding, &feedback, make_up)
                };
                self.write_rows(chunks, &*rows, ty, 0..spec.rows(), push, progress)?;
                continue;
            }
            let step = how.chunk(values / spec.cols(), self.cpu);
            for start in (0..spec.rows()).step_by(step) {
                let chunk = start..spec.rows().min(start + step);
                let push =
                    |chunks: &mut Chunks<W>| chunks.push(&*rows, chunk.clone(), spec.cols(), how);
                self.write_rows(chunks, &*rows, ty, chunk.clone(), push, progress)?;
            }
        }
        Ok(by_importance)
    }

    /// Writes some rows of a tensor, as `push` does it.
    fn write_rows<W: Write + Seek>(
        &self,
        chunks: &mut Chunks<W>,
        rows: &dyn TensorRows,
        ty: QuantType,
        part: Range<usize>,
        push: impl FnOnce(&mut Chunks<W>) -> Result<(f32, u64), ConvertError>,
        progress: &mut dyn Progress,
    ) -> Result<(), ConvertError> {
        if progress.cancelled() {
            chunks.flush()?;
            return Err(ConvertError::Cancelled);
        }
        let (largest, bytes_out) = push(chunks)?;
        self.refuse(rows.name(), ty, largest)?;
        rows.release(part.clone());
        progress.advanced(rows.bytes(part), bytes_out);
        Ok(())
    }

    /// Refuses weights that the new file cannot hold. `name` is the tensor's in the source.
    fn refuse(&self, name: &str, ty: QuantType, largest: f32) -> Result<(), ConvertError> {
        let (path, name) = (|| self.source.model().path().to_owned(), || name.to_owned());
        if !largest.is_finite() {
            return Err(ConvertError::NotFinite { path: path(), name: name() });
        }
        if ty == QuantType::F16 && largest > half::f16::MAX.to_f32() {
            return Err(ConvertError::Overflow { path: path(), name: name(), value: largest, ty });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::convert::Recipe;

    fn micro() -> Source {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/micro-gemma2");
        Source::open(Path::new(fixture)).unwrap()
    }

    /// Writes the whole model to `out`, in chunks of `values` values.
    fn write<W: Write + Seek>(out: W, values: usize) -> Result<W, ConvertError> {
        let source = micro();
        let plan = Plan::of_recipe(&source, Recipe::Q4_K_M);
        let header = header(&source, &plan, &source.vocab()?, String::new())?;
        let cpu = cpu(Options { threads: Some(3), ..Options::default() })?;
        let path = Path::new("out.gguf");
        let mut chunks = Chunks::new(&cpu, path, out, &header, Vec::new())?;
        let work =
            Work { source: &source, header: &header, plan: &plan, cpu: &cpu, fingerprint: None };
        work.write_tensors(&mut chunks, values, None, &mut ())?;
        Ok(chunks.finish()?.0)
    }

    #[test]
    fn chunks_of_any_size_give_the_same_bytes() {
        let write = |values| write(Cursor::new(Vec::new()), values).unwrap().into_inner();
        let whole = write(usize::MAX);
        for values in [1, 1000, 96 * 100] {
            assert!(write(values) == whole, "chunks of {values} values");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_an_error_that_names_the_output() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let error = write(full, CHUNK).unwrap_err().to_string();
        assert!(error.starts_with("out.gguf: "), "{error}");
        assert!(error.contains("No space left on device"), "{error}");
    }
}
