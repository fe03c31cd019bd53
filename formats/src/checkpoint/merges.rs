//! The merges of `tokenizer.json`, packed: Gemma 2 has 580,000.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

/// The piece that each merge produces, in order.
#[derive(Default)]
pub(super) struct Merges {
    texts: String,
    /// Where each piece ends in `texts`, in bytes.
    ends: Vec<usize>,
}

impl Merges {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The pieces that they produce.
    pub fn pieces(&self) -> impl Iterator<Item = &str> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.texts[start..*end])
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut merges = Merges::default();
                while list.next_element_seed(Merge(&mut merges.texts))?.is_some() {
                    merges.ends.push(merges.texts.len());
                }
                Ok(merges)
            }
        }

        deserializer.deserialize_seq(List)
    }
}

/// `"a b"`, or `["a", "b"]` since tokenizers 0.20; appended as `ab`.
struct Merge<'t>(&'t mut String);

impl<'de> DeserializeSeed<'de> for Merge<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merge<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge, \"a b\" or [\"a\", \"b\"]")
    }

    fn visit_str<E: Error>(self, pair: &str) -> Result<(), E> {
        // Pieces spell spaces as `▁`, so the only space is the separator.
        self.0.extend(pair.split(' '));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<(), A::Error> {
        for i in 0..2 {
            let piece = pair.next_element_seed(HalfOfMerge(self.0))?;
            piece.ok_or_else(|| A::Error::invalid_length(i, &"two pieces"))?;
        }
        match pair.next_element_seed(HalfOfMerge(self.0))? {
            None => Ok(()),
            Some(()) => Err(A::Error::invalid_length(3, &"two pieces")),
        }
    }
}

/// One of the two pieces of a merge.
struct HalfOfMerge<'t>(&'t mut String);

impl<'de> DeserializeSeed<'de> for HalfOfMerge<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for HalfOfMerge<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a piece")
    }

    fn visit_str<E: Error>(self, piece: &str) -> Result<(), E> {
        self.0.push_str(piece);
        Ok(())
    }
}
