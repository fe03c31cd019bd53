//! AMX with bytes: Intel's servers since Sapphire Rapids (2023). Everything but the tiles is AVX-512.
//!
//! The standard library has no stable functions for these instructions, so they are written in
//! assembly here, one instruction each.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::avx512::Avx512;
use super::tiles::{TileOp, Tiles, TILE};
use super::{IntOp, SimdInt};

/// AVX-512 and AMX. It exists only where the processor has the tiles and the system lets this process
/// use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amx(Avx512);

impl Amx {
    /// Its name in `--isa`.
    pub fn name(self) -> &'static str {
        "amx"
    }

    /// A token, if the machine has the instructions and the system permits their use, which is asked for
    /// once.
    pub fn detect() -> Option<Self> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        let avx512 = Avx512::detect()?;
        USABLE
            .get_or_init(|| {
                let (features, states) = processor(avx512);
                usable(features, states, permit)
            })
            .then_some(Self(avx512))
    }

    /// Runs `op`, compiled for AVX-512.
    pub fn enter<O: IntOp>(self, op: O) -> O::Out {
        self.0.enter(op)
    }

    /// Runs `op`, compiled for AVX-512, with tiles.
    ///
    /// # Panics
    /// If `op` is run by another one.
    pub fn enter_tiles<const K: usize, O: TileOp<K>>(self, op: O) -> O::Out {
        self.0.enter(WithTiles(self, op))
    }
}

/// The features in EDX of CPUID's leaf 7, and the states that the system saves when it switches threads
/// (XCR0).
fn processor(_: Avx512) -> (u32, u64) {
    // SAFETY: a machine with AVX-512 has CPUID with leaf 7, and its system has enabled XGETBV.
    #[allow(unsafe_code)]
    unsafe {
        (__cpuid_count(7, 0).edx, _xgetbv(0))
    }
}

/// Whether tiles can be used. `permit` asks the system, and only if the processor has them.
fn usable(features: u32, states: u64, permit: impl FnOnce() -> bool) -> bool {
    const TILES: u32 = 1 << 24;
    const BYTES: u32 = 1 << 25;
    const TILE_STATES: u64 = 1 << 17 | 1 << 18;
    let has = features & (TILES | BYTES) == TILES | BYTES && states & TILE_STATES == TILE_STATES;
    has && permit()
}

/// Asks Linux for the use of tiles by all threads of this process.
#[cfg(target_os = "linux")]
fn permit() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and no pointers. All that it changes is that tiles may be used
    // and that later signals need larger stacks; Linux refuses if an existing one is too small.
    #[allow(unsafe_code)]
    let status =
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
    status == 0
}

/// How other systems give permission is not known here.
#[cfg(not(target_os = "linux"))]
fn permit() -> bool {
    false
}

/// A [`TileOp`] as an [`IntOp`].
struct WithTiles<O, const K: usize>(Amx, O);

impl<const K: usize, O: TileOp<K>> IntOp for WithTiles<O, K> {
    type Out = O::Out;

    #[inline(always)]
    fn run<S: SimdInt>(self, s: S) -> O::Out {
        self.1.run(s, &mut Configured::new(self.0))
    }
}

/// What LDTILECFG loads: the shapes of the tiles.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

thread_local! {
    /// Whether this thread's tiles have shapes, on which their user relies.
    static CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

/// This thread's tiles, in the shapes for rows of `K` bytes: tiles 0 and 1 are rows, 2 and 3 are columns,
/// and from 4 on are sums. They stay with the thread.
struct Configured<const K: usize>(PhantomData<*const ()>);

impl<const K: usize> Configured<K> {
    #[inline(always)]
    fn new(_: Amx) -> Self {
        const { assert!(K <= 64 && K.is_multiple_of(4)) };
        assert!(!CONFIGURED.replace(true), "one computation with tiles at a time");
        let mut shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for tile in 0..8 {
            shapes.row_bytes[tile] = if tile < 2 { K as u16 } else { 64 };
            shapes.rows[tile] = if tile / 2 == 1 { (K / 4) as u8 } else { TILE as u8 };
        }
        // SAFETY: `Amx` exists only where tiles may be used, and the shapes are within the limits of
        // palette 1: 16 rows of 64 bytes.
        #[allow(unsafe_code)]
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(readonly, nostack, preserves_flags));
        }
        Self(PhantomData)
    }
}

impl<const K: usize> Drop for Configured<K> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `self` exists only where tiles may be used. Nobody else relies on their shapes.
        #[allow(unsafe_code)]
        unsafe {
            asm!("tilerelease", options(nomem, nostack, preserves_flags));
        }
        CONFIGURED.set(false);
    }
}

