//! Runs steps in parallel. A step starts when its assets are built and a slot is free.

use super::{report::Ended, step::Asset};
use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

/// A step of a run.
pub struct Step<'a> {
    /// Name of the step, for the printed lines.
    pub name: String,
    /// The asset that the step builds.
    pub builds: Option<Asset>,
    /// Assets that must be built first.
    pub needs: Vec<Asset>,
    /// True if the step creates sandboxes on this host. Only one such step runs at a time, because suites compare inventories
    /// of the whole host.
    pub exclusive: bool,
    /// Runs the step.
    pub run: Box<dyn FnOnce() -> Ended + Send + 'a>,
}

#[derive(Default)]
struct StepState<'a> {
    waiting: Vec<Step<'a>>,
    built: BTreeSet<Asset>,
    broken: BTreeSet<Asset>,
    ended: Vec<Ended>,
    occupied: bool,
}

/// Runs all steps, `slots` at a time, starting the first ready step in the given order. A step fails if one of its assets could
/// not be built.
pub fn run(steps: Vec<Step<'_>>, slots: usize) -> Vec<Ended> {
    let state = Mutex::new(StepState { waiting: steps, ..StepState::default() });
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
            now.fail_hopeless();
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
        now.occupied &= !step.exclusive;
        if let Some(asset) = step.builds {
            let set = if ended.failure.is_none() { &mut now.built } else { &mut now.broken };
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
        let ready = self.waiting.iter().position(|step| built(step) && !(step.exclusive && self.occupied))?;
        let step = self.waiting.remove(ready);
        self.occupied |= step.exclusive;
        Some(step)
    }

    /// Ends the waiting steps that need an asset that could not be built.
    fn fail_hopeless(&mut self) {
        while let Some(index) = self.waiting.iter().position(|step| step.needs.iter().any(|asset| self.broken.contains(asset))) {
            let step = self.waiting.remove(index);
            self.broken.extend(step.builds);
            let failure = Some("not run: a required asset could not be built".to_owned());
            let (wall, spent) = Default::default();
            self.ended.push(Ended { name: step.name, rotating: false, wall, spent, count: None, failure });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn step<'a>(name: &str, builds: Option<Asset>, needs: &[Asset], fails: bool) -> Step<'a> {
        let name = name.to_owned();
        let failure = fails.then(|| "broken".to_owned());
        let ended =
            Ended { name: name.clone(), rotating: false, wall: Duration::ZERO, spent: Duration::ZERO, count: None, failure };
        Step { name, builds, needs: needs.to_vec(), exclusive: false, run: Box::new(move || ended) }
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
        let ended = run(steps, 2);
        let place = |name: &str| ended.iter().position(|step| step.name == name).unwrap();
        assert_eq!(ended.len(), 5);
        assert!(place("programs") < place("lab") && place("lab") < place("lab row"));
        assert!(ended[place("micro row")].failure.as_ref().is_some_and(|why| why.starts_with("not run")));
        assert!(ended[place("lab row")].failure.is_none());
    }
}
