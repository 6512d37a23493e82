//! Property tests of grants: a payload changes random trees at random moments, between resolving, mounting, executing and
//! restarting. A sandbox must never show an object that was not granted. As root, bind mounts change as well.
//!
//! Thousands of cases resolve a path and open it again; some hundred create a sandbox, with every backend.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/payload.rs"]
mod payload;
#[path = "support/mod.rs"]
mod support;

use agentd::isolation::{
    Access, Grant, Sandbox, SandboxSpec, Writable,
    grants::{Guard, Links, find},
};
use agentd_kernel::object;
use libtest_mimic::{Arguments, Failed, Trial};
use payload::{Home, KEY, Step, name, own_mounts, secret_mount, steps};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use std::{os::fd::AsFd, path::PathBuf, sync::Arc};
use support::{backend, layers, script};

/// The number of cases without a sandbox.
const CASES: u32 = 2000;

fn main() {
    support::machine::take_role();
    agentd::isolation::take_role();
    own_mounts();
    support::machine::register();
    let arguments = Arguments::from_args();
    let mut trials = vec![
        property("object_reopened_after_changes_is_the_resolved_object", CASES, changed_between),
        property("object_resolved_during_changes_is_not_a_secret", CASES / 4, changed_meanwhile),
    ];
    // A backend without a boundary has no grants.
    trials.extend(
        support::backends().into_iter().filter(|name| *name != "host-direct").map(|name| {
            property(&format!("{name}::sandbox_shows_only_granted_objects"), sandboxes(name), sandboxes_within(name))
        }),
    );
    libtest_mimic::run(&arguments, trials).exit();
}

/// The maximum number of created machines. Most cases fail before a machine starts.
const MACHINES: u32 = 2;

/// Returns the number of cases that request a sandbox of a backend.
fn sandboxes(name: &str) -> u32 {
    match name {
        "linux-native" | "container" => 60,
        layers::NAME => 16,
        _ => 60,
    }
}

/// Returns a check that looks for secrets in sandboxes of a backend, until enough sandboxes have been created.
fn sandboxes_within(name: &'static str) -> impl Fn(Case) -> bool + Send {
    let max = if ["linux-native", "container", layers::NAME].contains(&name) { u32::MAX } else { MACHINES };
    let made = std::cell::Cell::new(0);
    move |case| {
        let granted = made.get() < max && shown(name, case);
        made.set(made.get() + u32::from(granted));
        granted
    }
}

/// One case: changes before and after the grants are resolved, and the requested grants.
#[derive(Debug, Clone)]
struct Case {
    before: Vec<Step>,
    after: Vec<Step>,
    /// A mount of the secret over a path after it was resolved, by root on the host.
    secret_mount: Step,
    wanted: Vec<(PathBuf, bool)>,
    follow: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let wanted = prop::collection::vec((name(), any::<bool>()), 1..3);
    (steps(), steps(), secret_mount(), wanted, any::<bool>()).prop_map(|(before, after, secret_mount, wanted, follow)| Case {
        before,
        after,
        secret_mount,
        wanted,
        follow,
    })
}

/// The number of times that a property is checked again with as many cases, until a case has been granted and one has been
/// refused. Cases are random, so a few of them may all have the same outcome.
const MORE: u32 = 20;

fn property(name: &str, cases: u32, check: impl Fn(Case) -> bool + Send + 'static) -> Trial {
    Trial::test(name, move || {
        // Results depend on timing, so shrinking a failing case is useless.
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let (granted, refused) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        for _ in 0..=MORE {
            let run = TestRunner::new(config.clone()).run(&case(), |case| {
                let outcome = if check(case) { &granted } else { &refused };
                outcome.set(outcome.get() + 1);
                Ok(())
            });
            run.map_err(|error| Failed::from(error.to_string()))?;
            if granted.get() > 0 && refused.get() > 0 {
                return Ok(());
            }
        }
        // A version that refuses everything, or one that refuses nothing, does not pass.
        Err(Failed::from(format!("{} cases granted, {} refused", granted.get(), refused.get())))
    })
}

