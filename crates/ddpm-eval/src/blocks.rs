//! A cache of features on disk, in blocks.
//!
//! A block is complete or absent. Existing blocks are reused, several processes can extract different ones, and gathering
//! reads them in order: so the result is the same bit for bit, however the work was divided or interrupted.

use std::ops::Range;
use std::path::{Path, PathBuf};

use ddpm_data::fnv1a;
use ddpm_files::atomic;
use ddpm_files::npy::{self, RowReader};

use super::extractor::{Extracted, FeatureExtractor};
use super::sources::{ImageSource, SamplingStep};
use super::{EvaluationError, Features, InceptionScore, Moments, Score, Statistics};

/// Items of a block.
pub const BLOCK: usize = 256;
/// Splits of the inception score.
const SPLITS: usize = 10;

/// Progress of the extraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The features of this many more items are extracted.
    Extracted(usize),
    /// The source generates its images, and is at this step of the present batch.
    Sampling(SamplingStep),
}

/// The features of one source by one extractor.
pub struct FeatureBlocks<'a> {
    folder: PathBuf,
    source: &'a dyn ImageSource,
    extractor: &'a dyn FeatureExtractor,
    count: usize,
    batch_size: usize,
}

impl<'a> FeatureBlocks<'a> {
    /// Opens their folder within `root`, for the first `count` items.
    pub fn open(
        root: &Path,
        source: &'a dyn ImageSource,
        (extractor, extractor_identity): (&'a dyn FeatureExtractor, &str),
        count: usize,
        batch_size: usize,
    ) -> Result<Self, EvaluationError> {
        let identity = format!("{}\n{extractor_identity}\n", source.identity());
        let slug: String =
            source.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
        let folder = root.join(format!("{slug}-{:016x}", fnv1a(identity.bytes())));
        std::fs::create_dir_all(&folder).map_err(EvaluationError::io(&folder))?;
        atomic::write_derived(&folder.join("about.txt"), identity)?;
        Ok(Self { folder, source, extractor, count: count.min(source.count()), batch_size })
    }

    /// Number of items.
    pub fn count(&self) -> usize {
        self.count
    }

    fn range(&self, block: usize) -> Range<usize> {
        block * BLOCK..((block + 1) * BLOCK).min(self.count)
    }

    fn path(&self, block: usize) -> PathBuf {
        self.folder.join(format!("block-{block:06}.npy"))
    }

    fn exists(&self, block: usize) -> bool {
        let wanted = self.range(block).len();
        RowReader::open(&self.path(block)).is_ok_and(|reader| reader.header().shape.first() >= Some(&wanted))
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.count.div_ceil(BLOCK)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The blocks that are absent.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.len()).filter(|block| !self.exists(*block)).collect()
    }

    /// Number of items in existing blocks.
    pub fn done(&self) -> usize {
        self.count - self.missing().into_iter().map(|block| self.range(block).len()).sum::<usize>()
    }

