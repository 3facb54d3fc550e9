//! A hash that stays the same on every machine and in every version.

/// FNV-1a of 64 bits. It tells inputs apart; against inputs made to collide it is no protection.
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    bytes.into_iter().fold(0xCBF2_9CE4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::fnv1a;

    #[test]
    fn the_published_values() {
        let found = ["", "a", "foobar"].map(|text| fnv1a(text.bytes()));
        assert_eq!(found, [0xCBF2_9CE4_8422_2325, 0xAF63_DC4C_8601_EC8C, 0x8594_4171_F739_67E8]);
    }
}
