//! What a file of statistics is about, and how it is written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;

use lapidary_formats::gguf::{Checksum, GgufError, Header, Writer};
use lapidary_formats::quant::{QuantType, Row};

use super::collect::{collect, Collected, Extent, Options};
use super::file::{CHUNK_SIZE, DATASETS, EMBEDDED, FISHER_TOKENS, KIND, KIND_KEY, LIMIT, LOGITS};
use super::file::{MODEL, TEMPORARY, TEXT, TEXT_TOKENS, TOKENS, VERSION};
use super::{fisher, Inputs, Outputs, ROWS};
use crate::calibration::CollectError;
use crate::kernels::second_order::Gram;
use crate::model::{Model, Stream};
use crate::perplexity::chunk;

/// What a file is about.
#[derive(Clone, Debug)]
pub struct About {
    /// The model's fingerprint.
    model: String,
    /// The name of the text.
    dataset: String,
    /// The checksum of its tokens.
    pub(super) text: String,
    /// Its tokens as they are evaluated, `[chunks, n_ctx]`.
    tokens: Vec<u32>,
    pub(super) options: Options,
    pub(super) extent: Extent,
    temporary: bool,
}

impl About {
    /// The statistics of the model with this fingerprint on `tokens`, a text of the name `dataset` with
    /// BOS first.
    ///
    /// # Errors
    /// If the text does not fill a chunk.
    pub fn new(
        model: String,
        dataset: String,
        tokens: &[u32],
        options: Options,
    ) -> Result<Self, CollectError> {
        let extent = Extent::new(tokens.len(), &options)?;
        let mut checksum = Checksum::new();
        tokens.iter().for_each(|token| checksum.update(&token.to_le_bytes()));
        let text = format!("{:016x}", checksum.value());
        let chunks = (0..extent.chunks).map(|i| chunk(tokens, extent.n_ctx, i, options.bos));
        let tokens = chunks.flatten().collect();
        Ok(Self { model, dataset, text, tokens, options, extent, temporary: false })
    }

    /// The same for a conversion that collects them for itself, and deletes them when it is done. The file
    /// says so.
    pub fn temporary(self) -> Self {
        Self { temporary: true, ..self }
    }

    /// The model's fingerprint.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The header of the file.
    ///
    /// # Errors
    /// If the file could not be read again.
    pub fn header(&self, model: &Model<'_>) -> Result<Header, GgufError> {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut header = Header::new();
        header.set(KIND_KEY, KIND);
        header.set(VERSION, env!("CARGO_PKG_VERSION"));
        header.set(MODEL, self.model.as_str());
        header.set(DATASETS, vec![self.dataset.clone()]);
        header.set(TEXT, self.text.as_str());
        header.set(TOKENS, number(self.extent.tokens()));
        header.set(CHUNK_SIZE, number(self.extent.n_ctx));
        header.set(LIMIT, self.options.limit as u64);
        header.set(TEXT_TOKENS, self.tokens.clone());
        if self.options.fisher {
            header.set(FISHER_TOKENS, number(fisher::tokens(&self.extent)));
        }
        if self.temporary {
            header.set(TEMPORARY, true);
        }
        for (name, ty, shape) in self.groups(model).into_iter().flatten() {
            header.add_tensor(name, ty, &shape)?;
        }
        header.reserve_checksums();
        Ok(header)
    }

    /// The tensors of the file, in the groups in which they are collected: of the inputs of each layer, of
    /// those of the output matrix, of the logits, of the outputs of each layer from the last one, and of the embedded tokens.
    fn groups(&self, model: &Model<'_>) -> Vec<Vec<Described>> {
        let (config, n_layer) = (model.config(), model.config().n_layer());
        let mut groups = vec![Vec::new(); n_layer + 1];
        for inputs in Inputs::of(config, model.output_kind()) {
            let group = &mut groups[inputs.layer().unwrap_or(n_layer)];
            group.extend(sums(&inputs.name(), &inputs.parts(self.options.limit)));
            if self.extent.held_out_rows() > 0 {
                let shape = [inputs.cols, self.extent.held_out_rows()];
                group.push((format!("{}.held_out", inputs.name()), QuantType::BF16, shape));
            }
        }
        if !self.options.fisher {
            return groups;
        }
        let squares = |name: &str, len| vec![(name.to_owned(), QuantType::F32, [len, 1])];
        groups.push(squares(LOGITS, config.n_vocab));
        groups.extend((0..n_layer).rev().map(|layer| {
            let all = Outputs::of(config, layer).into_iter();
            all.flat_map(|outputs| sums(&outputs.name(), &outputs.parts(ROWS))).collect()
        }));
        groups.push(squares(EMBEDDED, config.n_embd));
        groups
    }

