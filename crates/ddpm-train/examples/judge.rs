#![allow(missing_docs, clippy::unwrap_used, dead_code)]
#[path = "../tests/support/judge.rs"]
mod judge;
fn npy(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let header = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    bytes[10 + header..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}
fn main() {
    let j: Vec<_> = (0..2).map(|s| judge::Judge::train(s)).collect();
    for (s, j) in j.iter().enumerate() {
        let g = j.judge(&j.pixel_gaussian(1000, 1)).distance;
        println!(
            "judge {s}: accuracy {:.4} gaussian {g:.3} train {:.1}%",
            j.accuracy,
            100.0 * j.judge(j.train_split()).distance / g
        );
        for path in std::env::args().skip(1) {
            let v = j.judge(&npy(&path));
            let min = v.shares.iter().cloned().fold(1.0, f64::min);
            let max = v.shares.iter().cloned().fold(0.0, f64::max);
            println!(
                "  {path}: {:.3} = {:.1}%  novelty {:.2} shares {min:.3}..{max:.3}",
                v.distance,
                100.0 * v.distance / g,
                v.novelty
            );
        }
    }
}