    /// Extracts the missing blocks that `wanted` chooses by their number.
    pub fn extract_missing(
        &self,
        wanted: impl Fn(usize) -> bool,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<(), EvaluationError> {
        for block in self.missing().into_iter().filter(|block| wanted(*block)) {
            let range = self.range(block);
            let mut values = Vec::new();
            for start in range.clone().step_by(self.batch_size) {
                let batch = start..(start + self.batch_size).min(range.end);
                let images =
                    self.source.images_with_progress(batch, &mut |step| on_progress(Progress::Sampling(step)))?;
                let Extracted { features, logits } = self.extractor.extract(&images)?;
                if !features.is_finite() || !logits.is_finite() {
                    return Err(EvaluationError::NotFinite { what: self.source.name() });
                }
                for row in 0..features.len() {
                    values.extend(features.row(row));
                    if logits.width() > 0 {
                        values.extend(logits.row(row));
                    }
                }
                on_progress(Progress::Extracted(images.len()));
            }
            let path = self.path(block);
            let shape = [range.len(), self.extractor.widths().iter().sum()];
            atomic::write_derived(&path, npy::encode(&shape, &values))?;
        }
        Ok(())
    }

    /// Gathers all blocks, of the items that `wanted` chooses; the features of the first `most` of them are kept.
    pub fn gather(&self, most: usize, wanted: impl Fn(usize) -> bool) -> Result<FeatureSummary, EvaluationError> {
        let [width, classes] = self.extractor.widths();
        let mut moments = Moments::empty(width);
        let mut kept = Features::empty(width);
        let mut seen_classes = vec![0; classes];
        let chosen = (0..self.count).filter(|item| wanted(*item)).count();
        let mut score = (classes > 0).then(|| InceptionScore::new(chosen, classes, SPLITS.min(chosen))).transpose()?;
        for block in 0..self.len() {
            let path = self.path(block);
            let range = self.range(block);
            let values = RowReader::open(&path)?.rows(0..range.len(), &path)?;
            let mut features = Vec::with_capacity(range.len() * width);
            for (item, row) in range.zip(values.chunks_exact(width + classes)) {
                if !wanted(item) {
                    continue;
                }
                let row: Vec<f32> = row.iter().map(|value| *value as f32).collect();
                features.extend(&row[..width]);
                if let Some(score) = &mut score {
                    score.push(&row[width..]);
                    seen_classes[super::classifier::best(&row[width..])] += 1;
                }
            }
            let features = Features::new(width, features);
            moments.merge(&Moments::of(&features))?;
            kept.extend(&features, most);
        }
        Ok(FeatureSummary {
            name: self.source.name(),
            count: chosen,
            statistics: moments.statistics()?,
            kept,
            score: score.map(|score| score.score()),
            class_shares: seen_classes.into_iter().map(|seen: usize| seen as f64 / chosen as f64).collect(),
        })
    }
}

/// Statistics of a set, from one pass over its items.
#[derive(Clone, Debug)]
pub struct FeatureSummary {
    /// The name of the source.
    pub name: String,
    /// Number of items.
    pub count: usize,
    /// Their moments.
    pub statistics: Statistics,
    /// Features of the first items.
    pub kept: Features,
    /// Their inception score by the extractor's own classes.
    pub score: Option<Score>,
    /// The share of every class, by the extractor's own classes.
    pub class_shares: Vec<f64>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::extractor::Pixels;
    use crate::image::Image;

    /// Images that follow from their numbers.
    struct Ramps(usize);

    impl ImageSource for Ramps {
        fn count(&self) -> usize {
            self.0
        }
        fn name(&self) -> String {
            "ramps".into()
        }
        fn identity(&self) -> String {
            "ramps".into()
        }
        fn images(&self, range: Range<usize>) -> Result<Vec<Image>, EvaluationError> {
            let one = |k: usize| Image { channels: 1, height: 1, width: 2, bytes: vec![k as u8, (k * k) as u8] };
            Ok(range.map(one).collect())
        }
    }

    #[test]
    fn shards_and_interruptions_leave_no_trace() {
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, pixels) = (Ramps(3 * BLOCK + 5), Pixels { shape: [1, 1, 2] });
        let open =
            |root: &Path, count, batch| FeatureBlocks::open(root, &source, (&pixels, "pixels"), count, batch).unwrap();
        let every = |_: usize| true;
        let odd = |block: usize| block % 2 == 1;
        let even = |block: usize| block.is_multiple_of(2);

        let one = open(whole.path(), usize::MAX, 64);
        one.extract_missing(every, &mut |_| {}).unwrap();
        // A shorter run first, then two shards of the long one.
        open(parts.path(), 10, 7).extract_missing(every, &mut |_| {}).unwrap();
        let all = open(parts.path(), usize::MAX, 50);
        assert_eq!(all.missing(), [0, 1, 2, 3]);
        let mut seen = 0;
        let mut count = |progress| match progress {
            Progress::Extracted(items) => seen += items,
            Progress::Sampling(_) => panic!("nothing is sampled"),
        };
        all.extract_missing(odd, &mut count).unwrap();
        assert_eq!((all.missing(), seen), (vec![0, 2], BLOCK + 5));
        assert!(all.gather(9, |_| true).is_err());
        all.extract_missing(even, &mut |_| {}).unwrap();
        all.extract_missing(even, &mut |_| panic!("extracted twice")).unwrap();

        let [a, b] = [&one, &all].map(|blocks| blocks.gather(300, |_| true).unwrap());
        assert_eq!((a.count, a.kept.len()), (3 * BLOCK + 5, 300));
        assert_eq!(a.statistics.mean, b.statistics.mean);
        assert_eq!(a.statistics.covariance, b.statistics.covariance);
        assert_eq!(a.kept, b.kept);
        let half = one.gather(usize::MAX, |item| item % 2 == 0).unwrap();
        assert_eq!((half.count, half.kept.len()), (387, 387));
    }
}
