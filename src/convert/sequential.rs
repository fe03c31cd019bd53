//! Layer after layer: what the inputs of a layer's matrices lose by the rounding of the layers before it.
//!
//! The text that the statistics were collected on goes through the model twice, side by side: through the
//! original layers, and through those that are written already.

use std::path::Path;

use lapidary_formats::gguf::Header;
use lapidary_formats::map::MappedFile;
use lapidary_formats::tensor::TensorView;

use super::{ConvertError, Progress};
use crate::hessian::Inputs;
use crate::kernels::second_order::{panels, Lost};
use crate::kernels::{Activations, Cpu, KvType, Matrix};
use crate::model::{Model, Observer, Readers, Source, State, StateOptions, Stream, TensorKind};

/// Bytes of the two streams, at most.
const STREAMS: usize = 1_000_000_000;

/// A text on its way through both models.
pub(super) struct Sequential<'a> {
    model: Model<'a>,
    written: Written<'a>,
    state: State,
    /// Its chunks in the original model, before layer `layer`, or after it if `lost` is known.
    original: Vec<Stream>,
    /// Those in the model that is written, before layer `layer`.
    rounded: Vec<Stream>,
    layer: usize,
    /// What inputs of layer `layer` have lost, by part of their columns.
    lost: Option<Vec<(Inputs, Vec<Lost>)>>,
    /// Columns that are taken together, at most.
    limit: usize,
}

impl<'a> Sequential<'a> {
    /// At the beginning of a file, and of those of the `chunks` of a text for which there is memory, at equal
    /// distances.
    pub fn new(
        source: &'a Source,
        cpu: &Cpu,
        written: Written<'a>,
        chunks: Vec<Vec<u32>>,
        limit: usize,
    ) -> Result<Self, ConvertError> {
        let model = Model::on(cpu.clone(), source)?;
        let n_ctx = chunks.iter().map(Vec::len).max().unwrap_or(1);
        let room = STREAMS / (2 * Stream::bytes(n_ctx, model.config().n_embd));
        let n = room.clamp(1, chunks.len().max(1));
        let chunks: Vec<_> = (0..n).filter_map(|i| chunks.get(i * chunks.len() / n)).collect();
        let options = StateOptions { n_ubatch: n_ctx, ..StateOptions::new(n_ctx, KvType::F16) };
        let mut state = State::new(model.config(), options);
        let embedded = chunks.iter().map(|chunk| model.embedded(&mut state, chunk));
        let original = embedded.collect::<Result<_, _>>()?;
        Ok(Self {
            model,
            written,
            state,
            original,
            rounded: Vec::new(),
            layer: 0,
            lost: None,
            limit,
        })
    }

    /// Whether it is known what the inputs of `layer` have lost.
    pub fn is_at(&self, layer: usize) -> bool {
        layer == self.layer && self.lost.is_some()
    }

    /// Comes to `layer`, before which all tensors have been written.
    pub fn reach(&mut self, layer: usize, progress: &mut dyn Progress) -> Result<(), ConvertError> {
        progress.tensor(&format!("what goes into blk.{layer}"));
        let map = self.written.map()?;
        if self.rounded.is_empty() {
            let token_embd = self.written.matrix(&map, TensorKind::TokenEmbd, None);
            let streams = self.original.iter();
            let embedded = streams.map(|s| self.model.embedded_by(&token_embd, s.tokens()));
            self.rounded = embedded.collect();
        }
        while self.layer < layer {
            self.pass(&map, progress)?;
        }
        self.measure(progress)
    }

    /// What the inputs of some matrices of this layer have lost.
    pub fn lost(&self, inputs: Inputs) -> Option<&[Lost]> {
        let found = self.lost.iter().flatten().find(|(of, _)| *of == inputs);
        found.map(|(_, lost)| lost.as_slice())
    }

