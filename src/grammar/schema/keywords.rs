//! The keywords of each type, as far as they are understood.

use serde_json::{json, Map, Value};

use super::{
    shortened, Types, Writer, MAX_COUNTED_PROPERTIES, MAX_NUMBER, MAX_PATTERNS, MAX_PROPERTIES,
};
use crate::sampling::ConstraintError;

type Keywords = Map<String, Value>;
type Done = Result<(), ConstraintError>;

impl<'s> Writer<'s> {
    /// Bounds, also where the schema has none: an exponent or some hundred digits would be no number
    /// to most readers.
    pub(super) fn number(&mut self, map: &'s Keywords, written: &mut Keywords) -> Done {
        for (bound, exclusive, sign) in
            [("minimum", "exclusiveMinimum", -1.0), ("maximum", "exclusiveMaximum", 1.0)]
        {
            let outermost = sign * MAX_NUMBER;
            let within = |x: f64| sign * (outermost - x) >= 0.0;
            let mut inclusive = self.float(map, bound)?;
            let mut strict = match map.get(exclusive) {
                // As draft 4 has it.
                Some(Value::Bool(false)) => None,
                Some(Value::Bool(true)) => inclusive.take(),
                _ => self.float(map, exclusive)?,
            };
            inclusive = inclusive.filter(|x| within(*x));
            strict = strict.filter(|x| within(*x));
            written.insert(bound.into(), json!(inclusive.unwrap_or(outermost)));
            if let Some(strict) = strict {
                written.insert(exclusive.into(), json!(strict));
            }
        }
        if let Some(factor) = self.float(map, "multipleOf")? {
            written.insert("multipleOf".into(), json!(factor));
        }
        Ok(())
    }

    pub(super) fn string(&mut self, map: &'s Keywords, written: &mut Keywords) -> Done {
        self.copy_counts(map, &["minLength", "maxLength"], written)?;
        for keyword in ["pattern", "format"] {
            let Some(value) = map.get(keyword) else { continue };
            let Some(text) = value.as_str() else {
                return Err(self.error(&format!("`{keyword}` is no text")));
            };
            self.pattern(text)?;
            written.insert(keyword.into(), json!(text));
        }
        Ok(())
    }

    /// Of an array. Before draft 2020-12 `items` could be what is `prefixItems` since.
    pub(super) fn items(&mut self, map: &'s Keywords, written: &mut Keywords) -> Done {
        self.copy_counts(map, &["minItems", "maxItems"], written)?;
        let (first, rest) = match (map.get("prefixItems"), map.get("items")) {
            (None, Some(first @ Value::Array(_))) => (Some(first), "additionalItems"),
            (first, _) => (first, "items"),
        };
        if let Some(first) = first {
            let mut prefix = Vec::new();
            for (i, item) in self.array(first)?.iter().enumerate() {
                let item = self.within(&i.to_string(), |writer| writer.schema(item, Types::ALL))?;
                prefix.push(item);
            }
            written.insert("prefixItems".into(), prefix.into());
        }
        let items = match map.get(rest) {
            None => self.definition(None, Types::ALL),
            Some(items) => self.within(rest, |writer| writer.schema(items, Types::ALL))?,
        };
        written.insert("items".into(), items);
        Ok(())
    }

    pub(super) fn object(&mut self, map: &'s Keywords, written: &mut Keywords) -> Done {
        let properties = self.map(map, "properties")?;
        let patterns = self.map(map, "patternProperties")?;
        if properties.len() > MAX_PROPERTIES {
            return Err(self.error(&format!("more than {MAX_PROPERTIES} properties")));
        }
        if !properties.is_empty() && !patterns.is_empty() {
            let message = "`patternProperties` beside `properties` is not supported";
            return Err(self.error(message));
        }
        patterns.keys().try_for_each(|pattern| self.pattern(pattern))?;
        for (keyword, map) in [("properties", properties), ("patternProperties", patterns)] {
            let mut schemas = Map::new();
            for (name, schema) in map {
                self.count(name.len())?;
                let schema = self.within(keyword, |writer| {
                    writer.within(name, |writer| writer.schema(schema, Types::ALL))
                })?;
                schemas.insert(name.clone(), schema);
            }
            if !schemas.is_empty() {
                written.insert(keyword.into(), schemas.into());
            }
        }
        let others = match map.get("additionalProperties") {
            None => self.definition(None, Types::ALL),
            Some(others) => {
                self.within("additionalProperties", |writer| writer.schema(others, Types::ALL))?
            }
        };
        written.insert("additionalProperties".into(), others);
        let required = self.required(map, written)?;
        self.counted(map, properties.len(), required, written)
    }

    /// Gives how many properties are required.
    fn required(
        &mut self,
        map: &'s Keywords,
        written: &mut Keywords,
    ) -> Result<usize, ConstraintError> {
        let Some(value) = map.get("required") else { return Ok(0) };
        let mut names: Vec<&str> = Vec::new();
        for name in self.array(value)? {
            let Some(name) = name.as_str() else {
                return Err(self.error("`required` holds what is no text"));
            };
            self.count(name.len())?;
            names.push(name);
        }
        written.insert("required".into(), json!(names));
        names.sort_unstable();
        names.dedup();
        Ok(names.len())
    }

    /// How many properties there may be.
    fn counted(
        &mut self,
        map: &'s Keywords,
        properties: usize,
        required: usize,
        written: &mut Keywords,
    ) -> Done {
        let bounds = ["minProperties", "maxProperties"];
        if bounds.iter().all(|keyword| !map.contains_key(*keyword)) {
            return Ok(());
        }
        if properties > MAX_COUNTED_PROPERTIES {
            let most = MAX_COUNTED_PROPERTIES;
            let message = format!("properties are counted only where there are at most {most}");
            return Err(self.error(&message));
        }
        self.copy_counts(map, &bounds, written)?;
        // A name may come twice among those that are not listed, and counts once then.
        let least = written.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
        if least > required as u64 + 1 {
            return Err(self.error("`minProperties` needs more of `required`"));
        }
        Ok(())
    }

    fn copy_counts(&self, map: &'s Keywords, keywords: &[&str], written: &mut Keywords) -> Done {
        for keyword in keywords {
            let Some(value) = map.get(*keyword) else { continue };
            let Some(count) = value.as_u64().and_then(|count| u32::try_from(count).ok()) else {
                return Err(self.error(&format!("`{keyword}` is no count")));
            };
            written.insert((*keyword).into(), json!(count));
        }
        Ok(())
    }

    fn pattern(&mut self, text: &str) -> Done {
        self.count(text.len())?;
        self.patterns += 1;
        match self.patterns > MAX_PATTERNS {
            true => Err(self.error(&format!("more than {MAX_PATTERNS} patterns and formats"))),
            false => Ok(()),
        }
    }

    fn float(&self, map: &'s Keywords, keyword: &str) -> Result<Option<f64>, ConstraintError> {
        let Some(value) = map.get(keyword) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        match number {
            Some(number) => Ok(Some(number)),
            None => {
                let value = shortened(&value.to_string());
                Err(self.error(&format!("`{keyword}` is {value} and no number")))
            }
        }
    }

    fn map(&self, map: &'s Keywords, keyword: &str) -> Result<&'s Keywords, ConstraintError> {
        match map.get(keyword) {
            None => Ok(self.empty),
            Some(Value::Object(map)) => Ok(map),
            Some(_) => Err(self.error(&format!("`{keyword}` is no object"))),
        }
    }
}
