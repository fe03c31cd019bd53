//! Sizes as people read and write them.

/// Smallest number without a unit that can be meant as bytes.
const LEAST_BYTES: f64 = 1e6;

/// Parses a size: `18GB` (10⁹), `15GiB` (2³⁰), `500MB`, or bytes. A small number without a unit is
/// refused, because whoever writes 18 does not mean bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected =
        || "expected a size such as 18GB, 16.5GiB or 900MB, or a number of bytes".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| expected())?;
    if unit.trim().is_empty() && number < LEAST_BYTES {
        return Err(format!("{number} bytes? Give a unit, such as {number}GB or {number}MB"));
    }
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" | "k" => 1e3,
        "mb" | "m" => 1e6,
        "gb" | "g" => 1e9,
        "tb" | "t" => 1e12,
        "kib" => f64::from(1 << 10),
        "mib" => f64::from(1 << 20),
        "gib" => f64::from(1 << 30),
        _ => return Err(expected()),
    };
    let bytes = number * unit;
    // Below this bound an f64 is exact, and no model is larger.
    (1.0..9e15).contains(&bytes).then_some(bytes as u64).ok_or_else(expected)
}

/// A size in GB (10⁹ bytes), or in MB (10⁶ bytes) if it is small.
pub fn size(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes < 999.5e6 => format!("{:.3} MB", bytes / 1e6),
        bytes => format!("{:.3} GB", bytes / 1e9),
    }
}

/// The size in MB or GB, rounded up, as an option takes it.
pub fn size_up(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{}MB", bytes.div_ceil(1_000_000)),
        _ => format!("{:.2}GB", bytes.div_ceil(10_000_000) as f64 / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_or_binary() {
        let sizes = ["18GB", "18gb", "1.5GiB", "500 MB", "12345B"];
        let sizes = sizes.map(|text| parse_size(text).unwrap());
        assert_eq!(sizes, [18_000_000_000, 18_000_000_000, 1_610_612_736, 500_000_000, 12_345]);
        assert_eq!(parse_size("18000000000"), Ok(18_000_000_000));
        for text in ["", "GB", "18XB", "-1GB", "0", "1e99GB", "1.2.3GB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_small_number_needs_a_unit() {
        for text in ["18", "16.5", "900", "999999"] {
            let error = parse_size(text).unwrap_err();
            assert!(error.contains(&format!("such as {text}GB")), "{error}");
        }
    }

    #[test]
    fn small_sizes_are_in_mb_and_large_ones_in_gb() {
        assert_eq!([size(0), size(999_499_999)], ["0.000 MB", "999.500 MB"]);
        assert_eq!(size(17_990_000_000), "17.990 GB");
        let up = [0, 1, 38_000_001, 999_000_001, 1_000_000_001, 17_990_000_000].map(size_up);
        assert_eq!(up, ["0MB", "1MB", "39MB", "1000MB", "1.01GB", "17.99GB"]);
    }
}