    /// Says what is going to be collected and what memory it takes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn report(&self, model: &Model<'_>, out: &mut dyn Write) -> io::Result<()> {
        let config = model.config();
        let stream = Stream::bytes(self.extent.chunks * self.extent.n_ctx, config.n_embd);
        let mut all = Inputs::of(config, model.output_kind());
        all.retain(|inputs| inputs.layer() == Some(0));
        let parts = all.iter().flat_map(|inputs| inputs.parts(self.options.limit));
        let sums: usize = parts.map(|part| Gram::len(part.len()) * size_of::<Row>()).sum();
        writeln!(
            out,
            "{} tokens in chunks of {}, {} of them held out; {} MB for their stream and {} MB for sums",
            self.extent.chunks * self.extent.n_ctx,
            self.extent.n_ctx,
            self.extent.chunks * self.extent.n_ctx - self.extent.tokens(),
            stream.div_ceil(1_000_000),
            sums.div_ceil(1_000_000),
        )?;
        for inputs in &all {
            let parts = inputs.parts(self.options.limit);
            if parts.len() > 1 {
                let names = inputs.readers.names().join(", ");
                let (cols, n, each) = (inputs.cols, parts.len(), parts[0].len());
                writeln!(out, "{names} …: {cols} columns in {n} parts of at most {each}")?;
            }
        }
        Ok(())
    }

    /// Collects the statistics and writes them to `file`, which is empty or has the first tensors already,
    /// whose checksums are `finished`. Those of groups that are complete are kept; then only the streams
    /// and gradients are computed again that the others need. The bytes of the file are the same. Returns
    /// the number of tensors that were kept.
    ///
    /// # Errors
    /// Those of [`CollectError`].
    pub fn collect(
        &self,
        model: &Model<'_>,
        tokens: &[u32],
        header: Header,
        mut file: &File,
        mut finished: Vec<u64>,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<usize, CollectError> {
        let (mut groups, mut tensors) = (0, 0);
        for group in self.groups(model) {
            if tensors + group.len() > finished.len() {
                break;
            }
            (groups, tensors) = (groups + 1, tensors + group.len());
        }
        finished.truncate(tensors);
        let mut writer = Writer::after_complete(BufWriter::new(file), header.clone(), finished)?;
        let store = &mut |group: Vec<Collected>| {
            group.iter().try_for_each(|collected| write(&mut writer, collected))?;
            // From here on, the group is finished.
            Ok(writer.write_checksums()?)
        };
        collect(model, tokens, self.options, groups, store, progress)?;
        writer.finish()?;
        header.seal(&mut file).map_err(GgufError::from)?;
        Ok(tensors)
    }
}

/// Name, type and shape of a tensor.
type Described = (String, QuantType, [usize; 2]);

/// The tensors of the sums of products, by part of the columns or rows.
fn sums(name: &str, parts: &[Range<usize>]) -> Vec<Described> {
    let shape = |part: &Range<usize>| [16, Gram::len(part.len())];
    let described = |(i, part)| (format!("{name}.{i}"), QuantType::F32, shape(part));
    parts.iter().enumerate().map(described).collect()
}

/// Writes what was collected of the inputs of some matrices, or of the outputs of one.
fn write<W: Write>(writer: &mut Writer<W>, collected: &Collected) -> Result<(), GgufError> {
    for gram in &collected.grams {
        // A few megabytes at a time.
        for rows in gram.sums().chunks(1 << 16) {
            let bytes: Vec<u8> =
                rows.iter().flat_map(|row| row.0).flat_map(f32::to_le_bytes).collect();
            writer.write(&bytes)?;
        }
    }
    if !collected.squares.is_empty() {
        let bytes: Vec<u8> = collected.squares.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(&bytes)?;
    }
    if !collected.held_out.is_empty() {
        let bytes: Vec<u8> = collected.held_out.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(&bytes)?;
    }
    Ok(())
}
