//! Fixtures: cases that the scripts of `tests/fixtures` wrote, as compressed JSON.

use std::io::Read;

use serde::de::DeserializeOwned;

/// Reads what `script` wrote.
pub fn read<T: DeserializeOwned>(compressed: &[u8], script: &str) -> T {
    let mut json = String::new();
    flate2::read::GzDecoder::new(compressed)
        .read_to_string(&mut json)
        .expect("the fixtures are gzip");
    serde_json::from_str(&json).unwrap_or_else(|error| {
        panic!("the fixtures are not of the shape that {script} writes: {error}")
    })
}
