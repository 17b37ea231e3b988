//! Whole numbers of the command line. What clap itself says of `--steps -1` or `--seed x` does not tell the user
//! what is expected.

use std::ops::RangeInclusive;

/// The largest number for what is counted: far more than an example has use for, and far from an overflow.
pub const MILLION: usize = 1_000_000;

/// A parser of whole numbers in the range.
pub fn whole(
    range: RangeInclusive<usize>,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            format!("it must be a whole number from {least} to {most}")
        })
    }
}

/// A parser of seeds.
pub fn seed(text: &str) -> Result<u64, String> {
    let most = u64::MAX;
    text.parse()
        .map_err(|_| format!("it must be a whole number from 0 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_of_the_range_is_told_the_range() {
        let parse = whole(2..=5);
        assert_eq!((parse("2"), parse("5")), (Ok(2), Ok(5)));
        for text in ["1", "6", "-1", "2.5", "", "x", "99999999999999999999999"] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, "it must be a whole number from 2 to 5", "{text}");
        }
        assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
        assert!(seed("-1").unwrap_err().contains("from 0 to"));
    }
}
