//! Second-order statistics: layer by layer the same activations as in one pass, and what the file has.

mod interrupted;
mod wrong_files;

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use half::bf16;
use lapidary::hessian::{About, FileError, HessianFile, Inputs, Options};
use lapidary::kernels::second_order::{panels, Gram};
use lapidary::kernels::{Activations, Cpu, Isa, KvType};
use lapidary::model::{
    Extent, GradientObserver, Model, Observer, Readers, RowSource, Source, State, StateOptions,
};
use tempfile::TempDir;

use crate::fixtures::tests_dir;

const MODELS: [&str; 4] = ["micro-gemma1", "micro-gemma2", "micro-gemma3", "micro-vaultgemma"];

/// More than the window of the local layers, and no multiple of anything.
const N_CTX: usize = 43;

fn source(name: &str) -> Source {
    Source::open(&tests_dir("fixtures").join(name)).unwrap()
}

fn model(source: &Source, threads: usize, isa: Isa) -> Model<'_> {
    Model::on(Cpu::new(NonZeroUsize::new(threads), isa).unwrap(), source).unwrap()
}

/// Ids all over the vocabulary.
fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + (i * i * 31 + i * 7) % 2000).collect()
}

fn options(n_ctx: usize, limit: usize) -> Options {
    Options {
        n_ctx: NonZeroUsize::new(n_ctx).unwrap(),
        chunks: None,
        bos: Some(2),
        limit,
        fisher: false,
    }
}

fn state(model: &Model<'_>, n_ctx: usize) -> State {
    State::new(model.config(), StateOptions::new(n_ctx, KvType::F16))
}

/// Remembers the inputs of all matrices.
#[derive(Default)]
struct Recorder(Vec<(Readers, Vec<f32>)>);

impl Observer for Recorder {
    fn inputs(&mut self, readers: Readers, rows: &Activations) {
        self.0.push((readers, rows.x().to_vec()));
    }
}

/// What a pass through all layers shows of each chunk.
fn recorded(model: &Model<'_>, tokens: &[u32], n_ctx: usize) -> Vec<Recorder> {
    let mut state = State::new(
        model.config(),
        StateOptions { n_ubatch: n_ctx, ..StateOptions::new(n_ctx, KvType::F16) },
    );
    let chunks = tokens.chunks_exact(n_ctx).map(|chunk| {
        let (mut recorder, mut chunk) = (Recorder::default(), chunk.to_vec());
        chunk[0] = 2;
        state.truncate(0);
        model.observe(&mut state, &chunk, &mut recorder).unwrap();
        recorder
    });
    chunks.collect()
}

#[test]
fn layer_by_layer_the_inputs_are_those_of_one_pass() {
    for name in MODELS {
        let source = source(name);
        let model = model(&source, 2, Isa::best());
        let (mut state, mut chunk) = (state(&model, N_CTX), tokens(N_CTX));
        chunk[0] = 2;
        let want = recorded(&model, &tokens(N_CTX), N_CTX).remove(0).0;
        // Another text in between leaves nothing behind.
        let mut other = model.embedded(&mut state, &tokens(N_CTX / 2)).unwrap();
        let mut stream = model.embedded(&mut state, &chunk).unwrap();
        let mut found = Recorder::default();
        for layer in 0..model.config().n_layer() {
            model.take_through(&mut state, layer, &mut other, &mut ()).unwrap();
            model.take_through(&mut state, layer, &mut stream, &mut found).unwrap();
        }
        model.show_output(&mut state, &stream, &mut found);
        assert_eq!(found.0.len(), want.len(), "{name}");
        for ((readers, x), (of, y)) in want.iter().zip(&found.0) {
            assert_eq!(readers, of, "{name}");
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(x) == bits(y), "{name}: {readers:?}");
        }
    }
}

/// Collects the statistics of a fixture in a file.
struct Place {
    source: Source,
    dir: TempDir,
}

