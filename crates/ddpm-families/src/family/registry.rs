//! The families there are. A new one is its folder and one line here.

use std::sync::{PoisonError, RwLock};

use super::erased::{FamilyKind, Of};
use crate::diffusion::DiffusionFamily;
use crate::hvae::HvaeFamily;
use crate::masked::MaskedFamily;
use crate::text_encoder::TextEncoderFamily;
use crate::timegrad::TimeGradFamily;
use crate::vae::VaeFamily;

/// The families that come with the program; the first is that of an experiment that names none.
static FAMILIES: &[&dyn FamilyKind] = &[
    &Of::<DiffusionFamily>::NEW,
    &Of::<VaeFamily>::NEW,
    &Of::<HvaeFamily>::NEW,
    &Of::<TimeGradFamily>::NEW,
    &Of::<MaskedFamily>::NEW,
    &Of::<TextEncoderFamily>::NEW,
];

/// Those that a program of its own has added.
static ADDED: RwLock<Vec<&'static dyn FamilyKind>> = RwLock::new(Vec::new());

/// Adds a family to those there are, for a program that brings its own.
pub fn register(family: &'static dyn FamilyKind) {
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    if added.iter().all(|known| known.name() != family.name()) {
        added.push(family);
    }
}

/// All families.
pub fn families() -> Vec<&'static dyn FamilyKind> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    FAMILIES.iter().chain(added.iter()).copied().collect()
}

/// The family of an experiment that names none.
pub fn default_family() -> &'static dyn FamilyKind {
    FAMILIES[0]
}

/// The family of this name.
pub fn family(name: &str) -> Result<&'static dyn FamilyKind, String> {
    let families = families();
    families.iter().find(|family| family.name() == name).copied().ok_or_else(|| {
        let known: Vec<String> = families.iter().map(|family| format!("`{}`", family.name())).collect();
        format!("unknown variant `{name}`, expected one of {}", known.join(", "))
    })
}
