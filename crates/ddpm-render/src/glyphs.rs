//! The shapes of letters, digits and signs.

/// A piece of a glyph. The em is one capital high, y points up from the baseline.
pub(super) enum Stroke {
    /// From a point to a point.
    Line([f32; 4]),
    /// Part of an ellipse: center, radii, from and to in degrees, anticlockwise.
    Arc([f32; 4], [f32; 2]),
}

use Stroke::{Arc, Line};

type Glyph = (f32, Vec<Stroke>);

const ROUND: [f32; 2] = [0.0, 360.0];
/// Between two glyphs.
pub(super) const TRACKING: f32 = 0.2;
/// Height of an x.
const X_HEIGHT: f32 = 0.68;

/// Whether there is a shape for the character, or it needs none.
pub(super) fn has_glyph(character: char) -> bool {
    is_blank(character) || known(character).is_some()
}

/// Width and strokes; a box where the shape is not known.
pub(super) fn glyph(character: char) -> Glyph {
    if is_combining(character) {
        return (-TRACKING, Vec::new());
    }
    if is_blank(character) {
        return (0.25, Vec::new());
    }
    known(character).unwrap_or_else(|| (1.2, path(&[[0.1, 0.0], [0.1, 1.0], [1.1, 1.0], [1.1, 0.0], [0.1, 0.0]])))
}

fn is_blank(character: char) -> bool {
    character.is_whitespace() || character.is_control() || is_combining(character)
}

