//! Latency goes into an HDR histogram, and comes out as a summary, a `.hgrm` text or a curve.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError};
use serde::{Deserialize, Serialize};

/// The longest latency that keeps its value; anything longer is recorded as this (one minute).
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Decimal digits that a recorded value keeps.
const SIGNIFICANT_DIGITS: u8 = 3;
/// Steps per halving of the distance to 100 % in `.hgrm` texts and curves.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Latencies of one measurement, in nanoseconds. All memory is taken at construction: recording never
/// allocates.
#[derive(Debug, Clone)]
pub struct Recorder {
    histogram: Histogram<u64>,
    operations_per_sample: u32,
}

impl Recorder {
    /// An empty recorder whose samples are each the mean of `operations_per_sample` operations (1: no
    /// averaging).
    pub fn new(operations_per_sample: u32) -> Self {
        assert!(operations_per_sample > 0, "a sample covers at least one operation");
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that HDR histograms accept");
        Self { histogram, operations_per_sample }
    }

    /// Adds one sample: the time that one operation took (or the mean of a batch), in nanoseconds.
    pub fn record_ns(&mut self, latency_ns: u64) {
        self.histogram.saturating_record(latency_ns.max(1));
    }

    /// Adds so many samples of the same time, for example out of the report of another program.
    pub fn record_many_ns(&mut self, latency_ns: u64, samples: u64) {
        self.histogram.saturating_record_n(latency_ns.max(1), samples);
    }

    /// Adds the time that a whole batch took; the sample is its mean per operation, rounded to a nanosecond.
    pub fn record_batch_ns(&mut self, batch_ns: u64) {
        let operations = u64::from(self.operations_per_sample);
        self.record_ns((batch_ns + operations / 2) / operations);
    }

    /// Forgets every sample, keeps the memory. Called at the end of a warm-up.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }

    /// Samples so far (not operations).
    pub fn samples(&self) -> u64 {
        self.histogram.len()
    }

    /// Adds the samples of another recorder of the same batch size, for example of another run.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(
            self.operations_per_sample, other.operations_per_sample,
            "samples of different batch sizes are not alike"
        );
        self.histogram.add(&other.histogram).expect("both histograms have the same constant bounds");
    }

    /// The same samples, half of each: one way of there and back. A sample then covers twice the operations.
    #[must_use]
    pub fn halved(&self) -> Self {
        let mut half = Self::new(self.operations_per_sample * 2);
        for step in self.histogram.iter_recorded() {
            let (value, count) = (step.value_iterated_to() / 2, step.count_since_last_iteration());
            half.histogram.saturating_record_n(value.max(1), count);
        }
        half
    }

    /// The quantiles that reports carry. All zero if nothing was recorded.
    pub fn summary(&self) -> Summary {
        let quantile = |q| self.histogram.value_at_quantile(q);
        let empty = self.histogram.is_empty();
        Summary {
            count: self.histogram.len(),
            operations_per_sample: self.operations_per_sample,
            min_ns: if empty { 0 } else { self.histogram.min() },
            p50_ns: quantile(0.5),
            p90_ns: quantile(0.9),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            p9999_ns: quantile(0.9999),
            max_ns: self.histogram.max(),
            mean_ns: if empty { 0.0 } else { self.histogram.mean() },
        }
    }

    /// Points of the percentile curve: (quantile in `0..1`, latency in nanoseconds), ascending.
    pub fn curve(&self) -> Vec<(f64, u64)> {
        self.histogram
            .iter_quantiles(TICKS_PER_HALF_DISTANCE)
            .map(|step| (step.quantile_iterated_to(), step.value_iterated_to()))
            .collect()
    }

    /// Writes the percentile distribution as `.hgrm` text, which HdrHistogram's own plotters read. Values are
    /// in µs.
    ///
    /// # Errors
    /// Whatever the writer refuses with.
    pub fn write_hgrm(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{:>12} {:>14} {:>10} {:>14}\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        )?;
        let mut total = 0;
        for step in self.histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
            total += step.count_since_last_iteration();
            let value_us = step.value_iterated_to() as f64 / 1e3;
            let quantile = step.quantile_iterated_to();
            if quantile < 1.0 {
                writeln!(
                    out,
                    "{value_us:>12.3} {quantile:>14.12} {total:>10} {:>14.2}",
                    1.0 / (1.0 - quantile)
                )?;
            } else {
                writeln!(out, "{value_us:>12.3} {quantile:>14.12} {total:>10} {:>14}", "inf")?;
            }
        }
        let (mean_us, deviation_us) = (self.histogram.mean() / 1e3, self.histogram.stdev() / 1e3);
        writeln!(out, "#[Mean    = {mean_us:>12.3}, StdDeviation   = {deviation_us:>12.3}]")?;
        let (max_us, count) = (self.histogram.max() as f64 / 1e3, self.histogram.len());
        writeln!(out, "#[Max     = {max_us:>12.3}, Total count    = {count:>12}]")
    }

    /// Writes all samples as one interval of a log in HdrHistogram's V2 format (compressed, base64), which
    /// its own tools read. Values are in ns. `began` is when the run did, `lasted` how long it took.
    ///
    /// # Errors
    /// Whatever the writer refuses with.
    pub fn write_log(&self, out: &mut dyn Write, began: SystemTime, lasted: Duration) -> io::Result<()> {
        let mut serializer = V2DeflateSerializer::new();
        let mut out = out;
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("latencies in nanoseconds")
            .with_start_time(began)
            .begin_log_with(&mut out, &mut serializer)?;
        log.write_histogram(&self.histogram, Duration::ZERO, lasted, None).map_err(|error| match error {
            IntervalLogWriterError::IoError(error) => error,
            IntervalLogWriterError::SerializeError(error) => io::Error::other(format!("{error:?}")),
        })
    }
}

