//! Rewrites the keywords of each type, as far as they are supported.

use serde_json::{json, Map, Value};

use super::{
    shortened, Rewriter, Types, MAX_COUNTED_PROPERTIES, MAX_NUMBER, MAX_PATTERNS, MAX_PROPERTIES,
};
use crate::sampling::ConstraintError;

/// Formats that strings are held to. Others are annotations, as of JSON Schema's draft 2019-09.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

type Keywords = Map<String, Value>;
type Checked = Result<(), ConstraintError>;

impl<'s> Rewriter<'s> {
    /// Writes bounds even if the schema has none, because most readers do not accept numbers with a
    /// large exponent or some hundred digits.
    pub(super) fn number(&mut self, map: &'s Keywords, rewritten: &mut Keywords) -> Checked {
        for (bound, exclusive, sign) in
            [("minimum", "exclusiveMinimum", -1.0), ("maximum", "exclusiveMaximum", 1.0)]
        {
            let limit = sign * MAX_NUMBER;
            let is_within = |x: f64| sign * (limit - x) >= 0.0;
            let mut inclusive = self.float(map, bound)?;
            let mut strict = match map.get(exclusive) {
                // In draft 4 this keyword is a boolean that makes the bound exclusive.
                Some(Value::Bool(false)) => None,
                Some(Value::Bool(true)) => inclusive.take(),
                _ => self.float(map, exclusive)?,
            };
            inclusive = inclusive.filter(|x| is_within(*x));
            strict = strict.filter(|x| is_within(*x));
            rewritten.insert(bound.into(), json!(inclusive.unwrap_or(limit)));
            if let Some(strict) = strict {
                rewritten.insert(exclusive.into(), json!(strict));
            }
        }
        if let Some(factor) = self.float(map, "multipleOf")? {
            rewritten.insert("multipleOf".into(), json!(factor));
        }
        Ok(())
    }

    pub(super) fn string(&mut self, map: &'s Keywords, rewritten: &mut Keywords) -> Checked {
        self.copy_counts(map, &["minLength", "maxLength"], rewritten)?;
        for keyword in ["pattern", "format"] {
            let Some(value) = map.get(keyword) else { continue };
            let Some(text) = value.as_str() else {
                return Err(self.error(&format!("`{keyword}` is not a string")));
            };
            if keyword == "format" && !FORMATS.contains(&text) {
                continue;
            }
            self.pattern(text)?;
            rewritten.insert(keyword.into(), json!(text));
        }
        Ok(())
    }

    /// Writes the keywords of arrays. Before draft 2020-12 `items` could be a list, which is now
    /// called `prefixItems`.
    pub(super) fn items(&mut self, map: &'s Keywords, rewritten: &mut Keywords) -> Checked {
        self.copy_counts(map, &["minItems", "maxItems"], rewritten)?;
        let (first, rest) = match (map.get("prefixItems"), map.get("items")) {
            (None, Some(first @ Value::Array(_))) => (Some(first), "additionalItems"),
            (first, _) => (first, "items"),
        };
        if let Some(first) = first {
            let mut prefix = Vec::new();
            for (i, item) in self.array(first)?.iter().enumerate() {
                let rewrite = |rewriter: &mut Self| rewriter.schema(item, Types::ALL);
                prefix.push(self.descend(&i.to_string(), rewrite)?);
            }
            rewritten.insert("prefixItems".into(), prefix.into());
        }
        let items = match map.get(rest) {
            None => self.definition(None, Types::ALL),
            Some(items) => self.descend(rest, |rewriter| rewriter.schema(items, Types::ALL))?,
        };
        rewritten.insert("items".into(), items);
        Ok(())
    }

    pub(super) fn object(&mut self, map: &'s Keywords, rewritten: &mut Keywords) -> Checked {
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
                let schema = self.descend(keyword, |rewriter| {
                    rewriter.descend(name, |rewriter| rewriter.schema(schema, Types::ALL))
                })?;
                schemas.insert(name.clone(), schema);
            }
            if !schemas.is_empty() {
                rewritten.insert(keyword.into(), schemas.into());
            }
        }
        let others = match map.get("additionalProperties") {
            None => self.definition(None, Types::ALL),
            Some(others) => self
                .descend("additionalProperties", |rewriter| rewriter.schema(others, Types::ALL))?,
        };
        rewritten.insert("additionalProperties".into(), others);
        let required = self.required(map, rewritten)?;
        self.property_counts(map, properties.len(), required, rewritten)
    }

    /// Writes `required`, and returns how many properties are required.
    fn required(
        &mut self,
        map: &'s Keywords,
        rewritten: &mut Keywords,
    ) -> Result<usize, ConstraintError> {
        let Some(value) = map.get("required") else { return Ok(0) };
        let mut names: Vec<&str> = Vec::new();
        for name in self.array(value)? {
            let Some(name) = name.as_str() else {
                return Err(self.error("`required` contains something that is not a string"));
            };
            self.count(name.len())?;
            names.push(name);
        }
        rewritten.insert("required".into(), json!(names));
        names.sort_unstable();
        names.dedup();
        Ok(names.len())
    }

    /// Writes the bounds of the number of properties.
    fn property_counts(
        &mut self,
        map: &'s Keywords,
        properties: usize,
        required: usize,
        rewritten: &mut Keywords,
    ) -> Checked {
        let bounds = ["minProperties", "maxProperties"];
        if bounds.iter().all(|keyword| !map.contains_key(*keyword)) {
            return Ok(());
        }
        if properties > MAX_COUNTED_PROPERTIES {
            let max = MAX_COUNTED_PROPERTIES;
            let message = format!(
                "`minProperties` and `maxProperties` are supported only with at most {max} properties"
            );
            return Err(self.error(&message));
        }
        self.copy_counts(map, &bounds, rewritten)?;
        // An unlisted name could occur twice in an answer, and would then count only once.
        let least = rewritten.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
        if least > required as u64 + 1 {
            let message = "`minProperties` may exceed the number of `required` names by at most 1";
            return Err(self.error(message));
        }
        Ok(())
    }

    fn copy_counts(
        &self,
        map: &'s Keywords,
        keywords: &[&str],
        rewritten: &mut Keywords,
    ) -> Checked {
        for keyword in keywords {
            let Some(value) = map.get(*keyword) else { continue };
            let Some(count) = value.as_u64().and_then(|count| u32::try_from(count).ok()) else {
                return Err(self.error(&format!("`{keyword}` is not a count")));
            };
            rewritten.insert((*keyword).into(), json!(count));
        }
        Ok(())
    }

    fn pattern(&mut self, text: &str) -> Checked {
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
                Err(self.error(&format!("`{keyword}` is {value}, not a number")))
            }
        }
    }

    fn map(&self, map: &'s Keywords, keyword: &str) -> Result<&'s Keywords, ConstraintError> {
        match map.get(keyword) {
            None => Ok(self.empty),
            Some(Value::Object(map)) => Ok(map),
            Some(_) => Err(self.error(&format!("`{keyword}` is not an object"))),
        }
    }
}
