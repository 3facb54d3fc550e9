//! Which of the files are pictures, found out before the first is asked for.
//!
//! Every picture is decoded once: nothing less finds all that break off. What was found good is
//! [remembered](crate::known_good).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::place::Place;
use crate::config::ImageLabels;
use crate::error::{BadFile, Ignored};
use crate::known_good::{KnownGood, WORTH_KEEPING, note, stamp};
use crate::open::CheckProgress;

/// What is no item, by its number in the place.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// Files that should be pictures and will not do, in their order.
    pub(super) bad: Vec<(u32, BadFile)>,
    /// Files that are something else, in their order.
    pub(super) other: Vec<u32>,
}

enum Found {
    /// With its stamp.
    Good(u64),
    Bad(String),
    Other,
}

impl Checked {
    /// Looks at all files; what is known of them from before lies in `cache`.
    pub(super) fn all(place: &Place, labels: ImageLabels, cache: Option<&Path>, progress: CheckProgress<'_>) -> Self {
        let count = place.files().len();
        let note = cache.filter(|_| count >= WORTH_KEEPING).map(|cache| note(cache, &place.root()));
        let known = note.as_deref().map(KnownGood::read).unwrap_or_default();
        let (checked, done) = (Mutex::new(Self::default()), AtomicUsize::new(0));
        let stamps: Vec<u64> = (0..count as u32)
            .into_par_iter()
            .filter_map(|file| {
                let found = look(place, file as usize, labels, &known);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, count);
                let mut checked = match found {
                    Found::Good(stamp) => return Some(stamp),
                    _ => checked.lock().unwrap_or_else(PoisonError::into_inner),
                };
                match found {
                    Found::Bad(reason) => checked.bad.push((file, BadFile { path: place.path(file as usize), reason })),
                    _ => checked.other.push(file),
                }
                None
            })
            .collect();
        if let Some(note) = note {
            known.replace(stamps, &note);
        }
        let mut checked = checked.into_inner().unwrap_or_else(PoisonError::into_inner);
        checked.bad.sort_by_key(|(file, _)| *file);
        checked.other.sort_unstable();
        checked
    }

    /// The files that are items.
    pub(super) fn good(&self, place: &Place) -> Vec<u32> {
        let is_bad = |file: &u32| self.bad.binary_search_by_key(file, |(file, _)| *file).is_ok();
        (0..place.files().len() as u32).filter(|file| !is_bad(file) && !self.is_other(*file)).collect()
    }

    pub(super) fn is_other(&self, file: u32) -> bool {
        self.other.binary_search(&file).is_ok()
    }

    /// What is said about the files that are something else, and are not used besides.
    pub(super) fn ignored(&self, place: &Place, used: &[usize]) -> Ignored {
        let used: BTreeSet<usize> = used.iter().copied().collect();
        let others = || self.other.iter().map(|&file| file as usize).filter(|file| !used.contains(file));
        let first = others().take(Ignored::NAMED).map(|file| place.files().path(file)).collect();
        Ignored { count: others().count(), first }
    }
}

fn look(place: &Place, file: usize, labels: ImageLabels, known: &KnownGood) -> Found {
    let stamp = place.metadata(file).map(|metadata| stamp(place.files().key(file), &metadata));
    let is_known = stamp.as_ref().is_ok_and(|stamp| known.has(*stamp));
    if !is_known && !place.is_meant_as_picture(file) {
        return Found::Other;
    }
    if labels == ImageLabels::Folders && place.top_folder(file).is_none() {
        return Found::Bad("lies in no class folder (labels = \"folders\")".into());
    }
    match stamp {
        Err(error) => Found::Bad(error.to_string()),
        Ok(stamp) if is_known => Found::Good(stamp),
        Ok(stamp) => place.decode(file).map_or_else(Found::Bad, |_| Found::Good(stamp)),
    }
}
