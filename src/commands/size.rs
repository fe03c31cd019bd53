//! Sizes as people read and write them.

/// Parses a size: `18GB` (10⁹), `15GiB` (2³⁰), `500MB`, or bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected =
        || "expected a size such as 18GB, 16.5GiB or 900MB, or a number of bytes".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| expected())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_or_binary() {
        let sizes = ["18GB", "18gb", "1.5GiB", "500 MB", "12345"];
        let sizes = sizes.map(|text| parse_size(text).unwrap());
        assert_eq!(sizes, [18_000_000_000, 18_000_000_000, 1_610_612_736, 500_000_000, 12_345]);
        for text in ["", "GB", "18XB", "-1GB", "0", "1e99GB", "1.2.3GB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn small_sizes_are_in_mb_and_large_ones_in_gb() {
        assert_eq!([size(0), size(999_499_999)], ["0.000 MB", "999.500 MB"]);
        assert_eq!(size(17_990_000_000), "17.990 GB");
    }
}