impl Place {
    fn new(name: &str) -> Self {
        Self { source: source(name), dir: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fingerprint(&self) -> String {
        self.source.fingerprint(Extent::Sample).unwrap()
    }

    fn collect(
        &self,
        name: &str,
        tokens: &[u32],
        options: Options,
        threads: usize,
        isa: Isa,
    ) -> PathBuf {
        let model = model(&self.source, threads, isa);
        let about = About::new(self.fingerprint(), "text".to_owned(), tokens, options).unwrap();
        let path = self.path(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let header = about.header(&model).unwrap();
        about.collect(&model, tokens, header, &file, Vec::new(), &mut |_, _| true).unwrap();
        path
    }

    fn open(&self, path: &Path) -> Result<HessianFile, FileError> {
        HessianFile::open(path, &self.fingerprint())
    }

    fn inputs(&self) -> Vec<Inputs> {
        Inputs::of(self.source.config(), self.source.output_kind())
    }
}

#[test]
fn the_file_has_the_sums_of_what_one_pass_shows() {
    for name in MODELS {
        let place = Place::new(name);
        // Nine chunks and a rest; the eighth is held out.
        let tokens = tokens(9 * N_CTX + 5);
        let path = place.collect("a", &tokens, options(N_CTX, usize::MAX), 2, Isa::best());
        let file = place.open(&path).unwrap();
        let model = model(&place.source, 1, Isa::best());
        let chunks = recorded(&model, &tokens, N_CTX);
        let mut summed: Vec<_> = tokens.chunks_exact(N_CTX).map(<[u32]>::to_vec).collect();
        summed.iter_mut().for_each(|chunk| chunk[0] = 2);
        summed.remove(7);
        assert_eq!(file.chunks().unwrap(), summed);
        for inputs in place.inputs() {
            let mut gram = Gram::new(inputs.cols);
            let x = |chunk: &Recorder| {
                chunk.0.iter().find(|(readers, _)| *readers == inputs.readers).unwrap().1.clone()
            };
            for (i, chunk) in chunks.iter().enumerate().filter(|(i, _)| *i != 7) {
                assert!(i < 9);
                gram.add(model.cpu(), &panels(&x(chunk), inputs.cols, 0..inputs.cols));
            }
            let [found] = &file.grams(inputs).unwrap()[..] else { panic!("one part") };
            assert_eq!((found.columns(), found.rows()), (inputs.cols, 8 * N_CTX));
            assert!(found.sums() == gram.sums(), "{name}: {:?}", inputs.readers);
            let held_out: Vec<f32> =
                x(&chunks[7]).iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
            assert!(file.held_out(inputs).unwrap() == held_out, "{name}: {:?}", inputs.readers);
        }
    }
}

#[test]
fn the_bytes_do_not_depend_on_threads_or_instructions() {
    let place = Place::new("micro-gemma2");
    let tokens = tokens(9 * N_CTX);
    let want = place.collect("a", &tokens, options(N_CTX, usize::MAX), 1, Isa::SCALAR);
    let want = fs::read(want).unwrap();
    for (i, isa) in Isa::available().into_iter().enumerate() {
        let path = place.collect(&i.to_string(), &tokens, options(N_CTX, usize::MAX), 1 + i, isa);
        assert!(fs::read(path).unwrap() == want, "{}", isa.name());
    }
}

#[test]
fn parts_are_what_the_whole_has_on_its_diagonal() {
    let place = Place::new("micro-gemma2");
    let tokens = tokens(3 * N_CTX);
    let open = |name, limit| {
        let path = place.collect(name, &tokens, options(N_CTX, limit), 2, Isa::best());
        place.open(&path).unwrap()
    };
    let (whole, parts) =
        (open("whole", usize::MAX), open("parts", Options::columns_within(40_000)));
    let model = model(&place.source, 2, Isa::best());
    let chunks = recorded(&model, &tokens, N_CTX);
    let mut most = 0;
    for inputs in place.inputs() {
        let grams = parts.grams(inputs).unwrap();
        most = most.max(grams.len());
        let diagonal: Vec<f32> = grams.iter().flat_map(Gram::diagonal).collect();
        assert_eq!(diagonal, whole.grams(inputs).unwrap()[0].diagonal());
        let mut start = 0;
        for part in &grams {
            // 40 kB: a square of 70 columns twice.
            assert!(part.columns() <= 70 && part.columns().is_multiple_of(32));
            let columns = start..start + part.columns();
            let mut gram = Gram::new(part.columns());
            for chunk in &chunks {
                let mut x = chunk.0.iter().filter(|(readers, _)| *readers == inputs.readers);
                let x = &x.next().unwrap().1;
                gram.add(model.cpu(), &panels(x, inputs.cols, columns.clone()));
            }
            assert!(part.sums() == gram.sums());
            start = columns.end;
        }
        assert_eq!(start, inputs.cols);
        // Fewer than eight chunks leave none to be held out.
        assert!(parts.held_out(inputs).unwrap().is_empty());
    }
    assert!(most > 1);
}

/// Longer than what is evaluated together otherwise.
#[test]
fn chunks_may_be_longer_than_a_ubatch() {
    let place = Place::new("micro-gemma3");
    let tokens = tokens(700);
    let path = place.collect("a", &tokens, options(700, usize::MAX), 2, Isa::best());
    let file = place.open(&path).unwrap();
    let model = model(&place.source, 2, Isa::best());
    let inputs = *place.inputs().last().unwrap();
    let chunk = recorded(&model, &tokens, 700).remove(0);
    let mut gram = Gram::new(inputs.cols);
    gram.add(model.cpu(), &panels(&chunk.0.last().unwrap().1, inputs.cols, 0..inputs.cols));
    assert!(file.grams(inputs).unwrap()[0].sums() == gram.sums());
}

#[test]
fn a_text_that_is_too_short_or_stopped_is_an_error() {
    let place = Place::new("micro-gemma2");
    let about = |n| About::new(String::new(), String::new(), &tokens(n), options(N_CTX, 96));
    let error = about(N_CTX - 1).unwrap_err().to_string();
    assert_eq!(error, format!("the text has {} tokens, but one chunk needs {N_CTX}", N_CTX - 1));
    let (about, model) = (about(2 * N_CTX).unwrap(), model(&place.source, 1, Isa::best()));
    let mut asked = 0;
    let file = tempfile::tempfile().unwrap();
    let header = about.header(&model).unwrap();
    let progress = &mut |done: usize, all: usize| {
        // Three layers and the output, twice.
        assert_eq!(all, 8);
        asked = done;
        done < 3
    };
    let error = about.collect(&model, &tokens(2 * N_CTX), header, &file, Vec::new(), progress);
    assert_eq!(error.unwrap_err().to_string(), "cancelled");
    assert_eq!(asked, 3);
}

/// The sums of the squares of the gradients of logits.
struct Logits(Vec<f64>);

impl GradientObserver for Logits {
    fn logits(&mut self, gradient: &[f32]) {
        for row in gradient.chunks_exact(self.0.len()) {
            self.0.iter_mut().zip(row).for_each(|(sum, g)| *sum += f64::from(*g).powi(2));
        }
    }
}

#[test]
fn the_file_has_the_gradients_of_logits_and_of_embedded_tokens() {
    let place = Place::new("micro-gemma3");
    let (n, tokens) = (2, tokens(2 * N_CTX));
    let options = Options { fisher: true, ..options(N_CTX, usize::MAX) };
    let file = place.open(&place.collect("a", &tokens, options, 2, Isa::best())).unwrap();
    assert_eq!(file.gradients(), Some(n * N_CTX));
    let model = model(&place.source, 1, Isa::best());
    let (config, mut state) = (model.config(), state(&model, N_CTX));
    let (mut logits, mut embedded) = (Logits(vec![0.0; config.n_vocab]), vec![0.0; config.n_embd]);
    for (i, chunk) in tokens.chunks_exact(N_CTX).enumerate() {
        let mut chunk = chunk.to_vec();
        chunk[0] = 2;
        let mut streams = vec![model.embedded(&mut state, &chunk).unwrap()];
        for layer in 0..config.n_layer() {
            let mut stream = streams[layer].clone();
            model.take_through(&mut state, layer, &mut stream, &mut ()).unwrap();
            streams.push(stream);
        }
        let last = &streams[config.n_layer()];
        let gradient = model.sampled_gradient(&mut state, last, i as u64, &mut logits);
        let mut gradient = gradient.unwrap();
        for layer in (0..config.n_layer()).rev() {
            let before = &streams[layer];
            model.take_back(&mut state, layer, before, &mut gradient, &mut ()).unwrap();
        }
        for (at, (x, g)) in streams[0].x().iter().zip(&gradient).enumerate() {
            embedded[at % config.n_embd] += (f64::from(*x) * f64::from(*g)).powi(2);
        }
    }
    let rounded = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect::<Vec<_>>();
    assert_eq!(file.embedded(config.n_embd).unwrap(), Some(rounded(embedded)));
    assert_eq!(file.logits(config.n_vocab).unwrap(), Some(rounded(logits.0)));
    // Without gradients there is nothing of them.
    let options = Options { fisher: false, ..options };
    let file = place.open(&place.collect("b", &tokens, options, 2, Isa::best())).unwrap();
    assert_eq!((file.gradients(), file.logits(config.n_vocab).unwrap()), (None, None));
}
