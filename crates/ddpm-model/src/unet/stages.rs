//! The topology of a U-Net: its blocks in order, with their channels, skip connections, attentions and resampling.
//!
//! This is its one description: the network itself, the names of its weights, the estimate of its memory, the list of
//! its operations and the count of its FLOPs all follow it.

use super::config::{Heads, Resampling, UNetConfig};

/// Everything in a U-Net that has a resolution, in the order in which the image passes through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Channels in and out of the first convolution. Its output is the first skip connection.
    pub input: [usize; 2],
    /// One stage per level, from the image down. The output of every block and every resampling is a skip connection.
    pub down: Vec<Stage>,
    /// The two blocks in the middle, at the lowest resolution.
    pub middle: Stage,
    /// One stage per level, from the lowest resolution up. Every block takes one skip connection, the last one first.
    pub up: Vec<Stage>,
    /// Channels in and out of the last convolution; the normalization in front of it has those that go in.
    pub output: [usize; 2],
}

/// The blocks at one resolution, and the resampling that leads to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The level, counted from 0 at the image: height and width are those of the image divided by `2^level`.
    pub level: usize,
    /// The residual blocks, in order.
    pub blocks: Vec<Block>,
    /// The change of resolution after the last block, if there is one.
    pub resample: Option<Resample>,
}

/// A residual block, and the attention that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Channels that come from the layer before.
    pub in_channels: usize,
    /// Channels of the skip connection that is concatenated to them; 0 without one.
    pub skip_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// The attention on the output, if there is one.
    pub attention: Option<Attention>,
    /// The transformer on the output, if there is one: a block has one of the two at most.
    pub transformer: Option<Transformer>,
}

/// Self-attention over the pixels of a block's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// How many heads share the channels.
    pub heads: usize,
    /// Groups of the normalization in front of it, if it has one.
    pub norm_groups: Option<usize>,
}

/// A transformer over the pixels of a block's output, which attends to the tokens of the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transformer {
    /// How many heads share the channels in each attention.
    pub heads: usize,
    /// Groups of the normalization in front of it.
    pub norm_groups: usize,
    /// How many transformer blocks it has.
    pub depth: usize,
    /// Width of the tokens of the condition.
    pub token_width: usize,
    /// Whether the projections before and after the blocks are stored as dense layers, and not as 1x1 convolutions.
    pub linear_projection: bool,
}

/// A change of resolution by a factor of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resample {
    /// Channels in and out.
    pub channels: usize,
    /// The level that it leads to, one more than that of its stage on the way down and one less on the way up.
    pub to_level: usize,
    /// A convolution or a residual block.
    pub kind: Resampling,
}

impl Topology {
    /// All stages: down, middle, up.
    pub fn stages(&self) -> impl Iterator<Item = &Stage> {
        self.down.iter().chain([&self.middle]).chain(&self.up)
    }
}

impl Block {
    /// Channels of the block's input: those of the layer before and those of the skip connection.
    pub fn joined_channels(&self) -> usize {
        self.in_channels + self.skip_channels
    }
}

impl UNetConfig {
    /// The topology of the network that this config describes.
    pub fn topology(&self) -> Topology {
        let levels = self.level_channels();
        let last = levels.len().saturating_sub(1);
        let mut path = Path { config: self, channels: self.base_channels, skips: vec![self.base_channels] };
        let down =
            levels.iter().enumerate().map(|(level, &channels)| path.down(level, channels, level < last)).collect();
        let middle = path.middle(last);
        let up = levels.iter().enumerate().rev().map(|(level, &channels)| path.up(level, channels)).collect();
        let output = [path.channels, self.out_channels];
        Topology { input: [self.in_channels, self.base_channels], down, middle, up, output }
    }
}

/// The way through the network up to some block.
struct Path<'a> {
    config: &'a UNetConfig,
    /// Channels of the last output.
    channels: usize,
    /// Channels of the skip connections that no block has taken yet.
    skips: Vec<usize>,
}