    /// Takes both streams through the layer.
    fn pass(&mut self, map: &MappedFile, progress: &dyn Progress) -> Result<(), ConvertError> {
        let Self { model, written, state, layer, .. } = self;
        if self.lost.take().is_none() {
            for stream in &mut self.original {
                not_cancelled(progress)?;
                model.take_through(state, *layer, stream, &mut ())?;
            }
        }
        let original = &model.weights().layers[*layer];
        let rounded = original.with_matrices(|kind| written.matrix(map, kind, Some(*layer)));
        for stream in &mut self.rounded {
            not_cancelled(progress)?;
            model.take_through_other(state, *layer, &rounded, stream, &mut ())?;
        }
        self.layer += 1;
        Ok(())
    }

    /// Finds out what the inputs of the layer's matrices have lost, and takes the original stream through it.
    fn measure(&mut self, progress: &dyn Progress) -> Result<(), ConvertError> {
        let (model, layer) = (&self.model, self.layer);
        let mut all = Inputs::of(model.config(), model.output_kind());
        all.retain(|inputs| inputs.layer() == Some(layer));
        let lost =
            |inputs: Inputs| inputs.parts(self.limit).iter().map(|p| Lost::new(p.len())).collect();
        let mut all: Vec<_> = all.into_iter().map(|inputs| (inputs, lost(inputs))).collect();
        for (original, rounded) in self.original.iter_mut().zip(&self.rounded) {
            not_cancelled(progress)?;
            let mut recorder = Recorder::default();
            model.take_through(&mut self.state, layer, original, &mut recorder)?;
            let mut comparison = Comparison {
                cpu: model.cpu(),
                original: &recorder.inputs,
                lost: &mut all,
                limit: self.limit,
            };
            model.take_through(&mut self.state, layer, &mut rounded.clone(), &mut comparison)?;
        }
        self.lost = Some(all);
        Ok(())
    }
}

fn not_cancelled(progress: &dyn Progress) -> Result<(), ConvertError> {
    match progress.cancelled() {
        true => Err(ConvertError::Cancelled),
        false => Ok(()),
    }
}

/// The file that is being written.
pub(super) struct Written<'a> {
    pub path: &'a Path,
    pub header: &'a Header,
}

impl Written<'_> {
    fn map(&self) -> Result<MappedFile, ConvertError> {
        let error = |error| ConvertError::Output { path: self.path.to_owned(), error };
        MappedFile::open(self.path).map_err(error)
    }

    /// A matrix that is complete.
    fn matrix<'m>(
        &'m self,
        map: &'m MappedFile,
        kind: TensorKind,
        layer: Option<usize>,
    ) -> Matrix<'m> {
        let name = kind.name(layer);
        let info = self.header.tensors().iter().find(|info| info.name == name);
        let info = info.expect("the new file has the tensors of the old one");
        let start = self.header.encode().len() + info.offset as usize;
        let data = &map.bytes()[start..start + info.bytes as usize];
        Matrix::new(TensorView { name: &info.name, ty: info.ty, shape: &info.shape, data })
    }
}

/// Keeps what the matrices of a layer are multiplied with.
#[derive(Default)]
struct Recorder {
    inputs: Vec<(Readers, Vec<f32>)>,
}

impl Observer for Recorder {
    fn inputs(&mut self, readers: Readers, rows: &Activations) {
        self.inputs.push((readers, rows.x().to_vec()));
    }
}

/// Compares what they are multiplied with.
struct Comparison<'a> {
    cpu: &'a Cpu,
    original: &'a [(Readers, Vec<f32>)],
    lost: &'a mut [(Inputs, Vec<Lost>)],
    limit: usize,
}

impl Observer for Comparison<'_> {
    fn inputs(&mut self, readers: Readers, rows: &Activations) {
        let original = self.original.iter().find(|(of, _)| *of == readers);
        let lost = self.lost.iter_mut().find(|(inputs, _)| inputs.readers == readers);
        let (Some((_, original)), Some((inputs, lost))) = (original, lost) else { return };
        let difference: Vec<f32> = original.iter().zip(rows.x()).map(|(x, y)| x - y).collect();
        for (part, lost) in inputs.parts(self.limit).into_iter().zip(lost) {
            let [difference, left] =
                [&difference, rows.x()].map(|x| panels(x, rows.cols(), part.clone()));
            lost.add(self.cpu, &difference, &left);
        }
    }
}
