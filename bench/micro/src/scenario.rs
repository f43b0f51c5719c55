//! One line of the table: two sides, a goal, and how the turns are run.

use std::borrow::Cow;

use anyhow::Result;
use bench_harness::{Alternation, Contender, Goal, Row, Unit, Verdict, Witness, alternate};

use crate::bystander::Bystander;
use crate::peers::Tool;
use crate::settings::Settings;

/// What is measured, against what, and what it has to reach.
pub(crate) struct Scenario {
    /// Short, stable, unique; `--only` looks into it and the JSON carries it.
    pub(crate) id: Cow<'static, str>,
    /// In words.
    pub(crate) title: Cow<'static, str>,
    /// What both sides count.
    pub(crate) unit: Unit,
    /// The bar.
    pub(crate) goal: Goal,
    /// Programs of others without which the scenario is skipped, loudly.
    pub(crate) needs: Vec<Tool>,
    /// Why it cannot be measured at all: the peer does not do this. It is skipped, as loudly.
    pub(crate) unfit: Option<String>,
    /// netdisk's side; `None` if the scenario only shows a limit of the machine.
    pub(crate) ours: Option<Box<dyn Contender>>,
    /// The limit or the peer; `None` if the goal is an absolute figure.
    pub(crate) limit: Option<Box<dyn Contender>>,
}

impl Scenario {
    /// Runs all turns. Whatever goes wrong ends in the row's verdict, so that the next scenario still runs.
    pub(crate) fn run(self, settings: &Settings) -> Row {
        let pairs = settings.alternation.pairs;
        let mut bystander = Bystander::watching(settings.cores, &self.id, pairs);
        self.run_beside(settings.alternation, &mut bystander)
    }

    /// The same, with a witness of the caller's.
    pub(crate) fn run_beside(mut self, alternation: Alternation, witness: &mut dyn Witness) -> Row {
        if let Some(why) = self.unfit.take().or_else(|| self.needs.iter().find_map(Tool::missing)) {
            return self.without_figures(Verdict::Skipped { why });
        }
        match self.measure(alternation, witness) {
            Ok(row) => row,
            Err(error) => self.without_figures(Verdict::Failed { why: format!("{error:#}") }),
        }
    }

    fn measure(&mut self, alternation: Alternation, witness: &mut dyn Witness) -> Result<Row> {
        let name =
            |side: &Option<Box<dyn Contender>>| side.as_ref().map(|side| side.name()).unwrap_or_default();
        let names = (name(&self.ours), name(&self.limit));
        let [ours, limit] = [&mut self.ours, &mut self.limit]
            .map(|side| side.as_mut().map(|side| side.as_mut() as &mut dyn Contender));
        let comparison = alternate(alternation, ours, limit, witness)?;
        Ok(Row::measured(&self.id, &self.title, self.goal, names, comparison))
    }

    fn without_figures(&self, verdict: Verdict) -> Row {
        Row::without_figures(&self.id, &self.title, self.goal, self.unit, verdict)
    }
}