/// Resolves paths, changes the tree, and opens the objects again; returns whether an object still existed.
fn changed_between(case: Case) -> bool {
    let home = Home::in_memory(&case.before);
    let guard = Guard::for_home(Some(home.path().as_os_str()));
    let links = if case.follow { Links::Follow } else { Links::Refuse };
    let found: Vec<_> = case.wanted.iter().filter_map(|(name, _)| find(&home.project().join(name), &guard, links).ok()).collect();
    let granted: Vec<_> = found.into_iter().filter(|found| guard.refusal(&found.path).is_none()).collect();
    assert!(case.follow || granted.iter().all(|found| !found.linked));
    let mut again = false;
    for step in [None].into_iter().chain(case.after.iter().chain([&case.secret_mount]).map(Some)) {
        step.inspect(|step| home.apply(step));
        for found in &granted {
            let Ok(opened) = object::reopen(&found.path, &found.object) else { continue };
            assert!(object::id(opened.as_fd()).unwrap().is_same(&found.object));
            assert!(!home.is_secret(&opened), "{} after {step:?}", found.path.display());
            again = true;
        }
    }
    again
}

/// Resolves and opens paths while another thread changes the tree.
fn changed_meanwhile(case: Case) -> bool {
    let home = Home::in_memory(&case.before);
    let guard = Guard::for_home(Some(home.path().as_os_str()));
    let links = if case.follow { Links::Follow } else { Links::Refuse };
    home.while_changed(&case.after, || {
        let mut again = false;
        for (name, _) in case.wanted.iter().cycle().take(16) {
            let Ok(found) = find(&home.project().join(name), &guard, links) else { continue };
            if guard.refusal(&found.path).is_some() {
                continue;
            }
            let Ok(opened) = object::reopen(&found.path, &found.object) else { continue };
            assert!(!home.is_secret(&opened), "{}", found.path.display());
            assert!(object::id(opened.as_fd()).unwrap().is_same(&found.object), "{}", found.path.display());
            again = true;
        }
        again
    })
}

/// Creates a sandbox, looks for secrets in it, and restarts it if possible, while another thread changes the tree. Returns
/// whether the sandbox showed its grants.
fn shown(name: &'static str, case: Case) -> bool {
    let home = Home::new(&case.before);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    home.while_changed(&case.after, || runtime.block_on(look(name, &case, &home)))
}

async fn look(name: &'static str, case: &Case, home: &Home) -> bool {
    let grants = case
        .wanted
        .iter()
        .map(|(name, write)| Grant::new(home.project().join(name), if *write { Access::ReadWrite } else { Access::ReadOnly }));
    let writable = if name == layers::NAME { Writable::TemporaryLayers } else { Writable::Memory };
    let spec = SandboxSpec { grants: grants.collect(), writable, ..SandboxSpec::default() };
    let Ok(sandbox) = backend(name).create_sandbox(spec).await else { return false };
    let mut shown = look_inside(&sandbox, case, home).await;
    if name == layers::NAME && sandbox.snapshot("again").await.is_ok() {
        // The snapshot ended its processes, so the next exec restarts the sandbox.
        shown |= look_inside(&sandbox, case, home).await;
    }
    sandbox.destroy().await.unwrap();
    assert!(home.is_whole());
    shown
}

/// Reads all files, and creates a file in every directory. Returns whether all grants are shown.
async fn look_inside(sandbox: &Arc<dyn Sandbox>, case: &Case, home: &Home) -> bool {
    let place = home.path().display();
    let granted: Vec<_> = case.wanted.iter().map(|(name, _)| home.project().join(name).display().to_string()).collect();
    let text = format!(
        "for path in {}; do test -e $path || exit 1; done; grep -Rs '{KEY}' {place}
        find -L {place} -type d -exec touch '{{}}/planted' ';' 2>/dev/null; exit 0",
        granted.join(" ")
    );
    // The restart may be refused because of the changes.
    let Ok(outcome) = sandbox.exec(script(&text)).await else { return false };
    assert!(!support::out(&outcome).contains(KEY), "{outcome:?}");
    outcome.exit_code == Some(0)
}