impl Path<'_> {
    fn down(&mut self, level: usize, channels: usize, resamples: bool) -> Stage {
        let attention = self.level_attention(level, channels, self.config.heads);
        let mut blocks = Vec::new();
        for _ in 0..self.config.blocks_per_level {
            blocks.push(self.block(level, [0, channels], attention));
            self.skips.push(channels);
        }
        let resample = resamples.then(|| self.resample(level + 1));
        self.skips.extend(resample.map(|resample| resample.channels));
        Stage { level, blocks, resample }
    }

    fn middle(&mut self, level: usize) -> Stage {
        let (config, channels) = (self.config, self.channels);
        let norm_groups = config.middle_groups();
        let attention = config.middle_attention.then(|| Attention { heads: config.heads.count(channels), norm_groups });
        let blocks = vec![self.block(level, [0, channels], attention), self.block(level, [0, channels], None)];
        Stage { level, blocks, resample: None }
    }

    fn up(&mut self, level: usize, channels: usize) -> Stage {
        let attention = self.level_attention(level, channels, self.config.heads_on_the_way_up());
        let mut blocks = Vec::new();
        for _ in 0..=self.config.blocks_per_level {
            let skip_channels = self.skips.pop().unwrap_or_default();
            blocks.push(self.block(level, [skip_channels, channels], attention));
        }
        let resample = level.checked_sub(1).map(|to_level| self.resample(to_level));
        Stage { level, blocks, resample }
    }

    /// A block with this attention, or with a transformer in its place.
    fn block(
        &mut self,
        level: usize,
        [skip_channels, out_channels]: [usize; 2],
        attention: Option<Attention>,
    ) -> Block {
        let in_channels = std::mem::replace(&mut self.channels, out_channels);
        let cross = self.config.cross_attention.as_ref().zip(attention);
        let transformer = cross.map(|(cross, Attention { heads, .. })| Transformer {
            heads: cross.heads_at(level).unwrap_or(heads),
            norm_groups: self.config.norm_groups,
            depth: cross.depth_at(level),
            token_width: cross.token_width,
            linear_projection: cross.linear_projection,
        });
        let attention = attention.filter(|_| transformer.is_none());
        Block { in_channels, skip_channels, out_channels, attention, transformer }
    }

    fn level_attention(&self, level: usize, channels: usize, heads: Heads) -> Option<Attention> {
        let attention = || Attention { heads: heads.count(channels), norm_groups: Some(self.config.norm_groups) };
        self.config.attends(level).then(attention)
    }

    fn resample(&self, to_level: usize) -> Resample {
        Resample { channels: self.channels, to_level, kind: self.config.resampling }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unet::{CrossAttentionConfig, MiddleNorm};

    fn block(in_channels: usize, skip_channels: usize, out_channels: usize) -> Block {
        Block { in_channels, skip_channels, out_channels, attention: None, transformer: None }
    }

    fn attending(block: Block) -> Block {
        Block { attention: Some(Attention { heads: 1, norm_groups: Some(32) }), ..block }
    }

    fn stage(level: usize, blocks: Vec<Block>, resample: Option<(usize, usize)>) -> Stage {
        let resample = resample.map(|(channels, to_level)| Resample { channels, to_level, kind: Resampling::Conv });
        Stage { level, blocks, resample }
    }

    /// Ho et al. (2020), appendix B: four levels from 32x32 to 4x4, two blocks each, attention at 16x16.
    #[test]
    fn the_papers_network_has_these_stages() {
        let expected = Topology {
            input: [3, 128],
            down: vec![
                stage(0, vec![block(128, 0, 128), block(128, 0, 128)], Some((128, 1))),
                stage(1, vec![attending(block(128, 0, 256)), attending(block(256, 0, 256))], Some((256, 2))),
                stage(2, vec![block(256, 0, 256), block(256, 0, 256)], Some((256, 3))),
                stage(3, vec![block(256, 0, 256), block(256, 0, 256)], None),
            ],
            middle: stage(3, vec![attending(block(256, 0, 256)), block(256, 0, 256)], None),
            up: vec![
                stage(3, vec![block(256, 256, 256), block(256, 256, 256), block(256, 256, 256)], Some((256, 2))),
                stage(2, vec![block(256, 256, 256), block(256, 256, 256), block(256, 256, 256)], Some((256, 1))),
                stage(
                    1,
                    vec![
                        attending(block(256, 256, 256)),
                        attending(block(256, 256, 256)),
                        attending(block(256, 128, 256)),
                    ],
                    Some((256, 0)),
                ),
                stage(0, vec![block(256, 128, 128), block(128, 128, 128), block(128, 128, 128)], None),
            ],
            output: [128, 3],
        };
        assert_eq!(UNetConfig::cifar10().topology(), expected);
    }

    #[test]
    fn both_ways_have_their_own_heads_and_the_middle_its_own_normalization() {
        let config = UNetConfig {
            multipliers: vec![1.0, 2.0],
            heads: Heads::Width { width: 64 },
            heads_up: Some(Heads::Count(8)),
            middle_attention_norm: MiddleNorm::None,
            resampling: Resampling::Residual,
            ..UNetConfig::cifar10()
        };
        let topology = config.topology();
        let attention = |heads, norm_groups| Some(Attention { heads, norm_groups });
        assert!(topology.down[1].blocks.iter().all(|block| block.attention == attention(4, Some(32))));
        assert!(topology.up[0].blocks.iter().all(|block| block.attention == attention(8, Some(32))));
        assert_eq!(topology.middle.blocks[0].attention, attention(4, None));
        assert_eq!(topology.middle.blocks[1].attention, None);
        let resampling = |channels, to_level| Some(Resample { channels, to_level, kind: Resampling::Residual });
        assert_eq!((topology.down[0].resample, topology.up[0].resample), (resampling(128, 1), resampling(256, 0)));

        let without = UNetConfig { middle_attention: false, ..config }.topology();
        assert!(without.middle.blocks.iter().all(|block| block.attention.is_none()));
    }

    #[test]
    fn transformers_take_the_place_of_attentions_with_depths_and_heads_by_level() {
        let cross = CrossAttentionConfig {
            token_width: 6,
            depths: vec![1, 2, 10],
            heads: vec![5, 10, 20],
            linear_projection: true,
            added: None,
        };
        let config = UNetConfig {
            base_channels: 320,
            multipliers: vec![1.0, 2.0, 4.0],
            attention_resolutions: vec![16, 8],
            cross_attention: Some(cross),
            ..UNetConfig::cifar10()
        };
        let topology = config.topology();
        let found = |stage: &Stage| {
            assert!(stage.blocks.iter().all(|block| block.attention.is_none()));
            let transformers = stage.blocks.iter().map(|block| block.transformer);
            transformers.map(|found| found.map(|found| [found.depth, found.heads])).collect::<Vec<_>>()
        };
        assert_eq!(
            topology.down.iter().map(found).collect::<Vec<_>>(),
            [vec![None; 2], vec![Some([2, 10]); 2], vec![Some([10, 20]); 2]]
        );
        assert_eq!(found(&topology.middle), [Some([10, 20]), None]);
        assert_eq!(found(&topology.up[0]), [Some([10, 20]); 3]);
        assert_eq!(found(&topology.up[2]), [None; 3]);
    }

    /// Every output of the way down is taken once on the way up.
    #[test]
    fn every_skip_connection_is_taken_once() {
        for blocks_per_level in 1..4 {
            let config = UNetConfig { blocks_per_level, multipliers: vec![1.0, 0.5, 3.0], ..UNetConfig::cifar10() };
            let topology = config.topology();
            let mut left = vec![topology.input[1]];
            for stage in &topology.down {
                left.extend(stage.blocks.iter().map(|block| block.out_channels));
                left.extend(stage.resample.map(|resample| resample.channels));
            }
            let taken = topology.up.iter().flat_map(|stage| &stage.blocks).map(|block| block.skip_channels);
            assert!(left.into_iter().rev().eq(taken), "{blocks_per_level} blocks");
        }
    }
}
