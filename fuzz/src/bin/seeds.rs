//! Writes the fixtures of the tests as inputs of the fuzz targets: `seeds FOLDER` makes `FOLDER/loss`,
//! `FOLDER/projection` and `FOLDER/contrastive`.

use std::path::Path;

use burn_cross_entropy_fuzz::fixtures;

fn main() -> std::io::Result<()> {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: seeds FOLDER");
        std::process::exit(2);
    };
    let folder = Path::new(&folder);
    let losses = fixtures::losses();
    write(
        &folder.join("loss"),
        losses.iter().map(|case| case.encode()),
    )?;
    let projections = fixtures::projections();
    write(
        &folder.join("projection"),
        projections.iter().map(|case| case.encode()),
    )?;
    let contrasts = fixtures::contrasts();
    write(
        &folder.join("contrastive"),
        contrasts.iter().map(|case| case.encode()),
    )
}

fn write(folder: &Path, inputs: impl Iterator<Item = Vec<u8>>) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (number, input) in inputs.enumerate() {
        std::fs::write(folder.join(format!("fixture-{number:04}")), input)?;
    }
    Ok(())
}
