//! For `SimdInt::shuffle`: how the scales of a block, one byte each in every quarter of a register,
//! become the words that sums of products are multiplied with.

/// No byte's place, which gives 0.
const ZERO: u8 = 255;

/// For the sums of each two of 64 codes, which are words: word `i` is the scale of the group of code
/// `2 * i`, from scale `first` on, as its lower byte, or as its upper one if `upper`.
pub const fn in_order(group: usize, first: usize, upper: bool) -> [u8; 64] {
    let (mut places, mut i) = ([ZERO; 64], 0);
    while i < 32 {
        places[2 * i + upper as usize] = (first + 2 * i / group) as u8;
        i += 1;
    }
    places
}

/// For the sums of each four of twice 64 codes, which are words: each quarter has those of a quarter of
/// the first 64 codes, and then those of the same quarter of the others.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused))]
pub const fn in_quarters(group: usize, first: usize, upper: bool) -> [u8; 64] {
    let (mut places, mut i) = ([ZERO; 64], 0);
    while i < 32 {
        let code = 64 * (i % 8 / 4) + 16 * (i / 8);
        places[2 * i + upper as usize] = (first + code / group) as u8;
        i += 1;
    }
    places
}