/// Marks over the letter before, which is drawn without them, and characters without a width.
fn is_combining(character: char) -> bool {
    matches!(character, '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

fn known(character: char) -> Option<Glyph> {
    lower(character)
        .or_else(|| capital(character))
        .or_else(|| digit(character))
        .or_else(|| sign(character))
        .or_else(|| greek(character))
        .or_else(|| small_digit(character))
        .or_else(|| accented(character))
}

/// Lines from point to point.
fn path(points: &[[f32; 2]]) -> Vec<Stroke> {
    points.windows(2).map(|pair| Line([pair[0][0], pair[0][1], pair[1][0], pair[1][1]])).collect()
}

fn dot(x: f32, y: f32) -> Stroke {
    Line([x, y, x, y])
}

fn digit(character: char) -> Option<Glyph> {
    Some(match character {
        '0' => (0.56, vec![Arc([0.28, 0.5, 0.27, 0.5], ROUND)]),
        '1' => (0.36, vec![Line([0.06, 0.8, 0.3, 1.0]), Line([0.3, 1.0, 0.3, 0.0])]),
        '2' => (
            0.56,
            vec![
                Arc([0.28, 0.72, 0.25, 0.28], [-35.0, 165.0]),
                Line([0.485, 0.56, 0.03, 0.0]),
                Line([0.03, 0.0, 0.55, 0.0]),
            ],
        ),
        '3' => {
            (0.54, vec![Arc([0.25, 0.76, 0.23, 0.24], [-90.0, 150.0]), Arc([0.25, 0.26, 0.27, 0.26], [-155.0, 90.0])])
        }
        '4' => (0.6, vec![Line([0.43, 0.0, 0.43, 1.0]), Line([0.43, 1.0, 0.02, 0.3]), Line([0.02, 0.3, 0.6, 0.3])]),
        '5' => (
            0.55,
            vec![
                Line([0.5, 1.0, 0.11, 1.0]),
                Line([0.11, 1.0, 0.07, 0.54]),
                Arc([0.27, 0.33, 0.27, 0.33], [-150.0, 140.0]),
            ],
        ),
        '6' => (0.55, vec![Arc([0.28, 0.31, 0.26, 0.31], ROUND), Arc([0.54, 0.31, 0.52, 0.69], [100.0, 180.0])]),
        '7' => (0.52, vec![Line([0.0, 1.0, 0.52, 1.0]), Line([0.52, 1.0, 0.17, 0.0])]),
        '8' => (0.56, vec![Arc([0.28, 0.76, 0.22, 0.24], ROUND), Arc([0.28, 0.26, 0.27, 0.26], ROUND)]),
        '9' => (0.55, vec![Arc([0.27, 0.69, 0.26, 0.31], ROUND), Arc([0.01, 0.69, 0.52, 0.69], [-80.0, 0.0])]),
        _ => return None,
    })
}

fn lower(character: char) -> Option<Glyph> {
    let bowl = || Arc([0.26, 0.34, 0.25, 0.34], ROUND);
    let arch = |x: f32| Arc([x, 0.46, 0.21, 0.22], [0.0, 180.0]);
    Some(match character {
        'a' => (0.52, vec![bowl(), Line([0.51, 0.68, 0.51, 0.0])]),
        'b' => (0.52, vec![bowl(), Line([0.01, 1.05, 0.01, 0.0])]),
        'c' => (0.48, vec![Arc([0.26, 0.34, 0.25, 0.34], [42.0, 318.0])]),
        'd' => (0.52, vec![bowl(), Line([0.51, 1.05, 0.51, 0.0])]),
        'e' => (0.54, vec![Arc([0.27, 0.34, 0.26, 0.34], [0.0, 315.0]), Line([0.01, 0.34, 0.53, 0.34])]),
        'f' => (
            0.34,
            vec![
                Arc([0.3, 0.88, 0.17, 0.17], [75.0, 180.0]),
                Line([0.13, 0.88, 0.13, 0.0]),
                Line([0.0, 0.68, 0.32, 0.68]),
            ],
        ),
        'g' => (0.52, vec![bowl(), Line([0.51, 0.68, 0.51, -0.08]), Arc([0.27, -0.08, 0.24, 0.22], [-150.0, 0.0])]),
        'h' => (0.46, vec![Line([0.02, 1.05, 0.02, 0.0]), arch(0.23), Line([0.44, 0.46, 0.44, 0.0])]),
        'i' => (0.1, vec![Line([0.05, 0.68, 0.05, 0.0]), Line([0.05, 0.95, 0.05, 0.95])]),
        '\u{131}' => (0.1, vec![Line([0.05, 0.68, 0.05, 0.0])]),
        'j' => {
            (0.14, vec![Line([0.1, 0.68, 0.1, -0.16]), Arc([-0.03, -0.16, 0.13, 0.14], [-80.0, 0.0]), dot(0.1, 0.95)])
        }
        'k' => {
            (0.46, vec![Line([0.02, 1.05, 0.02, 0.0]), Line([0.42, 0.68, 0.02, 0.26]), Line([0.16, 0.41, 0.45, 0.0])])
        }
        'l' => (0.08, vec![Line([0.04, 1.05, 0.04, 0.0])]),
        'm' => (
            0.8,
            vec![
                Line([0.02, 0.68, 0.02, 0.0]),
                Arc([0.21, 0.46, 0.19, 0.22], [0.0, 180.0]),
                Line([0.4, 0.46, 0.4, 0.0]),
                Arc([0.59, 0.46, 0.19, 0.22], [0.0, 180.0]),
                Line([0.78, 0.46, 0.78, 0.0]),
            ],
        ),
        'n' => (0.46, vec![Line([0.02, 0.68, 0.02, 0.0]), arch(0.23), Line([0.44, 0.46, 0.44, 0.0])]),
        'o' => (0.54, vec![Arc([0.27, 0.34, 0.26, 0.34], ROUND)]),
        'p' => (0.52, vec![Line([0.01, 0.68, 0.01, -0.3]), bowl()]),
        'q' => (0.52, vec![Line([0.51, 0.68, 0.51, -0.3]), bowl()]),
        'r' => (0.3, vec![Line([0.02, 0.68, 0.02, 0.0]), Arc([0.26, 0.4, 0.24, 0.28], [75.0, 180.0])]),
        's' => {
            (0.44, vec![Arc([0.22, 0.51, 0.18, 0.17], [35.0, 270.0]), Arc([0.22, 0.17, 0.21, 0.17], [-150.0, 90.0])])
        }
        't' => (
            0.36,
            vec![
                Line([0.14, 0.95, 0.14, 0.16]),
                Arc([0.31, 0.16, 0.17, 0.16], [180.0, 275.0]),
                Line([0.0, 0.68, 0.33, 0.68]),
            ],
        ),
        'u' => (
            0.46,
            vec![
                Line([0.02, 0.68, 0.02, 0.22]),
                Arc([0.23, 0.22, 0.21, 0.22], [180.0, 360.0]),
                Line([0.44, 0.68, 0.44, 0.0]),
            ],
        ),
        'v' => (0.5, path(&[[0.02, 0.68], [0.25, 0.0], [0.48, 0.68]])),
        'w' => (0.74, path(&[[0.02, 0.68], [0.2, 0.0], [0.37, 0.66], [0.54, 0.0], [0.72, 0.68]])),
        'x' => (0.48, vec![Line([0.02, 0.68, 0.46, 0.0]), Line([0.46, 0.68, 0.02, 0.0])]),
        'y' => (0.5, vec![Line([0.02, 0.68, 0.265, 0.0]), Line([0.48, 0.68, 0.16, -0.3])]),
        'z' => (0.46, path(&[[0.02, 0.68], [0.44, 0.68], [0.02, 0.0], [0.45, 0.0]])),
        _ => return None,
    })
}

fn capital(character: char) -> Option<Glyph> {
    let stem = || Line([0.02, 0.0, 0.02, 1.0]);
    let with = |mut strokes: Vec<Stroke>, more: Stroke| {
        strokes.push(more);
        strokes
    };
    let p = || {
        vec![
            stem(),
            Line([0.02, 1.0, 0.28, 1.0]),
            Arc([0.28, 0.74, 0.27, 0.26], [-90.0, 90.0]),
            Line([0.02, 0.48, 0.28, 0.48]),
        ]
    };
    Some(match character {
        'A' => (0.68, with(path(&[[0.02, 0.0], [0.34, 1.0], [0.66, 0.0]]), Line([0.13, 0.35, 0.55, 0.35]))),
        'B' => (
            0.58,
            vec![
                stem(),
                Line([0.02, 1.0, 0.3, 1.0]),
                Arc([0.3, 0.77, 0.22, 0.23], [-90.0, 90.0]),
                Line([0.02, 0.54, 0.3, 0.54]),
                Arc([0.3, 0.27, 0.27, 0.27], [-90.0, 90.0]),
                Line([0.02, 0.0, 0.3, 0.0]),
            ],
        ),
        'C' => (0.66, vec![Arc([0.37, 0.5, 0.36, 0.5], [45.0, 315.0])]),
        'D' => (
            0.66,
            vec![
                stem(),
                Line([0.02, 1.0, 0.24, 1.0]),
                Arc([0.24, 0.5, 0.41, 0.5], [-90.0, 90.0]),
                Line([0.02, 0.0, 0.24, 0.0]),
            ],
        ),
        'E' => (0.52, with(path(&[[0.5, 1.0], [0.02, 1.0], [0.02, 0.0], [0.5, 0.0]]), Line([0.02, 0.53, 0.44, 0.53]))),
        'F' => (0.5, with(path(&[[0.48, 1.0], [0.02, 1.0], [0.02, 0.0]]), Line([0.02, 0.5, 0.42, 0.5]))),
        'G' => {
            (0.72, with(path(&[[0.44, 0.46], [0.71, 0.46], [0.71, 0.3]]), Arc([0.37, 0.5, 0.36, 0.5], [45.0, 338.0])))
        }
        'H' => (0.64, vec![stem(), Line([0.62, 0.0, 0.62, 1.0]), Line([0.02, 0.53, 0.62, 0.53])]),
        'I' => (0.08, vec![Line([0.04, 0.0, 0.04, 1.0])]),
        'J' => (0.44, vec![Line([0.4, 1.0, 0.4, 0.24]), Arc([0.21, 0.24, 0.19, 0.24], [180.0, 360.0])]),
        'K' => (0.6, vec![stem(), Line([0.56, 1.0, 0.02, 0.38]), Line([0.2, 0.59, 0.59, 0.0])]),
        'L' => (0.48, path(&[[0.02, 1.0], [0.02, 0.0], [0.46, 0.0]])),
        'M' => (0.76, path(&[[0.02, 0.0], [0.02, 1.0], [0.38, 0.2], [0.74, 1.0], [0.74, 0.0]])),
        'N' => (0.64, path(&[[0.02, 0.0], [0.02, 1.0], [0.62, 0.0], [0.62, 1.0]])),
        'O' => (0.74, vec![Arc([0.37, 0.5, 0.36, 0.5], ROUND)]),
        'P' => (0.56, p()),
        'Q' => (0.74, vec![Arc([0.37, 0.5, 0.36, 0.5], ROUND), Line([0.46, 0.22, 0.74, -0.06])]),
        'R' => (0.6, with(p(), Line([0.28, 0.48, 0.58, 0.0]))),
        'S' => (
            0.56,
            vec![Arc([0.28, 0.755, 0.24, 0.245], [30.0, 270.0]), Arc([0.28, 0.255, 0.27, 0.255], [-155.0, 90.0])],
        ),
        'T' => (0.6, vec![Line([0.0, 1.0, 0.6, 1.0]), Line([0.3, 1.0, 0.3, 0.0])]),
        'U' => (
            0.62,
            vec![Line([0.02, 1.0, 0.02, 0.3]), Arc([0.31, 0.3, 0.29, 0.3], [180.0, 360.0]), Line([0.6, 0.3, 0.6, 1.0])],
        ),
        'V' => (0.64, path(&[[0.02, 1.0], [0.32, 0.0], [0.62, 1.0]])),
        'W' => (0.92, path(&[[0.02, 1.0], [0.24, 0.0], [0.46, 0.96], [0.68, 0.0], [0.9, 1.0]])),
        'X' => (0.62, vec![Line([0.02, 1.0, 0.6, 0.0]), Line([0.6, 1.0, 0.02, 0.0])]),
        'Y' => (0.62, with(path(&[[0.02, 1.0], [0.31, 0.48], [0.6, 1.0]]), Line([0.31, 0.48, 0.31, 0.0]))),
        'Z' => (0.58, path(&[[0.03, 1.0], [0.55, 1.0], [0.02, 0.0], [0.57, 0.0]])),
        _ => return None,
    })
}

fn sign(character: char) -> Option<Glyph> {
    let small_plus = |y: f32| vec![Line([0.03, y, 0.47, y]), Line([0.25, y + 0.22, 0.25, y - 0.22])];
    Some(match character {
        '-' | '\u{2010}' | '\u{2011}' => (0.44, vec![Line([0.02, 0.45, 0.42, 0.45])]),
        '\u{2012}' | '\u{2013}' | '\u{2212}' => (0.54, vec![Line([0.02, 0.45, 0.52, 0.45])]),
        '\u{2014}' => (0.9, vec![Line([0.02, 0.45, 0.88, 0.45])]),
        '.' => (0.14, vec![Line([0.07, 0.02, 0.07, 0.02])]),
        '\u{b7}' => (0.14, vec![dot(0.07, 0.4)]),
        '\u{2026}' => (0.66, vec![dot(0.07, 0.02), dot(0.33, 0.02), dot(0.59, 0.02)]),
        ',' => (0.14, vec![Line([0.09, 0.02, 0.03, -0.16])]),
        ':' => (0.14, vec![dot(0.07, 0.02), dot(0.07, 0.58)]),
        ';' => (0.14, vec![Line([0.09, 0.02, 0.03, -0.16]), dot(0.09, 0.58)]),
        '!' => (0.1, vec![Line([0.05, 1.0, 0.05, 0.3]), dot(0.05, 0.02)]),
        '?' => (
            0.48,
            vec![Arc([0.24, 0.75, 0.22, 0.25], [-75.0, 165.0]), Line([0.297, 0.51, 0.24, 0.28]), dot(0.24, 0.02)],
        ),
        '"' => (0.24, vec![Line([0.05, 1.0, 0.05, 0.74]), Line([0.19, 1.0, 0.19, 0.74])]),
        '\'' | '\u{2019}' => (0.1, vec![Line([0.05, 1.0, 0.05, 0.74])]),
        '`' => (0.2, vec![Line([0.04, 1.05, 0.16, 0.86])]),
        '(' => (0.22, vec![Arc([0.32, 0.4, 0.28, 0.68], [118.0, 242.0])]),
        ')' => (0.22, vec![Arc([-0.1, 0.4, 0.28, 0.68], [-62.0, 62.0])]),
        '[' => (0.24, path(&[[0.2, 1.05], [0.04, 1.05], [0.04, -0.2], [0.2, -0.2]])),
        ']' => (0.24, path(&[[0.04, 1.05], [0.2, 1.05], [0.2, -0.2], [0.04, -0.2]])),
        '{' => (
            0.3,
            path(&[[0.26, 1.05], [0.15, 0.98], [0.15, 0.55], [0.05, 0.43], [0.15, 0.31], [0.15, -0.13], [0.26, -0.2]]),
        ),
        '}' => (
            0.3,
            path(&[[0.04, 1.05], [0.15, 0.98], [0.15, 0.55], [0.25, 0.43], [0.15, 0.31], [0.15, -0.13], [0.04, -0.2]]),
        ),
        '<' => (0.48, path(&[[0.45, 0.72], [0.04, 0.42], [0.45, 0.12]])),
        '>' => (0.48, path(&[[0.04, 0.72], [0.45, 0.42], [0.04, 0.12]])),
        '/' => (0.4, vec![Line([0.01, -0.1, 0.38, 1.05])]),
        '\\' => (0.4, vec![Line([0.01, 1.05, 0.38, -0.1])]),
        '|' => (0.08, vec![Line([0.04, 1.05, 0.04, -0.2])]),
        '_' => (0.5, vec![Line([0.0, -0.12, 0.5, -0.12])]),
        '^' => (0.44, path(&[[0.04, 0.6], [0.22, 1.0], [0.4, 0.6]])),
        '~' => (0.48, vec![Arc([0.13, 0.4, 0.11, 0.1], [0.0, 180.0]), Arc([0.35, 0.4, 0.11, 0.1], [180.0, 360.0])]),
        '+' => (0.5, small_plus(0.42)),
        '\u{b1}' => (0.5, small_plus(0.52).into_iter().chain([Line([0.03, 0.1, 0.47, 0.1])]).collect()),
        '=' => (0.5, vec![Line([0.03, 0.54, 0.47, 0.54]), Line([0.03, 0.3, 0.47, 0.3])]),
        '*' => (0.36, vec![Line([0.18, 1.0, 0.18, 0.6]), Line([0.02, 0.9, 0.34, 0.7]), Line([0.02, 0.7, 0.34, 0.9])]),
        '\u{d7}' => (0.44, vec![Line([0.04, 0.6, 0.4, 0.24]), Line([0.04, 0.24, 0.4, 0.6])]),
        '#' => (
            0.6,
            vec![
                Line([0.14, 0.0, 0.24, 1.0]),
                Line([0.36, 0.0, 0.46, 1.0]),
                Line([0.04, 0.67, 0.58, 0.67]),
                Line([0.0, 0.33, 0.54, 0.33]),
            ],
        ),
        '$' => capital('S')
            .map(|(width, strokes)| (width, strokes.into_iter().chain([Line([0.28, 1.12, 0.28, -0.12])]).collect()))?,
        '%' => (
            0.84,
            vec![
                Arc([0.17, 0.76, 0.16, 0.24], ROUND),
                Arc([0.67, 0.24, 0.16, 0.24], ROUND),
                Line([0.64, 1.0, 0.2, 0.0]),
            ],
        ),
        '&' => (
            0.66,
            vec![
                Arc([0.28, 0.8, 0.18, 0.2], [-45.0, 225.0]),
                Line([0.15, 0.66, 0.64, 0.0]),
                Line([0.407, 0.66, 0.12, 0.45]),
                Arc([0.28, 0.25, 0.26, 0.25], [125.0, 330.0]),
                Line([0.505, 0.125, 0.62, 0.4]),
            ],
        ),
        '@' => (
            0.98,
            vec![
                Arc([0.48, 0.38, 0.46, 0.58], [0.0, 310.0]),
                Arc([0.47, 0.38, 0.2, 0.24], ROUND),
                Line([0.67, 0.62, 0.67, 0.32]),
                Arc([0.805, 0.32, 0.135, 0.18], [180.0, 360.0]),
                Line([0.94, 0.32, 0.94, 0.38]),
            ],
        ),
        '\u{b0}' => (0.28, vec![Arc([0.14, 0.86, 0.12, 0.14], ROUND)]),
        _ => return None,
    })
}

/// The Greek letters that units and parameters are named with.
fn greek(character: char) -> Option<Glyph> {
    Some(match character {
        '\u{3b1}' => (
            0.56,
            vec![Arc([0.24, 0.34, 0.23, 0.34], ROUND), Line([0.54, 0.68, 0.46, 0.34]), Line([0.46, 0.34, 0.54, 0.0])],
        ),
        '\u{3b2}' => (
            0.52,
            vec![
                Line([0.02, -0.3, 0.02, 0.78]),
                Arc([0.23, 0.8, 0.21, 0.24], [-60.0, 180.0]),
                Arc([0.25, 0.29, 0.25, 0.29], [-130.0, 100.0]),
            ],
        ),
        '\u{3b8}' => (0.5, vec![Arc([0.25, 0.5, 0.23, 0.5], ROUND), Line([0.02, 0.5, 0.48, 0.5])]),
        '\u{3bb}' => (0.5, vec![Line([0.06, 1.0, 0.48, 0.0]), Line([0.25, 0.55, 0.02, 0.0])]),
        '\u{b5}' | '\u{3bc}' => {
            let (width, strokes) = lower('u')?;
            (width, strokes.into_iter().chain([Line([0.02, 0.3, 0.02, -0.3])]).collect())
        }
        '\u{3c0}' => {
            (0.56, vec![Line([0.02, 0.68, 0.54, 0.68]), Line([0.15, 0.68, 0.12, 0.0]), Line([0.41, 0.68, 0.41, 0.0])])
        }
        '\u{3c3}' => (0.58, vec![Arc([0.26, 0.34, 0.25, 0.34], ROUND), Line([0.26, 0.68, 0.57, 0.68])]),
        '\u{394}' => (0.66, path(&[[0.02, 0.0], [0.33, 1.0], [0.64, 0.0], [0.02, 0.0]])),
        '\u{3a3}' => (0.56, path(&[[0.53, 1.0], [0.03, 1.0], [0.32, 0.5], [0.03, 0.0], [0.54, 0.0]])),
        '\u{3a9}' => (
            0.72,
            vec![
                Arc([0.36, 0.57, 0.33, 0.43], [-60.0, 240.0]),
                Line([0.02, 0.0, 0.22, 0.0]),
                Line([0.22, 0.0, 0.195, 0.2]),
                Line([0.5, 0.0, 0.7, 0.0]),
                Line([0.5, 0.0, 0.525, 0.2]),
            ],
        ),
        _ => return None,
    })
}

/// Superscript and subscript digits.
fn small_digit(character: char) -> Option<Glyph> {
    const RAISED: &str = "\u{2070}\u{b9}\u{b2}\u{b3}\u{2074}\u{2075}\u{2076}\u{2077}\u{2078}\u{2079}";
    const LOWERED: &str = "\u{2080}\u{2081}\u{2082}\u{2083}\u{2084}\u{2085}\u{2086}\u{2087}\u{2088}\u{2089}";
    let (set, base) = if RAISED.contains(character) { (RAISED, 0.45) } else { (LOWERED, -0.2) };
    let value = set.chars().position(|other| other == character)?;
    let (width, strokes) = digit(char::from_digit(value as u32, 10)?)?;
    let scale = 0.6;
    let shrunk = |stroke| match stroke {
        Line([x0, y0, x1, y1]) => Line([x0 * scale, base + y0 * scale, x1 * scale, base + y1 * scale]),
        Arc([x, y, rx, ry], angles) => Arc([x * scale, base + y * scale, rx * scale, ry * scale], angles),
    };
    Some((width * scale, strokes.into_iter().map(shrunk).collect()))
}

/// Letters with a mark, and the letters below it.
const ACCENTED: [(Mark, &str, &str); 9] = [
    (Mark::Acute, "áéíóúýÁÉÍÓÚÝćńśźĆŃŚŹ", "aeıouyAEIOUYcnszCNSZ"),
    (Mark::Grave, "àèìòùÀÈÌÒÙ", "aeıouAEIOU"),
    (Mark::Circumflex, "âêîôûÂÊÎÔÛ", "aeıouAEIOU"),
    (Mark::Diaeresis, "äëïöüÿÄËÏÖÜ", "aeıouyAEIOU"),
    (Mark::Tilde, "ãñõÃÑÕ", "anoANO"),
    (Mark::Ring, "åůÅŮ", "auAU"),
    (Mark::Caron, "čďěňřšťžČĎĚŇŘŠŤŽ", "cdenrstzCDENRSTZ"),
    (Mark::Cedilla, "çşÇŞ", "csCS"),
    (Mark::Slash, "øØ", "oO"),
];

#[derive(Clone, Copy)]
enum Mark {
    Acute,
    Grave,
    Circumflex,
    Diaeresis,
    Tilde,
    Ring,
    Caron,
    Cedilla,
    Slash,
}

fn accented(character: char) -> Option<Glyph> {
    let found = ACCENTED.iter().find_map(|(mark, letters, bases)| {
        let place = letters.chars().position(|letter| letter == character)?;
        Some((*mark, bases.chars().nth(place)?))
    });
    let (mark, base) = found?;
    let (width, strokes) = lower(base).or_else(|| capital(base))?;
    let top = if base.is_uppercase() || "dt".contains(base) { 1.0 } else { X_HEIGHT };
    Some((width, strokes.into_iter().chain(mark.strokes(width / 2.0, top)).collect()))
}

impl Mark {
    /// Above or below a letter with this middle and height.
    fn strokes(self, x: f32, top: f32) -> Vec<Stroke> {
        let y = top + 0.14;
        match self {
            Self::Acute => vec![Line([x - 0.06, y, x + 0.09, y + 0.2])],
            Self::Grave => vec![Line([x + 0.06, y, x - 0.09, y + 0.2])],
            Self::Circumflex => path(&[[x - 0.14, y], [x, y + 0.17], [x + 0.14, y]]),
            Self::Diaeresis => vec![dot(x - 0.13, y + 0.1), dot(x + 0.13, y + 0.1)],
            Self::Tilde => vec![
                Arc([x - 0.08, y + 0.08, 0.08, 0.06], [0.0, 180.0]),
                Arc([x + 0.08, y + 0.08, 0.08, 0.06], [180.0, 360.0]),
            ],
            Self::Ring => vec![Arc([x, y + 0.08, 0.09, 0.1], ROUND)],
            Self::Caron => path(&[[x - 0.14, y + 0.17], [x, y], [x + 0.14, y + 0.17]]),
            Self::Cedilla => vec![Arc([x, -0.16, 0.1, 0.1], [-120.0, 90.0])],
            Self::Slash => vec![Line([x - 0.26, -0.1, x + 0.26, top + 0.1])],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_has_its_glyphs_and_stays_within_its_width() {
        for character in '!'..='~' {
            assert!(has_glyph(character), "{character}");
            let (width, strokes) = glyph(character);
            for stroke in strokes {
                let (low, high) = match stroke {
                    Line([x0, _, x1, _]) => (x0.min(x1), x0.max(x1)),
                    Arc([x, _, rx, _], [from, to]) => {
                        let xs: Vec<f32> = (0..=24)
                            .map(|i| x + rx * (from + (to - from) * i as f32 / 24.0).to_radians().cos())
                            .collect();
                        (
                            xs.iter().copied().fold(f32::INFINITY, f32::min),
                            xs.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                        )
                    }
                };
                assert!(low > -0.06 && high < width + 0.06, "{character}: {low} to {high} of {width}");
            }
        }
    }

    #[test]
    fn accents_lie_on_their_letters_and_what_is_unknown_is_a_box() {
        for (_, letters, bases) in ACCENTED {
            assert_eq!(letters.chars().count(), bases.chars().count());
            for (letter, base) in letters.chars().zip(bases.chars()) {
                let [with, without] = [letter, base].map(glyph);
                assert!(with.0 == without.0 && with.1.len() > without.1.len(), "{letter}");
            }
        }
        assert!(has_glyph('\u{b2}') && has_glyph('\u{3bc}') && has_glyph(' '));
        assert!(!has_glyph('\u{6e29}'));
        assert_eq!(glyph('\u{6e29}').1.len(), 4);
        assert!(glyph('\n').1.is_empty());
    }
}
