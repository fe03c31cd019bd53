//! JSON objects whose keys must be unique. For a key that occurs twice serde takes the last value,
//! but other programs that read the file may take the first.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};
use std::hash::Hash;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::printable::Printable;

/// A map that can be filled.
pub(super) trait Map: Default {
    type Key: Display;
    type Value;

    fn contains(&self, key: &Self::Key) -> bool;
    fn add(&mut self, key: Self::Key, value: Self::Value);
}

impl<K: Display + Ord, V> Map for BTreeMap<K, V> {
    type Key = K;
    type Value = V;

    fn contains(&self, key: &K) -> bool {
        self.contains_key(key)
    }

    fn add(&mut self, key: K, value: V) {
        self.insert(key, value);
    }
}

impl<K: Display + Eq + Hash, V> Map for HashMap<K, V> {
    type Key = K;
    type Value = V;

    fn contains(&self, key: &K) -> bool {
        self.contains_key(key)
    }

    fn add(&mut self, key: K, value: V) {
        self.insert(key, value);
    }
}

/// Deserializes a map and refuses duplicate keys; for `#[serde(deserialize_with)]`.
pub(super) fn unique<'de, D, M>(deserializer: D) -> Result<M, D::Error>
where
    D: Deserializer<'de>,
    M: Map<Key: Deserialize<'de>, Value: Deserialize<'de>>,
{
    deserializer.deserialize_map(Unique(PhantomData))
}

struct Unique<M>(PhantomData<M>);

impl<'de, M> Visitor<'de> for Unique<M>
where
    M: Map<Key: Deserialize<'de>, Value: Deserialize<'de>>,
{
    type Value = M;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<M, A::Error> {
        let mut map = M::default();
        while let Some((key, value)) = access.next_entry()? {
            if map.contains(&key) {
                let key = key.to_string();
                return Err(Error::custom(format!("\"{}\" occurs twice", Printable::new(&key))));
            }
            map.add(key, value);
        }
        Ok(map)
    }
}
