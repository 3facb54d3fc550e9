//! A folder that samples are to go to, and what an earlier job left in it.

use std::io;
use std::path::Path;

use anyhow::{Context, bail};
use ddpm_files::npy::RowReader;

use crate::commands::sample_prompts::CAPTIONS;
use crate::commands::shards::Parts;

/// Written first of all, for every kind of data.
const ARRAY: &str = "samples.npy";
/// What else a job may write, besides images with numbers.
const OTHERS: [&str; 11] = [
    CAPTIONS,
    "grid.png",
    "denoising.gif",
    "denoising.png",
    "samples.csv",
    "scatter.png",
    "comparison.png",
    "noise.npy",
    "errors.csv",
    "samples.png",
    "samples.svg",
];

/// Refuses a folder that holds samples of another job, unless they are to be replaced.
///
/// The parts of a sharded job record which job they belong to.
pub fn check(folder: &Path, overwrite: bool) -> anyhow::Result<()> {
    let there = samples_in(folder);
    if there.is_empty() || Parts::are_in(folder) {
        return Ok(());
    }
    let numbered = there.iter().filter(|name| number_of(name).is_some()).count();
    let mut names: Vec<String> = there.iter().filter(|name| number_of(name).is_none()).cloned().collect();
    names.extend((numbered > 0).then(|| format!("{numbered} images with a number")));
    let names = names.join(", ");
    if !overwrite {
        bail!(
            "{}: holds samples already ({names}): choose another folder, or replace them with --overwrite",
            folder.display()
        );
    }
    let pictures = pictures_written(folder);
    match there.iter().find(|name| !is_ours(name, pictures)) {
        Some(name) => bail!("{}: {name} is not of the samples there: choose another folder", folder.display()),
        None => Ok(()),
    }
}

/// Removes what `sample` wrote into a folder, and nothing else.
pub fn clear(folder: &Path) -> anyhow::Result<()> {
    Parts::remove(folder)?;
    let pictures = pictures_written(folder);
    // The array goes last: it says how many pictures are ours.
    let names = samples_in(folder).into_iter().filter(|name| is_ours(name, pictures) && name != ARRAY);
    for name in names.chain([ARRAY.to_string()]) {
        let file = folder.join(name);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", file.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The files in a folder that have names of samples.
fn samples_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| name == ARRAY || OTHERS.contains(&name.as_str()) || number_of(name).is_some()).collect();
    names.sort();
    names
}

/// How many pictures with numbers belong to the array of this folder; nothing if there is no array.
fn pictures_written(folder: &Path) -> Option<usize> {
    let array = RowReader::open(&folder.join(ARRAY)).ok()?;
    match array.header().shape[..] {
        [count, _, _, _] => Some(count),
        _ => Some(0),
    }
}

fn is_ours(name: &str, pictures: Option<usize>) -> bool {
    pictures.is_some_and(|pictures| number_of(name).is_none_or(|number| number < pictures))
}

/// The number of the sample that a picture of this name shows.
fn number_of(name: &str) -> Option<usize> {
    let number: usize = name.strip_suffix(".png")?.parse().ok()?;
    (name == format!("{number:04}.png")).then_some(number)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_files::npy;

    #[test]
    fn only_samples_are_in_the_way_and_only_ours_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let put = |name: &str| std::fs::write(folder.join(name), "").unwrap();
        let names = || {
            let mut names: Vec<String> =
                std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        check(&folder.join("not there"), false).unwrap();
        ["notes.txt", "1.png", "cat.png"].into_iter().for_each(put);
        check(folder, false).unwrap();

        std::fs::write(folder.join(ARRAY), npy::encode(&[2, 1, 1, 1], &[0.0; 2])).unwrap();
        ["0000.png", "0001.png", "grid.png"].into_iter().for_each(put);
        let said = check(folder, false).unwrap_err().to_string();
        assert!(said.contains("grid.png, samples.npy, 2 images") && said.contains("--overwrite"), "{said}");
        check(folder, true).unwrap();

        // Two samples have no third picture.
        put("0002.png");
        let said = check(folder, true).unwrap_err().to_string();
        assert!(said.contains("0002.png"), "{said}");
        clear(folder).unwrap();
        assert_eq!(names(), ["0002.png", "1.png", "cat.png", "notes.txt"]);
        assert!(check(folder, true).is_err());
    }
}
