//! Drafts from the text itself: what followed the last few tokens when they occurred before.
//!
//! This is prompt lookup decoding (<https://github.com/apoorvumang/prompt-lookup-decoding>). It
//! takes no second model, and helps where a text repeats: code that is edited, summaries, answers
//! with quotations, JSON.

use super::{DraftRequest, Drafter, Offer, KINDS};
use crate::model::ModelError;

/// The n-gram lookup.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lookup;

/// The shortest n-gram that is looked up. There is one length for each kind of offer: the longer
/// the match, the likelier it is that the text repeats.
const SHORTEST: usize = 2;

impl Drafter for Lookup {
    fn offer(&mut self, request: &DraftRequest<'_>) -> Offer {
        match find(request.ids) {
            Some((n, _)) => Offer { most: request.most, kind: n - SHORTEST, behind: 0 },
            None => Offer { most: 0, kind: 0, behind: 0 },
        }
    }

    fn draft(&mut self, requests: &[DraftRequest<'_>]) -> Result<Vec<Vec<u32>>, ModelError> {
        Ok(requests.iter().map(|DraftRequest { ids, most, .. }| lookup(ids, *most)).collect())
    }
}

/// The `most` tokens that followed the last ones of `ids` before. A text that repeats itself to its
/// end goes on doing so.
fn lookup(ids: &[u32], most: usize) -> Vec<u32> {
    let Some((_, at)) = find(ids) else { return Vec::new() };
    let mut draft: Vec<u32> = Vec::with_capacity(most);
    for i in at..at + most {
        draft.push(if i < ids.len() { ids[i] } else { draft[i - ids.len()] });
    }
    draft
}

/// The longest n-gram at the end of `ids` that occurred before: its length, and where its latest
/// occurrence before the end was followed by another token.
fn find(ids: &[u32]) -> Option<(usize, usize)> {
    let before = &ids[..ids.len().saturating_sub(1)];
    (SHORTEST..SHORTEST + KINDS).rev().filter(|n| *n <= before.len()).find_map(|n| {
        let last = &ids[ids.len() - n..];
        before.windows(n).rposition(|ngram| ngram == last).map(|at| (n, at + n))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(ids: &[u32]) -> Offer {
        Lookup.offer(&DraftRequest { sequence: 0, ids, most: 3 })
    }

    #[test]
    fn the_longest_match_comes_first_and_of_equal_ones_the_latest() {
        // `7 8` occurs twice before the end, `6 7 8` once.
        let ids = [6, 7, 8, 1, 2, 7, 8, 3, 4, 6, 7, 8];
        assert_eq!(find(&ids), Some((3, 3)));
        assert_eq!(lookup(&ids, 3), [1, 2, 7]);
        assert_eq!(find(&ids[..7]), Some((2, 3)));
        assert_eq!(find(&[7, 8, 1, 7, 8, 2, 7, 8]), Some((2, 5)));
        let kinds = [&ids[..7], &ids].map(|ids| offer(ids).kind);
        assert_eq!(kinds, [0, 1]);
        assert_eq!(offer(&[1, 2, 3, 4, 9, 1, 2, 3, 4]), Offer { most: 3, kind: 2, behind: 0 });
    }

    #[test]
    fn without_a_match_there_is_no_draft() {
        for ids in [&[][..], &[1], &[1, 1], &[1, 2, 3, 1, 3]] {
            assert_eq!(offer(ids).most, 0, "{ids:?}");
            assert!(lookup(ids, 8).is_empty());
        }
    }

    #[test]
    fn a_repetition_goes_on() {
        assert_eq!(lookup(&[5, 1, 1, 1], 4), [1; 4]);
        assert_eq!(lookup(&[9, 1, 2, 3, 1, 2, 3], 7), [1, 2, 3, 1, 2, 3, 1]);
    }
}
