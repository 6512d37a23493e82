//! Runs steps in parallel. A step starts when its assets are built and a slot is free.

use super::{
    report::{Ended, Outcome, Part},
    step::{Asset, Lane},
};
use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::Instant,
};

/// A step of a run.
pub struct Step<'a> {
    /// Name of the step, for the printed lines.
    pub name: String,
    /// The asset that the step builds.
    pub builds: Option<Asset>,
    /// Assets that must be built first.
    pub needs: Vec<Asset>,
    /// The lane of a step that creates sandboxes on this host. Only one step of a lane runs at a time.
    pub lane: Option<Lane>,
    /// Runs the step.
    pub run: Box<dyn FnOnce() -> Ended + Send + 'a>,
}

#[derive(Default)]
struct StepState<'a> {
    waiting: Vec<Step<'a>>,
    built: BTreeSet<Asset>,
    broken: BTreeSet<Asset>,
    ended: Vec<Ended>,
    occupied: BTreeSet<Lane>,
    deadline: Option<Instant>,
}

/// Runs all steps, `slots` at a time, starting the first ready step in the given order. A step fails if one of its assets could
/// not be built. No step starts after `deadline`.
pub fn run(steps: Vec<Step<'_>>, slots: usize, deadline: Option<Instant>) -> Vec<Ended> {
    let state = Mutex::new(StepState { waiting: steps, deadline, ..StepState::default() });
    let changed = Condvar::new();
    thread::scope(|scope| {
        for _ in 0..slots {
            scope.spawn(|| work(&state, &changed));
        }
    });
    state.into_inner().unwrap_or_else(PoisonError::into_inner).ended
}

fn work(state: &Mutex<StepState<'_>>, changed: &Condvar) {
    loop {
        let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
        let step = loop {
            now.end_unstartable();
            if let Some(step) = now.next() {
                break step;
            }
            if now.waiting.is_empty() {
                changed.notify_all();
                return;
            }
            now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        };
        drop(now);
        let ended = (step.run)();
        let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = step.lane {
            now.occupied.remove(&lane);
        }
        if let Some(asset) = step.builds {
            let set = if ended.outcome == Outcome::Passed { &mut now.built } else { &mut now.broken };
            set.insert(asset);
        }
        now.ended.push(ended);
        changed.notify_all();
    }
}

impl<'a> StepState<'a> {
    /// Removes and returns the first step that may start.
    fn next(&mut self) -> Option<Step<'a>> {
        let built = |step: &Step<'_>| step.needs.iter().all(|asset| self.built.contains(asset));
        let free = |step: &Step<'_>| step.lane.is_none_or(|lane| !self.occupied.contains(&lane));
        let ready = self.waiting.iter().position(|step| built(step) && free(step))?;
        let step = self.waiting.remove(ready);
        self.occupied.extend(step.lane);
        Some(step)
    }

    /// Ends the waiting steps that need an asset that could not be built, and after the deadline all waiting steps.
    fn end_unstartable(&mut self) {
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let hopeless = |step: &Step<'_>, broken: &BTreeSet<Asset>| late || step.needs.iter().any(|asset| broken.contains(asset));
        while let Some(index) = self.waiting.iter().position(|step| hopeless(step, &self.broken)) {
            let step = self.waiting.remove(index);
            self.broken.extend(step.builds);
            let outcome = match late {
                true => Outcome::NotEnded,
                false => Outcome::Failed("not run: a required asset could not be built".to_owned()),
            };
            let (wall, spent) = Default::default();
            self.ended.push(Ended { name: step.name, part: Part::Always, wall, spent, at: wall, count: None, outcome });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn step<'a>(name: &str, builds: Option<Asset>, needs: &[Asset], fails: bool) -> Step<'a> {
        let name = name.to_owned();
        let outcome = if fails { Outcome::Failed("broken".to_owned()) } else { Outcome::Passed };
        let (wall, spent, at) = Default::default();
        let ended = Ended { name: name.clone(), part: Part::Always, wall, spent, at, count: None, outcome };
        Step { name, builds, needs: needs.to_vec(), lane: None, run: Box::new(move || ended) }
    }

    #[test]
    fn step_starts_after_its_assets_and_fails_without_them() {
        let steps = vec![
            step("lab row", None, &[Asset::Programs, Asset::Lab], false),
            step("micro row", None, &[Asset::Microvm], false),
            step("microvm", Some(Asset::Microvm), &[Asset::Programs], true),
            step("lab", Some(Asset::Lab), &[Asset::Programs], false),
            step("programs", Some(Asset::Programs), &[], false),
        ];
        let ended = run(steps, 2, None);
        let place = |name: &str| ended.iter().position(|step| step.name == name).unwrap();
        assert_eq!(ended.len(), 5);
        assert!(place("programs") < place("lab") && place("lab") < place("lab row"));
        assert!(ended[place("micro row")].failure().is_some_and(|why| why.starts_with("not run")));
        assert!(ended[place("lab row")].failure().is_none());
    }

    #[test]
    fn no_step_starts_after_the_deadline() {
        let steps = vec![step("programs", Some(Asset::Programs), &[], false), step("row", None, &[Asset::Programs], false)];
        let ended = run(steps, 2, Some(Instant::now()));
        assert_eq!(ended.iter().map(|step| &step.outcome).collect::<Vec<_>>(), [&Outcome::NotEnded; 2]);
    }

    #[test]
    fn steps_of_a_lane_never_run_together() {
        let (running, max) = (&AtomicUsize::new(0), &AtomicUsize::new(0));
        let in_lane = |number: usize| {
            let step = step(&number.to_string(), None, &[], false);
            let run = move || {
                max.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
                (step.run)()
            };
            Step { lane: Some(Lane::Root), run: Box::new(run), ..step }
        };
        assert_eq!(run((0..100).map(in_lane).collect(), 4, None).len(), 100);
        assert_eq!(max.load(Ordering::SeqCst), 1);
    }
}