impl<const K: usize> Tiles<K> for Configured<K> {
    #[inline(always)]
    fn load_rows<const A: usize>(&mut self, rows: &[[u8; K]; TILE]) {
        const { assert!(A < 2) };
        // SAFETY: tile `A` has the shape of `rows`, since `self` exists.
        #[allow(unsafe_code)]
        unsafe {
            asm!("tileloadd tmm{}, [{} + {} * 1]", const A, in(reg) rows.as_ptr(), in(reg) K,
                options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn load_columns<const B: usize>(&mut self, lines: &[[u8; 64]], stride: usize) {
        const { assert!(B < 2) };
        assert!(stride.saturating_mul(K / 4 - 1) < lines.len(), "a tile of columns is whole");
        // SAFETY: tile `2 + B` has K / 4 rows of 64 bytes, since `self` exists. The last one begins
        // K / 4 - 1 strides after the first and is one of the lines.
        #[allow(unsafe_code)]
        unsafe {
            asm!("tileloadd tmm{}, [{} + {} * 1]", const 2 + B, in(reg) lines.as_ptr(),
                in(reg) stride * 64, options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn zero<const A: usize, const B: usize>(&mut self) {
        const { assert!(A < 2 && B < 2) };
        // SAFETY: the tile has a shape, since `self` exists.
        #[allow(unsafe_code)]
        unsafe {
            asm!("tilezero tmm{}", const 4 + 2 * A + B, options(nomem, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn dot<const A: usize, const B: usize>(&mut self) {
        const { assert!(A < 2 && B < 2) };
        // SAFETY: the shapes of the three tiles fit each other, since `self` exists.
        #[allow(unsafe_code)]
        unsafe {
            asm!("tdpbssd tmm{}, tmm{}, tmm{}", const 4 + 2 * A + B, const A, const 2 + B,
                options(nomem, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn store<const A: usize, const B: usize>(&mut self, to: &mut [[i32; TILE]; TILE]) {
        const { assert!(A < 2 && B < 2) };
        // SAFETY: the tile has the shape of `to`, since `self` exists.
        #[allow(unsafe_code)]
        unsafe {
            asm!("tilestored [{} + {} * 1], tmm{}", in(reg) to.as_mut_ptr(),
                in(reg) 64usize, const 4 + 2 * A + B,
                options(nostack, preserves_flags));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiles::Emulated;
    use super::*;

    const FEATURES: u32 = 1 << 24 | 1 << 25;
    /// x87, SSE, AVX, AVX-512 and tiles.
    const STATES: u64 = 0x6_00e7;

    #[test]
    fn usable_with_every_part_and_permission() {
        assert!(usable(FEATURES, STATES, || true));
        assert!(usable(u32::MAX, u64::MAX, || true));
        assert!(!usable(FEATURES, STATES, || false));
    }

    #[test]
    fn without_a_part_no_permission_is_asked_for() {
        let asked = || panic!("the system is not asked");
        for missing in [1 << 24, 1 << 25, FEATURES] {
            assert!(!usable(!missing, STATES, asked));
        }
        for missing in [1 << 17, 1 << 18, 3 << 17] {
            assert!(!usable(FEATURES, !missing, asked));
        }
    }

    #[test]
    fn found_again_if_found_once() {
        assert_eq!(Amx::detect(), Amx::detect());
        assert!(Amx::detect().is_none() || Avx512::detect().is_some());
    }

    /// Bytes to load, and what became of them.
    struct Exercise<'a, const K: usize> {
        rows: &'a [[[u8; K]; TILE]; 2],
        lines: &'a [[u8; 64]],
        stride: usize,
    }

    impl<const K: usize> TileOp<K> for Exercise<'_, K> {
        type Out = [[[i32; TILE]; TILE]; 4];

        #[inline(always)]
        fn run<S: SimdInt, T: Tiles<K>>(self, _: S, tiles: &mut T) -> Self::Out {
            let Self { rows, lines, stride } = self;
            let mut sums = [[[7; TILE]; TILE]; 4];
            tiles.load_rows::<0>(&rows[0]);
            tiles.load_rows::<1>(&rows[1]);
            tiles.load_columns::<0>(lines, stride);
            tiles.load_columns::<1>(&lines[1..], stride);
            tiles.zero::<0, 0>();
            tiles.zero::<0, 1>();
            tiles.zero::<1, 0>();
            tiles.zero::<1, 1>();
            for _ in 0..2 {
                tiles.dot::<0, 0>();
                tiles.dot::<0, 1>();
                tiles.dot::<1, 0>();
            }
            tiles.dot::<1, 1>();
            tiles.store::<0, 0>(&mut sums[0]);
            tiles.store::<0, 1>(&mut sums[1]);
            tiles.store::<1, 0>(&mut sums[2]);
            tiles.store::<1, 1>(&mut sums[3]);
            sums
        }
    }

    /// An [`Exercise`] on tiles in memory.
    struct InMemory<'a, const K: usize>(Exercise<'a, K>);

    impl<const K: usize> IntOp for InMemory<'_, K> {
        type Out = [[[i32; TILE]; TILE]; 4];

        #[inline(always)]
        fn run<S: SimdInt>(self, s: S) -> Self::Out {
            self.0.run(s, &mut Emulated::default())
        }
    }

    fn compare<const K: usize>(amx: Amx, bytes: &[u8]) {
        let mut rows = [[[0; K]; TILE]; 2];
        let (to, lines) = (rows.as_flattened_mut().as_flattened_mut(), bytes.as_chunks().0);
        to.copy_from_slice(&bytes[..2 * K * TILE]);
        for stride in [1, 2, 3] {
            // The second tile of columns begins a line later.
            let lines = &lines[..stride * (K / 4 - 1) + 2];
            let exercise = || Exercise { rows: &rows, lines, stride };
            let expected = amx.enter(InMemory(exercise()));
            assert_eq!(amx.enter_tiles(exercise()), expected, "{K} bytes, stride {stride}");
        }
    }

    #[test]
    fn the_instructions_compute_what_the_emulation_does() {
        let Some(amx) = Amx::detect() else {
            println!("this machine has no AMX");
            return;
        };
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let random: Vec<u8> = (0..64 * 64).map(|_| random()).collect();
        for bytes in [random, vec![0x80; 64 * 64], vec![0x7f; 64 * 64]] {
            compare::<64>(amx, &bytes);
            compare::<32>(amx, &bytes);
        }
    }
}
