//! Many values in little room: a histogram, and a fair sample. Pure.

use std::fmt::Write as _;

/// Values by size; a value counts in the first bound that is not below it.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last is what is above all of them.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Empty; the bounds rise.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// One more value.
    pub fn add(&mut self, value: f64) {
        let at = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[at] += 1;
        self.sum += value;
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What has come since an earlier state of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.saturating_sub(*then)).collect();
        Self { bounds: self.bounds, counts, sum: self.sum - earlier.sum }
    }

    /// The bound that this share of the values (0 to 1) does not pass: no closer than the bounds are. `None`: there are no
    /// values; what is above all bounds is told as the last of them.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = (share * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        self.bounds.get(at).or(self.bounds.last()).copied()
    }

    /// In the Prometheus text format.
    pub(super) fn write(&self, name: &str, text: &mut String) {
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            below += count;
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let all = self.count();
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {all}\n{name}_sum {}\n{name}_count {all}", self.sum);
    }
}

/// So many of the values at most, each as likely as the other (Vitter's algorithm R).
#[derive(Clone, Debug)]
pub struct Sample {
    most: usize,
    seen: u64,
    values: Vec<f64>,
    chance: fastrand::Rng,
}

impl Sample {
    /// Empty.
    pub fn new(most: usize, chance: fastrand::Rng) -> Self {
        Self { most, seen: 0, values: Vec::new(), chance }
    }

    /// One more value.
    pub fn add(&mut self, value: f64) {
        self.seen += 1;
        if self.values.len() < self.most {
            self.values.push(value);
        } else if let Some(place) = usize::try_from(self.chance.u64(..self.seen)).ok().filter(|at| *at < self.most) {
            self.values[place] = value;
        }
    }

    /// What it holds; it is empty then.
    pub fn take(&mut self) -> Vec<f64> {
        self.seen = 0;
        std::mem::take(&mut self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_value_once_and_adds_up_in_the_text() {
        let mut spread = Histogram::new(&[0.5, 1.0, 10.0]);
        for value in [0.1, 0.5, 0.6, 7.0, 99.0] {
            spread.add(value);
        }
        let mut text = String::new();
        spread.write("x", &mut text);
        let expected = "x_bucket{le=\"0.5\"} 2\nx_bucket{le=\"1\"} 3\nx_bucket{le=\"10\"} 4\nx_bucket{le=\"+Inf\"} 5\n\
                        x_sum 107.2\nx_count 5\n";
        assert_eq!(text, expected);
        for (share, expected) in [(0.0, 0.5), (0.4, 0.5), (0.5, 1.0), (0.8, 10.0), (1.0, 10.0)] {
            assert_eq!(spread.quantile(share), Some(expected), "{share}");
        }
        let later = {
            let mut later = spread.clone();
            later.add(0.7);
            later
        };
        assert_eq!((later.since(&spread).count(), later.since(&spread).quantile(0.95)), (1, Some(1.0)));
        assert_eq!(Histogram::new(&[1.0]).quantile(0.5), None);
    }

    #[test]
    fn a_sample_is_bounded_and_prefers_neither_the_first_nor_the_last() {
        let mut sample = Sample::new(100, fastrand::Rng::with_seed(7));
        (0..50).for_each(|value| sample.add(f64::from(value)));
        assert_eq!(sample.take().len(), 50);
        let mut first_half = 0;
        for _ in 0..20 {
            (0..10_000).for_each(|value| sample.add(f64::from(value)));
            let taken = sample.take();
            assert_eq!(taken.len(), 100);
            first_half += taken.iter().filter(|value| **value < 5_000.0).count();
        }
        assert!((900..1_100).contains(&first_half), "{first_half} of 2000");
        assert!(sample.take().is_empty());
    }
}
