//! Comparisons of contenders whose figures the test writes down beforehand.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Result, bail};

use super::{Alternation, Contender, Measured, Witness, alternate, median};
use crate::{Placement, Recorder, Unit};

/// Hands out its figures one by one and notes its turn.
struct Scripted {
    name: &'static str,
    figures: Vec<f64>,
    turns: Rc<RefCell<String>>,
}

impl Contender for Scripted {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn measure(&mut self) -> Result<Measured> {
        self.turns.borrow_mut().push_str(self.name);
        if self.figures.is_empty() {
            bail!("{} has no figure left", self.name);
        }
        let mut recorder = Recorder::new(1);
        recorder.record_ns(self.figures.remove(0) as u64);
        Ok(Measured::latency(recorder))
    }
}

fn contenders(ours: &[f64], limit: &[f64]) -> (Scripted, Scripted, Rc<RefCell<String>>) {
    let turns = Rc::new(RefCell::new(String::new()));
    let side = |name, figures: &[f64]| Scripted { name, figures: figures.to_vec(), turns: turns.clone() };
    (side("A", ours), side("B", limit), turns)
}

/// Tells the placements of its script, then none; turns are disturbed by their number.
#[derive(Default)]
struct ScriptedWitness {
    placements: Vec<Placement>,
    turn: u32,
    disturbed_turns: Vec<u32>,
}

impl Witness for ScriptedWitness {
    fn placement(&mut self) -> Result<Option<Placement>> {
        Ok((!self.placements.is_empty()).then(|| self.placements.remove(0)))
    }

    fn turn_begins(&mut self) -> Result<()> {
        self.turn += 1;
        Ok(())
    }

    fn turn_was_disturbed(&mut self) -> Result<bool> {
        Ok(self.disturbed_turns.contains(&self.turn))
    }
}

fn undisturbed() -> ScriptedWitness {
    ScriptedWitness::default()
}

const THREE: Alternation = Alternation { pairs: 3, tries_max: 6, keep_disturbed: false };

// proves: F4
#[test]
fn sides_take_turns_and_the_ratio_is_the_median_of_the_pairs_ratios() {
    let (mut ours, mut limit, turns) = contenders(&[200.0, 800.0, 90.0], &[100.0, 200.0, 90.0]);
    let comparison = alternate(THREE, Some(&mut ours), Some(&mut limit), &mut undisturbed()).unwrap();
    assert_eq!(*turns.borrow(), "ABABAB");
    // The ratios are 2, 4 and 1. The ratio of the medians (200/100) would be 2 too, so check the spread as
    // well.
    assert_eq!(comparison.ratio(None), Some(2.0));
    assert_eq!(comparison.ratio_spread(), Some((1.0, 4.0)));
    assert_eq!(comparison.ours_latency.unwrap().count, 3);
    assert_eq!(comparison.placements(), "");
}

#[test]
fn ratio_within_pairs_ignores_a_drift_that_hits_both_sides() {
    let (mut ours, mut limit, _) = contenders(&[110.0, 11_000.0, 1_100.0], &[100.0, 10_000.0, 1_000.0]);
    let comparison = alternate(THREE, Some(&mut ours), Some(&mut limit), &mut undisturbed()).unwrap();
    let (low, high) = comparison.ratio_spread().unwrap();
    assert!(low > 1.09 && high < 1.11, "{low} {high}");
}

#[test]
fn a_pair_whose_placement_changed_is_dropped_and_measured_again() {
    use Placement::{Disturbed, Far, Near};
    let (mut ours, mut limit, _) = contenders(&[1.0, 2.0, 3.0, 4.0, 5.0], &[1.0; 5]);
    let placements = vec![
        Near, Near, Near, // kept
        Near, Far, Far, // changed between the sides
        Disturbed, Disturbed, Disturbed, // nobody can tell
        Far, Far, Far, // kept
        Near, Near, Near, // kept
    ];
    let mut witness = ScriptedWitness { placements, ..undisturbed() };
    let comparison = alternate(THREE, Some(&mut ours), Some(&mut limit), &mut witness).unwrap();
    assert_eq!(comparison.pairs_dropped, 2);
    assert_eq!(comparison.pairs.iter().filter_map(|pair| pair.ours).collect::<Vec<_>>(), [1.0, 4.0, 5.0]);
    assert_eq!(comparison.placements(), "2 near, 1 far, 2 dropped");
    assert_eq!(comparison.ours(Some(Far)), Some(4.0));
    assert_eq!(comparison.ours(Some(Near)), Some(3.0));
}