/// Quantiles of one measurement, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Samples recorded.
    pub count: u64,
    /// Operations averaged into each sample; above 1, p99 and max speak of batches, not of single operations.
    pub operations_per_sample: u32,
    /// Smallest sample.
    pub min_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 90 % of samples are at or below.
    pub p90_ns: u64,
    /// 99 % of samples are at or below.
    pub p99_ns: u64,
    /// 99.9 % of samples are at or below.
    pub p999_ns: u64,
    /// 99.99 % of samples are at or below.
    pub p9999_ns: u64,
    /// Largest sample.
    pub max_ns: u64,
    /// Arithmetic mean; kept for completeness, p50 is what comparisons use.
    pub mean_ns: f64,
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use hdrhistogram::Histogram;

    use super::{LATENCY_NS_MAX, Recorder};

    #[test]
    fn summary_gives_the_quantiles_of_what_was_recorded() {
        let mut recorder = Recorder::new(1);
        for latency_ns in 1..=1_000 {
            recorder.record_ns(latency_ns * 1_000);
        }
        let summary = recorder.summary();
        let near = |value: u64, wanted: u64| (value as f64 / wanted as f64 - 1.0).abs() < 0.002;
        assert_eq!(summary.count, 1_000);
        assert_eq!(summary.min_ns, 1_000);
        assert!(near(summary.p50_ns, 500_000), "{summary:?}");
        assert!(near(summary.p99_ns, 990_000), "{summary:?}");
        assert!(near(summary.p999_ns, 999_000), "{summary:?}");
        assert!(near(summary.p9999_ns, 1_000_000), "{summary:?}");
        assert!(near(summary.max_ns, 1_000_000), "{summary:?}");
    }

    #[test]
    fn halves_of_round_trips_say_that_a_sample_covers_two_ways() {
        let mut recorder = Recorder::new(1);
        (1..=100).for_each(|us| recorder.record_ns(us * 2_000));
        let half = recorder.halved().summary();
        assert_eq!((half.count, half.operations_per_sample), (100, 2));
        assert!((49_900..=50_200).contains(&half.p50_ns), "{half:?}");
    }

    #[test]
    fn an_empty_recorder_summarises_to_zeros() {
        let summary = Recorder::new(1).summary();
        assert_eq!((summary.count, summary.min_ns, summary.p50_ns, summary.max_ns), (0, 0, 0, 0));
    }

    #[test]
    fn a_batch_is_recorded_as_its_rounded_mean() {
        let mut recorder = Recorder::new(16);
        recorder.record_batch_ns(16 * 100 + 9);
        assert_eq!(recorder.summary().p50_ns, 101);
    }

    #[test]
    fn a_latency_beyond_the_range_is_kept_as_the_largest_instead_of_lost() {
        let mut recorder = Recorder::new(1);
        recorder.record_ns(LATENCY_NS_MAX * 10);
        assert_eq!(recorder.samples(), 1);
        assert!(recorder.summary().max_ns >= LATENCY_NS_MAX);
    }

    // proves: F4
    #[test]
    fn a_log_is_read_back_by_the_formats_own_reader() {
        use hdrhistogram::serialization::Deserializer;
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
        let mut recorder = Recorder::new(1);
        (1..=100).for_each(|us| recorder.record_ns(us * 1_000));
        let mut log = Vec::new();
        recorder.write_log(&mut log, SystemTime::UNIX_EPOCH, Duration::from_secs(2)).unwrap();
        let entries: Vec<_> = IntervalLogIterator::new(&log).map(Result::unwrap).collect();
        let interval = entries.iter().find_map(|entry| match entry {
            LogEntry::Interval(interval) => Some(interval),
            _ => None,
        });
        let text = interval.unwrap().encoded_histogram();
        let bytes = base64(text);
        let read: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        assert_eq!(
            (read.len(), read.min(), interval.unwrap().duration()),
            (100, 1_000, Duration::from_secs(2))
        );
    }

    /// Bytes of a text in base64.
    fn base64(text: &str) -> Vec<u8> {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits = text.bytes().filter_map(|byte| alphabet.iter().position(|digit| *digit == byte));
        let (mut bits, mut have, mut bytes) = (0_u32, 0, Vec::new());
        for digit in digits {
            bits = bits << 6 | digit as u32;
            have += 6;
            if have >= 8 {
                have -= 8;
                bytes.push((bits >> have) as u8);
            }
        }
        bytes
    }

    #[test]
    fn hgrm_text_ends_with_all_samples_counted() {
        let mut recorder = Recorder::new(1);
        (1..=100).for_each(|us| recorder.record_ns(us * 1_000));
        let mut text = Vec::new();
        recorder.write_hgrm(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let last_row = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let columns: Vec<_> = last_row.split_whitespace().collect();
        assert_eq!(columns[1..], ["1.000000000000", "100", "inf"], "{text}");
    }
}
