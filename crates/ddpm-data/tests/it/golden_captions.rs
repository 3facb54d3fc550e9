//! Captioned shapes against `fixtures/captions`: images from their geometry, word lists, and what is held out.

use std::collections::BTreeSet;

use ddpm_data::shapes::{
    COLORS, Combination, Geometry, PLACES, SHAPES, SIDE, SIZE_WORDS, SIZES, TEMPLATES, VERTICAL_WORDS, render,
};
use ddpm_testing::support::{Safetensors, cases, fixture, read_json, text};
use serde_json::Value;

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect()
}

fn combination(value: &Value) -> Combination {
    let position = |list: &[&str], key: &str| list.iter().position(|word| *word == text(value, key)).unwrap();
    Combination {
        shape: position(&SHAPES, "shape"),
        color: position(&COLORS, "colour"),
        size: position(&SIZES, "size"),
        place: position(&PLACES, "place"),
    }
}

#[test]
fn words_and_combinations_are_those_of_the_specification() {
    let given = read_json(fixture("captions").join("cases.json"));
    assert_eq!(texts(&given["shapes"]), SHAPES);
    assert_eq!(texts(&given["colours"]), COLORS);
    assert_eq!(texts(&given["sizes"]), SIZES);
    assert_eq!(texts(&given["places"]), PLACES);
    assert_eq!(texts(&given["templates"]), TEMPLATES.map(|template| template.replace("color", "colour")));
    for (size, words) in SIZES.iter().zip(SIZE_WORDS) {
        assert_eq!(texts(&given["words"][size]), words);
    }
    for (place, name) in PLACES.iter().enumerate() {
        let words = VERTICAL_WORDS[place / 2].map(|word| format!("{word} {}", ["left", "right"][place % 2]));
        assert_eq!(texts(&given["words"][name]), words);
    }
    let held_out: BTreeSet<_> = cases(&given, "held_out").iter().map(combination).collect();
    assert_eq!(held_out, Combination::held_out().into_iter().collect());
    for example in cases(&given, "examples") {
        let combination = combination(example);
        assert_eq!(combination.caption(), text(example, "canonical"));
        assert_eq!(combination.is_held_out(), example["held_out"].as_bool().unwrap());
        let mut rng = ddpm_data::random::rng(0, ddpm_data::random::Stream::Shapes, 0);
        let drawn = (0..2000).map(|_| combination.draw_caption(&mut rng));
        let drawn: BTreeSet<String> = drawn.collect();
        assert_eq!(drawn.len(), TEMPLATES.len() * 3 * 2);
        assert!(drawn.contains(text(example, "caption")), "{example}");
    }
}

#[test]
fn the_geometry_gives_the_image() {
    let folder = fixture("captions");
    let (given, file) = (read_json(folder.join("cases.json")), Safetensors::open(folder.join("examples.safetensors")));
    let columns = texts(&given["param_columns"]);
    assert_eq!(columns, ["cx", "cy", "radius", "angle", "red", "green", "blue", "background"]);
    let (images, params, labels) = (file.bytes("images"), file.f64("params"), file.i64("labels"));
    let pixels = SIDE * SIDE;
    assert_eq!(images.len(), labels.len() / 4 * 3 * pixels);
    for (k, (wanted, params)) in images.chunks_exact(3 * pixels).zip(params.chunks_exact(8)).enumerate() {
        let geometry = Geometry {
            center: [params[0], params[1]],
            radius: params[2],
            angle: params[3],
            color: [params[4], params[5], params[6]],
            background: params[7],
        };
        let found = render(labels[4 * k] as usize, &geometry);
        // Theirs has the channels last.
        let off =
            |pixel: usize| (0..3).map(|c| found[c * pixels + pixel].abs_diff(wanted[3 * pixel + c])).max().unwrap();
        let off: Vec<u8> = (0..pixels).map(off).collect();
        // A point on an edge may be inside or outside by rounding.
        let flipped = off.iter().filter(|&&off| off > 1).count();
        assert!(flipped <= 1 && off.iter().all(|&off| off <= 16), "image {k}: {flipped} pixels off");
    }
}