#[test]
fn a_pair_beside_which_others_ran_is_dropped() {
    let (mut ours, mut limit, _) = contenders(&[1.0, 2.0, 3.0, 4.0, 5.0], &[1.0; 5]);
    // Turns 1 and 2 are the first pair, 3 and 4 the second: once the limit's turn is hit, once ours.
    let mut witness = ScriptedWitness { disturbed_turns: vec![2, 3], ..undisturbed() };
    let comparison = alternate(THREE, Some(&mut ours), Some(&mut limit), &mut witness).unwrap();
    assert_eq!(comparison.pairs.iter().filter_map(|pair| pair.ours).collect::<Vec<_>>(), [3.0, 4.0, 5.0]);
    assert_eq!(comparison.pairs_dropped, 2);
}

#[test]
fn disturbed_pairs_that_are_kept_on_demand_are_marked() {
    let (mut ours, mut limit, _) = contenders(&[1.0, 2.0, 3.0], &[1.0; 3]);
    let placements = vec![Placement::Near; 9];
    let mut witness = ScriptedWitness { placements, disturbed_turns: vec![4], ..undisturbed() };
    let busy = Alternation { keep_disturbed: true, ..THREE };
    let comparison = alternate(busy, Some(&mut ours), Some(&mut limit), &mut witness).unwrap();
    assert_eq!(comparison.placements(), "2 near, 1 disturbed");
    assert_eq!((comparison.pairs.len(), comparison.pairs_dropped), (3, 0));
}

#[test]
fn a_machine_that_never_settles_ends_with_no_pair_instead_of_a_guess() {
    let (mut ours, mut limit, _) = contenders(&[1.0; 6], &[1.0; 6]);
    let placements = vec![Placement::Disturbed; 18];
    let mut witness = ScriptedWitness { placements, ..undisturbed() };
    let comparison = alternate(THREE, Some(&mut ours), Some(&mut limit), &mut witness).unwrap();
    assert_eq!((comparison.pairs.len(), comparison.pairs_dropped), (0, 6));
    assert_eq!(comparison.ratio(None), None);
}

#[test]
fn a_contender_that_fails_fails_the_comparison() {
    let (mut ours, mut limit, _) = contenders(&[1.0], &[]);
    let refused = alternate(THREE, Some(&mut ours), Some(&mut limit), &mut undisturbed()).unwrap_err();
    assert_eq!(refused.to_string(), "B has no figure left");
}

#[test]
fn a_figure_without_a_limit_is_measured_alone() {
    let (mut ours, _, turns) = contenders(&[3.0, 1.0, 2.0], &[]);
    let comparison = alternate(THREE, Some(&mut ours), None, &mut undisturbed()).unwrap();
    assert_eq!(*turns.borrow(), "AAA");
    assert_eq!((comparison.ours(None), comparison.limit(None)), (Some(2.0), None));
    assert_eq!(comparison.unit, Unit::Nanoseconds);
}

#[test]
fn a_limit_alone_is_measured_for_orientation() {
    let (_, mut limit, turns) = contenders(&[], &[5.0, 6.0, 7.0]);
    let comparison = alternate(THREE, None, Some(&mut limit), &mut undisturbed()).unwrap();
    assert_eq!(*turns.borrow(), "BBB");
    assert_eq!(
        (comparison.ours(None), comparison.limit(None), comparison.ratio(None)),
        (None, Some(6.0), None)
    );
}

#[test]
fn median_of_an_even_number_is_the_mean_of_the_middle_two() {
    assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
    assert_eq!(median(vec![]), None);
}
