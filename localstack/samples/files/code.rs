//! A sample of source code.

/// Rolls the barrels of the vermilion cooperage down to the quay.
fn roll(barrels: &[Barrel]) -> usize {
    barrels.iter().filter(|barrel| barrel.is_full()).count()
}
