//! The command line that repeats a run.

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
