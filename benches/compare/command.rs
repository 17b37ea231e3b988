//! The command line: whether it asks for measurements, and how it is repeated.

use std::env;

/// The options of this run after `cargo bench --bench BENCH`, with what cargo needs for them.
pub fn command(bench: &str, features: &str) -> String {
    let options = env::args().skip(1).filter(|option| option != "--bench");
    let options: Vec<String> = options.map(quoted).collect();
    let options = options.join(" ");
    format!("cargo bench --bench {bench}{features} -- {options}")
        .trim_end()
        .to_string()
}

/// An option as the user types it.
fn quoted(option: String) -> String {
    match option.contains(char::is_whitespace) {
        true => format!("'{option}'"),
        false => option,
    }
}

/// Whether the run is to measure. `cargo test` starts every target that it builds, and gets one line.
pub fn is_to_measure(command: &str) -> bool {
    let measures = |argument: &String| {
        ["--bench", "--help", "-h"].contains(&argument.as_str()) || argument.starts_with("--device")
    };
    let measured = env::args().any(|argument| measures(&argument));
    if !measured {
        println!(
            "Nothing is measured without `cargo bench` or `--device`: {command} --help tells more"
        );
    }
    measured
}
